#include "compress/quantize/second_moments.h"

#include <algorithm>
#include <numeric>

#include "compress/algebra/algebra.h"

namespace skiff {
namespace {

constexpr double most_damping = 1;

double mean_of_diagonal(const InputStatistics& inputs) {
    const std::size_t n = inputs.mean_square.size();
    double sum = 0;
    for (std::size_t i = 0; i < n; ++i) sum += static_cast<double>(inputs.gram[i * n + i]);
    return sum / static_cast<double>(n);
}

}  // namespace

SecondMoments second_moments(const InputStatistics& inputs, double damping) {
    const std::size_t n = inputs.mean_square.size();
    SecondMoments moments{inputs.gram.data(), static_cast<std::int64_t>(n), static_cast<float>(damping * mean_of_diagonal(inputs)), {}};
    for (std::size_t i = 0; i < n; ++i) moments.diagonal.push_back(inputs.gram[i * n + i] + moments.added);
    return moments;
}

std::optional<Feedback> make_feedback(const InputStatistics& inputs, const Scheme& scheme, const MethodOptions& options) {
    const std::size_t n = inputs.mean_square.size();
    Feedback feedback;
    feedback.order.resize(n);
    std::iota(feedback.order.begin(), feedback.order.end(), 0);
    const auto diagonal = [&](std::int64_t column) { return inputs.gram[static_cast<std::size_t>(column) * n + static_cast<std::size_t>(column)]; };
    if (options.order != MethodOptions::Order::as_stored)
        std::stable_sort(feedback.order.begin(), feedback.order.end(), [&](std::int64_t a, std::int64_t b) { return diagonal(a) > diagonal(b); });
    if (options.order == MethodOptions::Order::by_groups && scheme.group_size > 0) {
        std::vector<double> sums(static_cast<std::size_t>(scheme.n_groups(static_cast<std::int64_t>(n))));
        for (std::int64_t column = 0; column < static_cast<std::int64_t>(n); ++column) sums[static_cast<std::size_t>(scheme.group_of(column))] += static_cast<double>(diagonal(column));
        std::stable_sort(feedback.order.begin(), feedback.order.end(), [&](std::int64_t a, std::int64_t b) {
            const std::int64_t group_a = scheme.group_of(a), group_b = scheme.group_of(b);
            const double sum_a = sums[static_cast<std::size_t>(group_a)], sum_b = sums[static_cast<std::size_t>(group_b)];
            return sum_a != sum_b ? sum_a > sum_b : group_a < group_b;
        });
    }
    const double mean = mean_of_diagonal(inputs);
    std::vector<double> reversed(n * n);
    for (feedback.damping = options.damping;; feedback.damping *= 10) {
        // H = R R^T with R upper is the ordinary decomposition of H with its rows and columns reversed.
        for (std::size_t a = 0; a < n; ++a) {
            const float* row = inputs.gram.data() + static_cast<std::size_t>(feedback.order[n - 1 - a]) * n;
            for (std::size_t b = a; b < n; ++b) reversed[a * n + b] = static_cast<double>(row[feedback.order[n - 1 - b]]);
            reversed[a * n + a] += feedback.damping * mean;
        }
        if (cholesky_upper(reversed.data(), static_cast<std::int64_t>(n))) break;
        if (feedback.damping * 10 > most_damping * 1.0001) return std::nullopt;
    }
    feedback.factor.assign(n * n, 0);
    feedback.own.resize(n);
    for (std::size_t k = 0; k < n; ++k) {  // R(i, k) = reversed(n-1-k, n-1-i)
        const double* row = reversed.data() + (n - 1 - k) * n;
        const double scale = 1 / row[n - 1 - k];
        feedback.own[static_cast<std::size_t>(feedback.order[k])] = static_cast<float>(row[n - 1 - k] * row[n - 1 - k]);
        for (std::size_t i = 0; i <= k; ++i) feedback.factor[i * n + k] = static_cast<float>(row[n - 1 - i] * scale);
    }
    return feedback;
}

}  // namespace skiff
