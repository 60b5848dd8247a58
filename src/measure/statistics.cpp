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

double quantile(std::vector<double> values, double q) {
    if (values.empty()) return 0;
    std::sort(values.begin(), values.end());
    const double at = std::clamp(q, 0.0, 1.0) * static_cast<double>(values.size() - 1);
    const auto below = static_cast<std::size_t>(at);
    const std::size_t above = std::min(below + 1, values.size() - 1);
    return values[below] + (at - static_cast<double>(below)) * (values[above] - values[below]);
}

}  // namespace skiff
