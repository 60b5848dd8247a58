// The layouts by name; layout_table() in table.cpp orders them.
#pragma once

#include "kernels/layout.h"

namespace skiff {

// Codes of 1 to 8 bits in tiles of 16 rows (tile_format.h); 7 bits lie in w8_r16.
extern const Layout w1_r16, w2_r16, w3_r16, w4_r16, w5_r16, w6_r16, w8_r16;
// The same with what pruning kept (sparse_tiles.h): blocks of 16 x 32 are left out, or a bit for each weight says whether it is there.
extern const Layout w1_r16_skip, w2_r16_skip, w3_r16_skip, w4_r16_skip, w5_r16_skip, w6_r16_skip, w8_r16_skip, w4_r16_mask, w8_r16_mask;
// Two of every four columns and where they are (two_of_four.h).
extern const Layout w4_r16_2of4, w8_r16_2of4;
// Tiles of a bank, and which of them each tile of the weight takes its blocks from (hash_tiles.h).
extern const Layout w1_r16_hash, w2_r16_hash, w3_r16_hash, w4_r16_hash, w5_r16_hash, w6_r16_hash, w8_r16_hash;
extern const Layout bank_rows;    // the same with rows of a bank of plain numbers
extern const Layout vectors_r16;  // codes of vectors (vector_format.h)
extern const Layout lut_rows;     // codes of learnt levels and FP8, as stored (lut_format.h)
extern const Layout plain_rows;   // rows of any number type, as stored
extern const Layout codes_rows;   // canonical codes, scales and zeros, as stored
extern const Layout blocks_rows;  // GGUF blocks, as stored
extern const Layout sparse_rows;  // sparse weights, outliers and hashed weights, as stored
extern const Layout outlier_rows;  // outliers: where rows begin, columns, values

}  // namespace skiff
