// Weights whose code says its number by a table, a row's codes one after another as in a checkpoint (the layout lut_rows). The table is learnt levels in F16, of the
// tensor, a row or a group; or the numbers of FP8, which are reckoned and not looked up, times the scale of a row or a group.
//
// Few tokens: codes become floats in registers. Many: rows become floats once (linear_rows_*.cpp). Both give the same bits, since the floats are the same and so is the
// order of every sum: eight lanes, lane j takes columns j, j + 8, j + 16 ..., then a fixed tree.
#pragma once

#include "kernels/layout.h"

namespace skiff {

enum class LutNumbers : std::uint8_t { levels, e4m3, e5m2 };

struct LutFormat {
    LutNumbers numbers;
    int bits, n_levels;                 // levels: of a table
    std::int64_t group_size, n_groups;  // that share a table or a scale; a group is a multiple of 32, or the row
    std::int64_t row_bytes;             // of codes
    std::int64_t table_row_bytes;       // of tables or scales; 0: one table for all rows
};

inline constexpr std::int64_t lut_direct_tokens = 4;  // up to here codes become floats in registers

bool is_lut(const Scheme& scheme, std::int64_t n_columns);  // whether there is such a format for it
LutFormat lut_format(const PackedWeight& weight);
float lut_scale(const PackedWeight& weight, const LutFormat& format, std::int64_t row, std::int64_t group);
inline const std::byte* lut_table(const PackedWeight& weight, const LutFormat& format, std::int64_t row, std::int64_t group) {  // n_levels of F16
    return weight.scales + row * format.table_row_bytes + group * format.n_levels * 2;
}

}  // namespace skiff
