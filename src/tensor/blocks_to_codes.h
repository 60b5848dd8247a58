// GGUF's blocks as Codes with the same values, so that they run on the kernels for codes.
#pragma once

#include <optional>

#include "tensor/weight.h"

namespace skiff {

// The scheme whose codes hold such blocks: Q4_0 is w4g32, Q4_1 w4g32m, Q4_K w4g32mrs256, Q6_K w6g16rs256, IQ4_XS iq4nlg32rs256 and so on.
const Scheme& scheme_of_blocks(BlockType type);

// One row of codes, not packed yet: what its sections hold.
struct CodeRow {
    std::vector<std::uint8_t> codes;  // (n_columns)
    std::vector<std::byte> scales, super_scales, minimums, super_minimums;
    Codes view(const Scheme& scheme) const;  // of one row; `packed` is empty
};

// The codes of a row of blocks, with the very same values, bit for bit; only MXFP4 groups of the exponent 0, whose weights are below 2^-124,
// become zeros. n_columns is a multiple of the block's size.
void blocks_row_to_codes(BlockType type, const std::byte* blocks, std::int64_t n_columns, CodeRow& row);

// All rows; nothing for other weights. The result owns its bytes (about as many as the blocks).
std::optional<Weight> codes_of_blocks(const Weight& weight);

}  // namespace skiff
