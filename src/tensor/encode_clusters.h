// Weights that become clusters: the levels are found for each weight, and stored with it.
#pragma once

#include "tensor/weight.h"

namespace skiff {

// For schemes of clusters that check_can_encode() accepts. `importance` (n_columns) weighs the squared errors, or is empty. The clustering is exact for up to 4096
// different numbers in a table's reach (2048 for more than 16 levels of a row or group), else its borders lie on as many equal stretches. The bits do not depend on
// the pool. Where f16 levels would lose too much the result's levels are f32.
Result<Weight> encode_clusters(const Weight& source, const Scheme& scheme, std::span<const float> importance, ThreadPool* pool);

// Whether levels for numbers of this largest magnitude lose too much in f16: they would be subnormal, or infinite.
bool levels_need_f32(float largest_magnitude);

}  // namespace skiff
