#include "measure/soft_labels.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace skiff {

std::vector<double> softened(std::span<const float> logits, double temperature) {
    const double highest = *std::max_element(logits.begin(), logits.end());
    std::vector<double> probabilities(logits.size());
    double sum = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) sum += probabilities[i] = std::exp((static_cast<double>(logits[i]) - highest) / temperature);
    for (double& p : probabilities) p /= sum;
    return probabilities;
}

double entropy_of(std::span<const double> probabilities) {
    double entropy = 0;
    for (const double p : probabilities)
        if (p > 0) entropy -= p * std::log(p);
    return entropy;
}

std::vector<LikelyToken> likeliest(std::span<const double> probabilities, std::int64_t n) {
    std::vector<std::int32_t> order(probabilities.size());
    std::iota(order.begin(), order.end(), 0);
    const auto kept = static_cast<std::ptrdiff_t>(std::min<std::size_t>(static_cast<std::size_t>(n), order.size()));
    std::partial_sort(order.begin(), order.begin() + kept, order.end(), [&](std::int32_t a, std::int32_t b) {
        const double p = probabilities[static_cast<std::size_t>(a)], q = probabilities[static_cast<std::size_t>(b)];
        return p != q ? p > q : a < b;
    });
    std::vector<LikelyToken> tokens;
    for (std::ptrdiff_t i = 0; i < kept; ++i) tokens.push_back({order[static_cast<std::size_t>(i)], probabilities[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])]});
    return tokens;
}

}  // namespace skiff
