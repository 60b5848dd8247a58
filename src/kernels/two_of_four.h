// The byte format of tiles of weights of which at most two of every four inputs are kept (2:4, 1:2), beside sparse_tiles.h. As many bytes as masks take, but every
// block has the same number: nothing is counted, and codes meet the activations that they belong to instead of being put among zeros.
//
// w4_r16_2of4 and w8_r16_2of4 are tiles of tile_format.h with other blocks. Vector g of a block's four has in bytes 4r .. 4r+3 of row r two columns of 8g .. 8g+3
// and two of 8g+4 .. 8g+7: those that are kept, and where fewer are others, whose code is that for zero. A block is
//     positions   64 bytes: in bits 2g, 2g+1 which of its four columns each byte of vector g is
//     codes       of 8 bits the four vectors; of 4 bits two, vectors 0-1 in the low nibbles, 2-3 in the high ones
#pragma once

#include "kernels/tile_format.h"

namespace skiff {

[[maybe_unused]] static inline TileFormat two_of_four_format(const PackedWeight& packed) {
    TileFormat format = tile_format(packed);
    format.block_bytes = tile_vector_bytes + tile_vector_bytes * format.bits / 2;
    format.tile_bytes = format.codes_at + format.n_blocks * format.block_bytes;
    return format;
}

}  // namespace skiff
