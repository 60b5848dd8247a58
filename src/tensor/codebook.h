// Codebooks: tables of levels that are not evenly spaced. A weight is levels[code] times the scale of its group.
#pragma once

#include <span>
#include <string_view>

namespace skiff {

struct Codebook {
    std::string_view name;          // "n4"
    int bits = 0;                   // of a code
    std::span<const float> levels;  // 2^bits at most; the first level is that of code 0

    bool integral() const;          // every level is an integer that fits an int8
    bool is_float8() const { return bits == 8; }  // a code is the bits of an FP8 number
    bool has(int code) const;       // false: beyond the table, or FP8's NaN and infinity
};

std::span<const Codebook> codebooks();
const Codebook* find_codebook(std::string_view name);  // null for an unknown name

// Tables of scales: 16 numbers k / 128 of either sign, k an integer, so that a product with a scale of few bits is exact.
std::span<const Codebook> scale_books();
const Codebook* find_scale_book(std::string_view name);

}  // namespace skiff
