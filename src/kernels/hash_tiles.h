// The byte format of tiles of hashed weights (tensor/hashed.h), beside tile_format.h: the tiles of the bank alone, each read once for all tiles of the weight
// that take their blocks from it.
//
//     banks   u32 of each tile of the weight: the tile of the bank that its blocks are from; those that share one follow each other
//     turns   of each tile of the weight, from multiples of 64 bytes on: u16 places[n_blocks], which block of the row each block of the bank's tile is; then
//             u8 signs[n_blocks], 1 where it is negated
//     bank    tiles of tile_format.h, of whole blocks; of bank_rows: 16 rows of plain numbers each, n_blocks * 32 columns
// The functions are static: units for different instruction sets include them.
#pragma once

#include "kernels/tile_format.h"

namespace skiff {

struct HashTiles {
    std::int64_t n_blocks, turns_at, turn_bytes, bank_at;  // from the beginning; bytes of one tile's turns
};

[[maybe_unused]] static inline HashTiles hash_tiles(std::int64_t n_rows, std::int64_t n_blocks) {
    const auto whole = [](std::int64_t bytes) { return (bytes + tile_vector_bytes - 1) / tile_vector_bytes * tile_vector_bytes; };
    const std::int64_t n_tiles = (n_rows + tile_rows - 1) / tile_rows, turns_at = whole(n_tiles * 4), turn_bytes = whole(n_blocks * 3);
    return {n_blocks, turns_at, turn_bytes, turns_at + n_tiles * turn_bytes};
}

}  // namespace skiff
