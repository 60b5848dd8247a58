// Codes with group scales as GGUF blocks: the same numbers in another form, where a block type can hold them.
#pragma once

#include <optional>

#include "tensor/weight.h"

namespace skiff {

enum class Fit : std::uint8_t {
    none,     // groups do not fall on blocks, or codes do not fit the type's bits
    lowered,  // as rounded; and codes of -128 become -127, since programs that negate bytes take -128 for its opposite
    rounded,  // the codes fit; a scale or an offset is rounded to half precision
    exact,    // every weight keeps its value, bit for bit
};

// Q4_0, Q5_0, Q8_0 (value = d * q, of integers and of codebooks whose levels are integers in that range), Q4_1, Q5_1 (value = d * q + m), IQ4_NL (value = d * level), and Q6_K (value = d * s * q), which holds integral levels of -32 to 31
// under relative scales; other types never fit. Reads all scales.
Fit fit_of_codes(const Weight& codes, BlockType type);

// The type of fewest bits that holds the codes, exactly or rounded; none: nothing does. // of Q4_0, IQ4_NL, Q4_1, Q5_0, Q5_1, Q6_K, Q8_0
std::optional<BlockType> smallest_block_of(const Weight& codes);

// One row of such a weight. target: the row's blocks, packed.
void codes_row_to_blocks(const Weight& codes, BlockType type, std::int64_t row, std::byte* target);

}  // namespace skiff
