// For formats that know one dense matrix for each operator: what has no form there, and the same model without it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "model/checkpoint.h"

namespace skiff {

// "operator X is a product of two matrices"; nothing: all its operators are one matrix each, whose weights may still be pruned.
std::optional<std::string> why_not_one_matrix(const Op& op);

// The same model with the zeros of pruned weights written out (codes stay codes), and sums and products of matrices made, in the 16 bits of what they are
// made of where that is plain. Says in `notes` what was done; nothing is said of a model that is dense. Error: inputs that are transformed.
Result<Checkpoint> with_dense_weights(Checkpoint checkpoint, std::vector<std::string>& notes);

}  // namespace skiff
