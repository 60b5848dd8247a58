// Terms that a compressed checkpoint adds to its linear operators, found by the names of their tensors.
#pragma once

#include "base/result.h"
#include "model/weight_source.h"

namespace skiff {

// For a linear weight "x.weight": "x.low_rank_up" (outputs, rank) and "x.low_rank_down" (rank, inputs) add up * down;
// "x.input_scale" (inputs) multiplies the input first. Declares these tensors and edits the operators of `spec`.
Status attach_extra_terms(ModelSpec& spec, const WeightSource& weights);

}  // namespace skiff
