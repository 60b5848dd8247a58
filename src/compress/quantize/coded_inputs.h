// Weights whose file says that their inputs are to be codes (W8A8): which can, and what their tensors are then.
#pragma once

#include <set>

#include "compress/tensor_plan.h"

namespace skiff {

// Weights of the linear operators of decoder blocks: those whose inputs are measured.
std::set<std::string> operator_weights(const ModelSpec& spec);

// Dense symmetric integers of 8 bits, stored as rows, of a whole weight. Whose weight it is says operator_weights().
bool can_code_inputs(const PlannedTensor& planned);
// Precondition: that, and `kind` is not dynamic.
void plan_coded_inputs(PlannedTensor& planned, InputScaleRule::Kind kind, TensorPlan& plan);
// Where no weight can.
Error no_coded_inputs(InputScaleRule::Kind kind, const TensorPlan& plan);
// Of a weight that stays pruned.
Error coded_inputs_of_pruned(const PlannedTensor& planned);
std::string pruned_words(const PlannedTensor& planned);  // "is pruned (w8 of bitmask)"

// What the file holds of such a weight. `input_scale`: of fixed inputs.
std::vector<StoredTensor> coded_input_tensors(const PlannedTensor& planned, const Weight& codes, float input_scale);

}  // namespace skiff
