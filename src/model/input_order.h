// A checkpoint whose columns are in the order of the model's inputs: for what knows no reordered ones (export, requantizing).
#pragma once

#include "model/checkpoint.h"

namespace skiff {

// The same model. Weights whose columns were reordered (GPTQ with act-order) are plain F32 numbers, decoded and put back; the rest is untouched.
Checkpoint with_inputs_in_order(Checkpoint checkpoint);

// The reordered weights of a model: key of the weight -> key of the permutation.
std::map<std::string, std::string> reordered_weights(const ModelSpec& spec);

}  // namespace skiff
