// The byte format of the layouts w4_r16 and w8_r16: one sequential stream per thread for decode, the same bytes for prefill.
//
// A tile holds 16 rows. For each scale group: 16 scales (f16 or f32), 16 zeros (u8; asymmetric schemes only), then its blocks of 32 columns.
// A block is made of 32-byte vectors of 8 rows x 4 columns, row r in bytes 4r..4r+3, so that one broadcast of four activation bytes meets
// eight rows: w4_r16 has 8 vectors, (columns 4v.. low nibble, 16+4v.. high nibble; rows 0-7, rows 8-15) for v = 0..3, unsigned codes;
// w8_r16 has 16, (columns 4v..; rows 0-7, rows 8-15) for v = 0..7, codes less 2^(bits-1) as i8.
// Columns behind the last and rows behind the last are zero; the scales of such rows too.
#pragma once

#include "kernels/layout.h"

namespace skiff {

inline constexpr std::int64_t tile_rows = 16, tile_block = 32;

struct TileFormat {
    std::int64_t n_blocks, n_groups, blocks_per_group;
    std::int64_t scale_bytes, zero_bytes;   // of a group: 16 scales, 16 zeros
    std::int64_t block_bytes;               // 256 or 512
    std::int64_t group_bytes, tile_bytes;   // of a full group; of all groups
    std::int32_t offset;                    // 2^(bits-1)
    bool half_scales;                       // f16, else f32
};

TileFormat tile_format(const Scheme& scheme, DType scale_dtype, std::int64_t n_columns);

}  // namespace skiff
