// How much of each layer goes, where the model as a whole is to lose a share.
#pragma once

#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "tensor/weight.h"

namespace skiff {

// Scores by the upper bits of their floats, 16 steps to an octave, which order as the scores do: how many units have each. Scores are not negative.
using ScoreHistogram = std::vector<std::int64_t>;
ScoreHistogram score_histogram(std::span<const float> scores, ThreadPool& pool);
// Of all units together those with the least scores go: the share of each layer's units below a score common to all, so that `sparsity` of all weights go.
// unit_weights: weights of a unit of each layer.
std::vector<double> global_sparsities(std::span<const ScoreHistogram> layers, std::span<const double> unit_weights, double sparsity);

// Of all weights together the smallest go: the share of each that lies below a magnitude common to all, which `sparsity` of all weights do not exceed.
std::vector<double> global_magnitude_sparsities(std::span<const Weight> weights, double sparsity, ThreadPool& pool);

// Outlier-weighed layerwise sparsity (OWL, Yin et al. 2023): layers with more outliers lose less. `ratios`: of each layer, outlier_ratio(). The sparsities
// differ by twice the spread at most (less near 0 and 1, so that all lie between) and have the mean `sparsity`, weighed by `sizes` (weights of each layer).
std::vector<double> owl_sparsities(std::span<const double> ratios, std::span<const double> sizes, double sparsity, double spread = 0.08);
// The share of scores that exceed `times` their mean; the scores of a layer lie in several pieces.
double outlier_ratio(std::span<const std::vector<float>> pieces, double times = 5);

// The least sum of losses with the mean share `sparsity`, weighed by sizes: losses[l][i] is that of layer l at the share levels[i] (ascending); between the
// levels it is taken as linear, and where it bends down as its convex hull. The mean must lie within the levels.
std::vector<double> least_loss_sparsities(std::span<const double> levels, std::span<const std::vector<double>> losses, std::span<const double> sizes, double sparsity);

// Rows lose whole units: shares of layers, moved to whole ones so that together as much stays as with one share for all, up to half a step of a layer.
struct LayerUnits {
    std::int64_t n_units = 0;    // among which the share counts: of a row, or of the matrix
    std::int64_t step_weights = 0;  // that stay when one more of them does
};
std::vector<double> whole_units(std::span<const double> sparsities, std::span<const LayerUnits> layers, double sparsity);

}  // namespace skiff
