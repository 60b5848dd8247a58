// Terms that a compressed checkpoint adds to its linear operators, found by the names of their tensors.
#pragma once

#include <string_view>

#include "base/result.h"
#include "model/weight_source.h"

namespace skiff {

inline constexpr std::string_view input_permutation_end = ".input_permutation", fixed_scale_end = ".fixed_input_scale";

// For a linear weight "x.weight": "x.low_rank_up" (outputs, rank) and "x.low_rank_down" (rank, inputs) add up * down, or are all where there is no
// "x.weight"; "x.outliers" (outputs, inputs), few of which are not zero, adds itself;
// "x.input_scale" (inputs) multiplies the input first, "x.input_permutation" (inputs) says which input each column belongs to;
// "x.fixed_input_scale" (1) is LinearOp::input_scale. Declares these tensors and edits the operators of `spec`.
Status attach_extra_terms(ModelSpec& spec, const WeightSource& weights);

}  // namespace skiff
