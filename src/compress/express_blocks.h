// Integer codes with group scales as GGUF blocks: the same numbers in another form, where the block type can hold them.
#pragma once

#include "tensor/weight.h"

namespace skiff {

enum class Fit : std::uint8_t {
    none,     // groups do not fall on blocks, or codes do not fit the type's bits
    rounded,  // the codes fit; a scale or an offset is rounded to half precision
    exact,    // every weight keeps its value, bit for bit
};

// Q4_0, Q5_0, Q8_0 (value = d * q) and Q4_1, Q5_1 (value = d * q + m); other types never fit. Reads all scales.
Fit fit_of_codes(const Weight& codes, BlockType type);

// One row of such a weight. target: the row's blocks, packed.
void codes_row_to_blocks(const Weight& codes, BlockType type, std::int64_t row, std::byte* target);

}  // namespace skiff
