// How much of each layer goes, where the model as a whole is to lose a share.
#pragma once

#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "tensor/weight.h"

namespace skiff {

// Of all weights together the smallest go: the share of each that lies below a magnitude common to all, which `sparsity` of all weights do not exceed.
std::vector<double> global_magnitude_sparsities(std::span<const Weight> weights, double sparsity, ThreadPool& pool);

// Outlier-weighed layerwise sparsity (OWL, Yin et al. 2023): layers with more outliers lose less. `ratios`: of each layer, outlier_ratio(). The sparsities
// spread over sparsity - spread .. sparsity + spread and have the mean `sparsity`, weighed by `sizes` (weights of each layer).
std::vector<double> owl_sparsities(std::span<const double> ratios, std::span<const double> sizes, double sparsity, double spread = 0.08);
// The share of scores that exceed `times` their mean.
double outlier_ratio(std::span<const float> scores, double times = 5);

}  // namespace skiff
