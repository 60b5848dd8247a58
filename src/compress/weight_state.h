// In what state weights are that a step cannot begin with, as errors say it.
#pragma once

#include <string>

#include "tensor/weight.h"

namespace skiff {

// "is quantized (w8)", "is pruned (bf16 of single weights)", "is hashed (BF16 hashed 1:4)"; of a weight that is not plain.
inline std::string state_of(const Weight& weight) { return std::string(weight.sparse() != nullptr ? "is pruned (" : weight.hashed() != nullptr ? "is hashed (" : "is quantized (") + weight.encoding_name() + ")"; }

// What else there is to do, behind "prune the model before it is quantized".
inline constexpr const char* or_write_out = ", or first write its weights out as plain numbers (skiff convert --to hf; in a recipe - convert: {to: hf})";

}  // namespace skiff
