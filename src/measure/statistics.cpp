#include "measure/statistics.h"

#include <algorithm>
#include <cmath>

namespace skiff {

Estimate mean_of(std::span<const double> values) {
    Estimate result;
    if (values.empty()) return result;
    const auto n = static_cast<double>(values.size());
    double sum = 0;
    for (double value : values) sum += value;
    result.value = sum / n;
    if (values.size() < 2) return result;
    double squares = 0;
    for (double value : values) squares += (value - result.value) * (value - result.value);
    result.stderr_ = std::sqrt(squares / (n - 1) / n);
    return result;
}

Estimate share_of_hits(std::int64_t hits, std::int64_t n) {
    Estimate result;
    if (n <= 0) return result;
    result.value = static_cast<double>(hits) / static_cast<double>(n);
    if (n > 1) result.stderr_ = std::sqrt(result.value * (1 - result.value) / static_cast<double>(n - 1));
    return result;
}

Estimate exp_of(const Estimate& logarithm) {
    const double value = std::exp(logarithm.value);
    return {value, value * logarithm.stderr_};
}

// Hill (1970), from the quantile of the normal distribution; the first two in closed form.
double interval_95(std::int64_t n) {
    if (n < 2) return 0;
    if (n == 2) return 12.706204736174698;
    if (n == 3) return 4.302652729749462;
    const double z = 1.959963984540054, z2 = z * z, v = static_cast<double>(n - 1);
    const double g1 = z * (z2 + 1) / 4, g2 = z * ((5 * z2 + 16) * z2 + 3) / 96, g3 = z * (((3 * z2 + 19) * z2 + 17) * z2 - 15) / 384,
                 g4 = z * ((((79 * z2 + 776) * z2 + 1482) * z2 - 1920) * z2 - 945) / 92160;
    return z + (g1 + (g2 + (g3 + g4 / v) / v) / v) / v;
}

double quantile(std::vector<double> values, double q) {
    if (values.empty()) return 0;
    std::sort(values.begin(), values.end());
    const double at = std::clamp(q, 0.0, 1.0) * static_cast<double>(values.size() - 1);
    const auto below = static_cast<std::size_t>(at);
    const std::size_t above = std::min(below + 1, values.size() - 1);
    return values[below] + (at - static_cast<double>(below)) * (values[above] - values[below]);
}

}  // namespace skiff
