// The byte format of the tile layouts (w1_r16 ... w8_r16): one sequential stream per thread for decode, the same bytes for prefill.
//
// A tile holds 16 rows. First what scales its codes, then the codes; both parts begin at multiples of 64 bytes:
//     exact levels     16 x n_levels, f16 or f32      where each row has levels of its own; for whoever wants the row as floats, kernels skip them
//     row levels       (2^bits / 4, at least 1) x 16 rows x 4, u8: the same as bytes; level 4i + j of row r in byte j of lane r of vector i
//     super scales     n_supers x 16, f16 or f32      where group scales are relative to them
//     super minimums   n_supers x 16, f16 or f32      where minimums are relative
//     scales           n_groups x 16, f16, f32, i8, u8, e8m0, or codes of 4 bits of a table: rows 0-7 in the low halves of 8 bytes, rows 8-15 in the high ones
//     zeros, or minimums   n_groups x 16, u8; or f16, f32, u8
//     codes            n_blocks blocks of 16 rows x 32 columns
//
// Expanded, a block is eight vectors of 64 bytes: vector v has columns 4v .. 4v+3 of every row, row r in bytes 4r .. 4r+3, so that one
// broadcast of four activation bytes meets sixteen rows. Stored, a block is one or two planes of bit fields of those vectors:
//     plane of 4 bits   256 bytes: vectors 0-3 in the low nibbles, 4-7 in the high ones
//     plane of 2 bits   128 bytes: vectors 0-1 in bits 0-1, 2-3 in bits 2-3, 4-5 in bits 4-5, 6-7 in bits 6-7
//     plane of 1 bit     64 bytes: vector v in bit v
// 1, 2 and 4 bits are one such plane; 3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2, the plane of the higher bits second; 7 and 8 bits are the eight
// vectors themselves. Columns and rows behind the last have the code that stands for zero, or any code with scale 0.
//
// The kernels see unsigned levels: the code itself, or levels[code]; `offset` is what they subtract from every level.
#pragma once

#include "kernels/layout.h"

namespace skiff {

// Weights of clusters have levels of the whole tensor (then they are as a codebook's, and `scales` of the packed weight is the table) or of each row.
inline constexpr std::int64_t tile_rows = 16, tile_block = 32, tile_vector_bytes = 64, expanded_block_bytes = 512;

enum class TileNumber : std::uint8_t { none, f16, f32, i8, u8, e8m0, table };

struct TileFormat {
    int bits;                                     // of a stored code: 1, 2, 3, 4, 5, 6 or 8
    std::int64_t n_blocks, block_bytes;
    std::int64_t n_groups, group_size;            // 16, a multiple of 32, or all columns
    int group_shift;                              // log2 of a group's units where that is whole, or -1: kernels go from units to groups for each stretch, and do not divide there
    std::int64_t n_supers, super_size;            // where scales or minimums are relative
    TileNumber scales, zeros, minimums, supers;   // supers: of super scales and super minimums
    bool relative_scales, relative_minimums;
    std::int64_t super_scales_at, super_minimums_at, scales_at, corrections_at, codes_at, tile_bytes;  // offsets in a tile
    std::int32_t offset;                          // the level that stands for zero
    std::int32_t largest_level;                   // bounds how many products fit 16 bits
    bool has_levels;                              // level = levels[code], else the code
    std::uint8_t levels[16];
    float level_scale;                            // value = (level - offset) * scale * level_scale
    bool row_levels;                              // each row has its own levels
    std::int64_t exact_levels_at, row_levels_at;  // offsets in a tile
    int n_levels, exact_level_bytes;              // of such a row
    const std::byte* tables;                      // of vectors (vector_format.h)
    std::int8_t scale_levels[16];                 // scales of a table: what their codes mean, to be multiplied by 2^-7, which level_scale holds

    int units_per_block() const { return group_size == 16 ? 2 : 1; }  // runs of columns with one scale, at most a block
    bool twice_codes() const { return bits == 1 && has_levels && levels[0] == 0 && levels[1] == 2; }  // -1 and 1: no table is needed to find them
    bool has_corrections() const { return zeros != TileNumber::none || minimums != TileNumber::none; }
};

// Of a packed weight, or one that is about to be: scheme, levels, types of the sections and the number of columns are read.
TileFormat tile_format(const PackedWeight& packed);

// Vectors of row levels.
inline constexpr int row_level_vectors(int bits) { return bits <= 2 ? 1 : 1 << (bits - 2); }

// Bytes of the numbers of 16 rows.
inline constexpr std::int64_t tile_numbers_bytes(TileNumber type) {
    return type == TileNumber::none ? 0 : type == TileNumber::f32 ? 64 : type == TileNumber::f16 ? 32 : type == TileNumber::table ? 8 : 16;
}

// Where a code of the expanded block lies in the stored one: `n_planes` bit fields, lowest bits first.
struct TileField {
    std::int64_t byte;
    int shift, bits;
};
int tile_fields(int bits, int vector, std::int64_t byte_in_vector, TileField (&fields)[2]);

}  // namespace skiff
