// The layouts by name; layout_table() in table.cpp orders them.
#pragma once

#include "kernels/layout.h"

namespace skiff {

extern const Layout w4_r16;       // integer codes of up to 4 bits in tiles of 16 rows (tile_format.h)
extern const Layout w8_r16;       // integer codes of 5 to 8 bits, likewise
extern const Layout plain_rows;   // rows of any number type, as stored
extern const Layout codes_rows;   // canonical codes, scales and zeros, as stored
extern const Layout blocks_rows;  // GGUF blocks, as stored

}  // namespace skiff
