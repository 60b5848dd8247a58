#include "compress/prune/allocate.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>

namespace skiff {
namespace {

constexpr int dropped_bits = 19;
constexpr std::size_t n_bins = std::size_t{1} << (31 - dropped_bits);

}  // namespace

ScoreHistogram score_histogram(std::span<const float> scores, ThreadPool& pool) {
    std::vector<ScoreHistogram> parts(static_cast<std::size_t>(pool.n_threads()), ScoreHistogram(n_bins));
    pool.run([&](int thread) {
        const Range share = share_of(static_cast<std::int64_t>(scores.size()), thread, pool.n_threads());
        ScoreHistogram& own = parts[static_cast<std::size_t>(thread)];
        for (std::int64_t i = share.begin; i < share.end; ++i) ++own[(std::bit_cast<std::uint32_t>(scores[static_cast<std::size_t>(i)]) & 0x7fffffffu) >> dropped_bits];
    });
    ScoreHistogram sum(n_bins);
    for (const ScoreHistogram& part : parts)
        for (std::size_t i = 0; i < n_bins; ++i) sum[i] += part[i];
    return sum;
}

std::vector<double> global_sparsities(std::span<const ScoreHistogram> layers, std::span<const double> unit_weights, double sparsity) {
    std::vector<double> sum(n_bins), units(layers.size());
    double total = 0;
    for (std::size_t l = 0; l < layers.size(); ++l)
        for (std::size_t i = 0; i < n_bins; ++i) {
            sum[i] += static_cast<double>(layers[l][i]) * unit_weights[l];
            units[l] += static_cast<double>(layers[l][i]);
            total += static_cast<double>(layers[l][i]) * unit_weights[l];
        }
    // The bin in which the threshold lies goes in the share that is missing, alike in all layers.
    double wanted = total * sparsity;
    std::size_t bin = 0;
    for (; bin + 1 < n_bins && sum[bin] <= wanted; ++bin) wanted -= sum[bin];
    const double share = sum[bin] > 0 ? std::clamp(wanted / sum[bin], 0.0, 1.0) : 0;
    std::vector<double> sparsities;
    for (std::size_t l = 0; l < layers.size(); ++l) {
        double below = share * static_cast<double>(layers[l][bin]);
        for (std::size_t b = 0; b < bin; ++b) below += static_cast<double>(layers[l][b]);
        sparsities.push_back(below / std::max(1.0, units[l]));
    }
    return sparsities;
}

std::vector<double> global_magnitude_sparsities(std::span<const Weight> weights, double sparsity, ThreadPool& pool) {
    std::vector<ScoreHistogram> histograms;
    std::vector<float> values;
    for (const Weight& weight : weights) {
        values.resize(static_cast<std::size_t>(element_count(weight.shape)));
        for (std::int64_t row = 0; row < weight.n_rows(); ++row) weight.row(row, values.data() + row * weight.n_columns());
        histograms.push_back(score_histogram(values, pool));
    }
    return global_sparsities(histograms, std::vector<double>(weights.size(), 1), sparsity);
}

double outlier_ratio(std::span<const std::vector<float>> pieces, double times) {
    double sum = 0, n = 0, n_above = 0;
    for (const auto& scores : pieces) {
        for (const float score : scores) sum += static_cast<double>(score);
        n += static_cast<double>(scores.size());
    }
    const double limit = times * sum / std::max(1.0, n);
    for (const auto& scores : pieces) n_above += static_cast<double>(std::count_if(scores.begin(), scores.end(), [&](float score) { return static_cast<double>(score) > limit; }));
    return n_above / std::max(1.0, n);
}

std::vector<double> owl_sparsities(std::span<const double> ratios, std::span<const double> sizes, double sparsity, double spread) {
    std::vector<double> sparsities(ratios.size(), sparsity);
    if (ratios.empty()) return sparsities;
    const auto [least, most] = std::minmax_element(ratios.begin(), ratios.end());
    const double range = *most - *least;
    double sum = 0, weight = 0;
    for (std::size_t i = 0; i < ratios.size(); ++i) sum += sizes[i] * ratios[i], weight += sizes[i];
    if (!(range > 0) || !(weight > 0)) return sparsities;
    // sparsity + 2 spread (mean - ratio) / range: between 0 and 1 for the least ratio and the largest.
    const double mean = sum / weight;
    const double above = (mean - *least) / range, below = (*most - mean) / range;
    if (above > 0) spread = std::min(spread, (1 - sparsity) / above / 2);
    if (below > 0) spread = std::min(spread, sparsity / below / 2);
    for (std::size_t i = 0; i < ratios.size(); ++i) sparsities[i] = std::clamp(sparsity + 2 * spread * (mean - ratios[i]) / range, 0.0, 1.0);
    return sparsities;
}

std::vector<double> least_loss_sparsities(std::span<const double> levels, std::span<const std::vector<double>> losses, std::span<const double> sizes, double sparsity) {
    struct Piece {  // of a layer's hull
        std::size_t layer;
        double to, cost;  // share; loss per weight
    };
    std::vector<Piece> pieces;
    for (std::size_t l = 0; l < losses.size(); ++l) {
        std::size_t at = 0;
        while (at + 1 < levels.size()) {
            std::size_t best = at + 1;
            const auto slope = [&](std::size_t to) { return (losses[l][to] - losses[l][at]) / (levels[to] - levels[at]); };
            for (std::size_t to = at + 2; to < levels.size(); ++to)
                if (slope(to) <= slope(best)) best = to;
            pieces.push_back({l, levels[best], slope(best) / sizes[l]});
            at = best;
        }
    }
    // Hulls bend up: each layer's pieces are in order, and cheaper ones of others go between.
    std::stable_sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.cost < b.cost; });
    std::vector<double> sparsities(losses.size(), levels.empty() ? sparsity : levels[0]);
    double left = 0;
    for (std::size_t l = 0; l < losses.size(); ++l) left += sizes[l] * (sparsity - sparsities[l]);
    for (const Piece& piece : pieces) {
        double& share = sparsities[piece.layer];
        const double whole = sizes[piece.layer] * (piece.to - share), taken = std::clamp(left, 0.0, whole);
        share = taken < whole ? share + taken / sizes[piece.layer] : piece.to;
        left -= taken;
    }
    return sparsities;
}

