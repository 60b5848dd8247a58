#include "compress/prune/allocate.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace skiff {
namespace {

// Magnitudes by the upper bits of their floats: 16 steps to an octave, which order as the magnitudes do.
constexpr int dropped_bits = 19;
constexpr std::size_t n_bins = std::size_t{1} << (31 - dropped_bits);
using Histogram = std::vector<std::int64_t>;

Histogram histogram(const Weight& weight, ThreadPool& pool) {
    std::vector<Histogram> parts(static_cast<std::size_t>(pool.n_threads()), Histogram(n_bins));
    pool.run([&](int thread) {
        const Range rows = share_of(weight.n_rows(), thread, pool.n_threads());
        std::vector<float> values(static_cast<std::size_t>(weight.n_columns()));
        for (std::int64_t row = rows.begin; row < rows.end; ++row) {
            weight.row(row, values.data());
            for (float value : values) ++parts[static_cast<std::size_t>(thread)][(std::bit_cast<std::uint32_t>(value) & 0x7fffffffu) >> dropped_bits];
        }
    });
    Histogram sum(n_bins);
    for (const Histogram& part : parts)
        for (std::size_t i = 0; i < n_bins; ++i) sum[i] += part[i];
    return sum;
}

}  // namespace

std::vector<double> global_magnitude_sparsities(std::span<const Weight> weights, double sparsity, ThreadPool& pool) {
    std::vector<Histogram> all;
    Histogram sum(n_bins);
    std::int64_t total = 0;
    for (const Weight& weight : weights) {
        all.push_back(histogram(weight, pool));
        for (std::size_t i = 0; i < n_bins; ++i) sum[i] += all.back()[i];
        total += element_count(weight.shape);
    }
    // The bin in which the threshold lies goes in the share that is missing, alike in all layers.
    double wanted = static_cast<double>(total) * sparsity;
    std::size_t bin = 0;
    for (; bin + 1 < n_bins && static_cast<double>(sum[bin]) <= wanted; ++bin) wanted -= static_cast<double>(sum[bin]);
    const double share = sum[bin] > 0 ? std::clamp(wanted / static_cast<double>(sum[bin]), 0.0, 1.0) : 0;
    std::vector<double> sparsities;
    for (std::size_t i = 0; i < weights.size(); ++i) {
        double below = share * static_cast<double>(all[i][bin]);
        for (std::size_t b = 0; b < bin; ++b) below += static_cast<double>(all[i][b]);
        sparsities.push_back(below / static_cast<double>(std::max<std::int64_t>(1, element_count(weights[i].shape))));
    }
    return sparsities;
}

double outlier_ratio(std::span<const float> scores, double times) {
    double sum = 0;
    for (float score : scores) sum += static_cast<double>(score);
    const double limit = times * sum / static_cast<double>(std::max<std::size_t>(1, scores.size()));
    const auto n = std::count_if(scores.begin(), scores.end(), [&](float score) { return static_cast<double>(score) > limit; });
    return static_cast<double>(n) / static_cast<double>(std::max<std::size_t>(1, scores.size()));
}

std::vector<double> owl_sparsities(std::span<const double> ratios, std::span<const double> sizes, double sparsity, double spread) {
    std::vector<double> sparsities(ratios.size(), sparsity);
    if (ratios.empty()) return sparsities;
    const auto [least, most] = std::minmax_element(ratios.begin(), ratios.end());
    const double range = *most - *least;
    double sum = 0, weight = 0;
    for (std::size_t i = 0; i < ratios.size(); ++i) {
        if (range > 0) sparsities[i] = sparsity + spread - (ratios[i] - *least) / range * 2 * spread;
        sum += sparsities[i] * sizes[i], weight += sizes[i];
    }
    const double shift = weight > 0 ? sparsity - sum / weight : 0;
    for (double& each : sparsities) each = std::clamp(each + shift, 0.0, 1.0);
    return sparsities;
}

}  // namespace skiff
