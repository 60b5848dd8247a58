// Pruned weights and outliers in safetensors, as tensors of our own beside the module's name: docs/formats/sparse.md.
#pragma once

#include <string>
#include <vector>

#include "formats/compressed_tensors.h"

namespace skiff {

// The tensors of a sparse weight: `<module>.weight_bitmask`, `.weight_values`, `.weight_pattern`, `.weight_shape`, and its scales where it has codes.
std::vector<TensorDeclaration> sparse_tensors(const std::string& module, const SparsePattern& pattern, const Scheme& scheme, const Shape& shape, std::int64_t n_values);
std::vector<StoredTensor> sparse_weight_tensors(const std::string& module, const Weight& weight);

// Reads and checks one. `scheme` says what the codes are; null: the values are plain numbers.
Result<Weight> read_sparse_weight(const std::string& module, const TensorLookup& lookup, const Scheme* scheme);

// The tensors of outliers: `<module>.outliers_values`, `.outliers_columns`, `.outliers_rows` and `.outliers_shape`.
std::vector<TensorDeclaration> outlier_tensors(const std::string& module, DType dtype, const Shape& shape, std::int64_t n);
std::vector<StoredTensor> outlier_weight_tensors(const std::string& module, const Weight& outliers);
Result<Weight> read_outliers(const std::string& module, const TensorLookup& lookup);

}  // namespace skiff
