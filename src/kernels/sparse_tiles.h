// The byte format of tiles of pruned weights, beside tile_format.h: fewer bytes to read is the whole gain.
//
// wN_r16_skip leaves out the blocks of 16 rows x 32 columns that are all zero:
//     directory   n_tiles SkipTile
//     a tile      u16 places[n_blocks], which blocks of the row they are, to a multiple of 64 bytes; then a tile of tile_format.h that holds these
//                 blocks as if they were all (scales of 16 or 32 columns are left out with their blocks, scales of whole rows are there as they are)
// Scales of other groups are stored once for each block, as if groups had 32 columns.
//
// w4_r16_mask and w8_r16_mask hold a bit for each weight, or for 4 or 16 rows together, and the codes of those whose bit is set:
//     directory   u64 of each tile: where it begins
//     a tile      super scales and scales as in tile_format.h, all of them; u32 of each stretch of 16 blocks: where it begins in the tile; stretches
//     a stretch   the masks of its blocks, then the codes of its blocks
//     masks       of a block, for its eight expanded vectors: u64 (a bit for each byte), u16 (4 rows: bit row / 4 * 4 + column) or 4 bits (16 rows)
//     codes       of a vector: as many bytes as it has bits set, or half as many for 4 bits (the even code in the low nibble), whole bytes
// Directories, tiles and places begin at multiples of 64 bytes; 64 bytes behind the end may be read. The functions are static: units for different
// instruction sets include them.
#pragma once

#include "kernels/tile_format.h"

namespace skiff {

struct SkipTile {
    std::uint64_t at, n_blocks;
};

inline constexpr std::int64_t mask_stretch = 16;  // blocks

inline constexpr std::int64_t mask_block_bytes(int mask_rows) { return 64 / mask_rows; }

// The bits of vector v of a block as one for each of its 64 bytes.
[[maybe_unused]] static inline std::uint64_t mask_of(const std::uint8_t* masks, int v, int mask_rows) {
    if (mask_rows == 1) {
        std::uint64_t bits;
        __builtin_memcpy(&bits, masks + v * 8, 8);
        return bits;
    }
    if (mask_rows == 16) return (masks[v / 2] >> (v % 2 * 4) & 15) * 0x1111111111111111u;
    std::uint16_t nibbles;
    __builtin_memcpy(&nibbles, masks + v * 2, 2);
    std::uint64_t bits = nibbles;  // each nibble to the front of 16 bits, then four times
    bits = (bits | bits << 24) & 0x000000ff000000ffu;
    bits = (bits | bits << 12) & 0x000f000f000f000fu;
    return bits * 0x1111;
}

// The format of a tile that holds only some blocks of a row.
[[maybe_unused]] static inline TileFormat format_of_blocks(TileFormat format, std::int64_t n_blocks) {
    format.n_blocks = n_blocks;
    if (format.n_groups == 1) format.group_size = n_blocks * tile_block;
    else format.n_groups = n_blocks * format.units_per_block();
    if (format.n_supers > 0) format.super_size = n_blocks * tile_block;
    format.corrections_at = format.scales_at + format.n_groups * tile_numbers_bytes(format.scales);
    format.codes_at = (format.corrections_at + tile_vector_bytes - 1) / tile_vector_bytes * tile_vector_bytes;
    format.tile_bytes = format.codes_at + n_blocks * format.block_bytes;
    return format;
}

}  // namespace skiff