std::vector<double> whole_units(std::span<const double> sparsities, std::span<const LayerUnits> layers, double sparsity) {
    const auto gone = [&](std::size_t i, double share) { return static_cast<double>(layers[i].n_units) * share; };
    const auto rounded = [&](std::size_t i, double share) { return layers[i].n_units - static_cast<std::int64_t>(std::nearbyint(gone(i, share))); };  // as PruneTarget does
    std::vector<std::int64_t> kept;
    std::int64_t too_many = 0;  // weights that stay beyond what one share for all leaves
    for (std::size_t i = 0; i < layers.size(); ++i) {
        kept.push_back(rounded(i, sparsities[i]));
        too_many += (kept[i] - rounded(i, sparsity)) * layers[i].step_weights;
    }
    for (;;) {
        const std::int64_t way = too_many > 0 ? -1 : 1;
        std::size_t best = layers.size();
        double furthest = 0;
        for (std::size_t i = 0; i < layers.size(); ++i) {
            const std::int64_t after = kept[i] + way;
            if (after < 0 || after > layers[i].n_units || std::llabs(too_many + way * layers[i].step_weights) >= std::llabs(too_many)) continue;
            const double off = static_cast<double>(way) * (static_cast<double>(layers[i].n_units - kept[i]) - gone(i, sparsities[i]));
            if (best == layers.size() || off > furthest) best = i, furthest = off;
        }
        if (best == layers.size()) break;
        kept[best] += way;
        too_many += way * layers[best].step_weights;
    }
    std::vector<double> whole;
    for (std::size_t i = 0; i < layers.size(); ++i) whole.push_back(1 - static_cast<double>(kept[i]) / static_cast<double>(std::max<std::int64_t>(1, layers[i].n_units)));
    return whole;
}

}  // namespace skiff
