// GGUF blocks that are integer codes with an f16 scale and nothing else, as Codes, so that they run on the kernels for codes.
#pragma once

#include <optional>

#include "tensor/weight.h"

namespace skiff {

// Bits of a code of such a block type, 0 for the other types.
int bits_of_blocks(BlockType type);

// Q4_0, Q5_0 and Q8_0 as symmetric w4g32, w5g32 and w8g32 with the very same values, bit for bit; nothing for other weights.
// The result owns its bytes (about as many as the blocks).
std::optional<Weight> codes_of_blocks(const Weight& weight);

}  // namespace skiff
