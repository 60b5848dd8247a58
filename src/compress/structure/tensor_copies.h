// Tensors that a step takes over or changes without rounding them to a scheme: what they will be called and how large they are, and their bytes.
#pragma once

#include <string>

#include "compress/step_work.h"

namespace skiff {

// A tensor that becomes `name` of `shape`, numbers of the type that it has. Codes can only stay as they are. Errors: NaN, infinities, forms that cannot be copied.
Result<PlannedTensor> plan_copy(const Checkpoint& parent, const std::string& key, const std::string& name, const Shape& shape, ThreadPool& pool);
// Adds it to the plan's sums.
void add_tensor(TensorPlan& plan, PlannedTensor planned);

// The bytes of an unchanged tensor under its (perhaps new) name.
Result<MadeTensor> make_copy(const PlannedTensor& planned, const Weight& weight);
// Floats rounded to the type of the parent's tensor. `effective` is left to the caller. // values: shape of `planned`
Result<MadeTensor> make_rounded(const PlannedTensor& planned, DType dtype, const std::vector<float>& values);

}  // namespace skiff
