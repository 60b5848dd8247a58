// What GPTQ and AWQ share: matrices stored with their inputs first, and groups that need not follow the order of the inputs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "formats/checkpoint_files.h"
#include "formats/compressed_tensors.h"
#include "tensor/weight.h"

namespace skiff {

// A tensor of a module that must be there, have one of these types and this shape. The message names the module, the tensor, and both shapes.
Result<FoundTensor> required_tensor(const TensorLookup& lookup, const std::string& module, std::string_view name, std::initializer_list<DType> types,
                                    const std::optional<Shape>& shape = std::nullopt);
Error tensor_mismatch(const std::string& module, std::string_view name, const TensorView& found, const std::string& expected);

// An error where a scale is NaN or infinite, or one of the numbers of FP8: kernels would make NaN of all that such a weight gives, with no word of it. Looks
// at bits, several at a time, so that a large checkpoint loads no slower. `view`: F16, BF16 or F32; F8_E4M3 or F8_E5M2.
Status check_finite(const std::string& module, std::string_view name, const TensorView& view);
Error not_finite_error(const std::string& module, std::string_view name, bool is_nan, const Shape& shape, std::int64_t at);  // element `at` in the order of the file

// Bytes of codes, scales and zeros that belong to one weight.
struct CodeBytes {
    std::vector<std::byte> packed, scales, zeros;
};
// The weight that owns them. Zeros that are all 2^(bits-1) are not kept: the scheme becomes symmetric. // scales: (n_rows, n_groups) of scheme.scale_dtype
Weight make_code_weight(Scheme scheme, std::int64_t n_rows, std::int64_t n_columns, CodeBytes bytes);

// The scales of codes as F16, where each keeps its value; an error that names the first which does not. // (n_rows, n_groups) f16
Result<std::vector<std::byte>> scales_as_f16(const Codes& codes);

// (n_rows, n_columns) elements of `element_bytes` each, turned.
std::vector<std::byte> transposed_bytes(std::span<const std::byte> source, std::int64_t n_rows, std::int64_t n_columns, std::int64_t element_bytes);

// The inputs in order of their groups, for `g_idx`, the group of each input; empty where that is the order they have. Every group but the last must
// have group_size inputs (0: all). // g_idx: (n_columns) i32
Result<std::vector<std::int32_t>> order_by_group(const std::string& module, const TensorView& g_idx, std::int64_t group_size);

// Puts the code of input order[c] into column c of every row. // packed: (n_rows, packed_row_bytes)
void take_columns(const std::vector<std::int32_t>& order, int bits, std::int64_t n_rows, std::vector<std::byte>& packed);
std::vector<std::int32_t> inverse_order(const std::vector<std::int32_t>& order);

}  // namespace skiff
