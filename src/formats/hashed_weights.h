// Hashed weights in safetensors: the bank, and four numbers that say which of its blocks make the matrix. docs/formats/hashed.md
#pragma once

#include <string>
#include <vector>

#include "formats/quantized_reader.h"

namespace skiff {

// `<module>.hash_map` marks a hashed weight; its bank is the tensor `<module>.hash_bank`, or a module of that name where it is codes.
inline constexpr std::string_view hash_map_end = ".hash_map", hash_bank_end = ".hash_bank";

// The tensors of a hashed weight whose bank has a type, or codes of a scheme.
std::vector<TensorDeclaration> hashed_tensors(const std::string& module, const BlockHash& hash, DType dtype);
std::vector<TensorDeclaration> hashed_tensors(const std::string& module, const BlockHash& hash, const Scheme& scheme);
Result<std::vector<StoredTensor>> hashed_weight_tensors(const std::string& module, const Weight& weight);

// Reads and checks one; `reader` reads a bank of codes.
Result<Weight> read_hashed_weight(const std::string& module, const TensorLookup& lookup, const QuantizedReader& reader);

}  // namespace skiff
