// Putting numbers and codes of one row into a tile (tile_format.h), and reading a row back; what the tile layouts share.
#pragma once

#include "kernels/tile_format.h"
#include "tensor/weight.h"

namespace skiff {

// Whether every run of columns with one scale is half a block, whole blocks or the row.
bool tile_groups_fit(const Scheme& scheme, std::int64_t n_columns);
// The numbers of row `row` of a section, as the tiles store them: the stored type where tiles have it, else f32.
void place_tile_numbers(const TensorView& view, std::int64_t row, TileNumber type, std::int64_t lane, std::uint8_t* section);
// The bits of one row's codes are added to blocks that were zero. // codes: (n_blocks * 32)
void place_tile_codes(const std::uint8_t* codes, const TileFormat& format, std::int64_t lane, std::uint8_t* blocks);
// Scales, super scales and what corrects them, of row `row` of the sections.
void place_tile_scales(const Codes& source, std::int64_t row, const TileFormat& format, std::int64_t lane, std::uint8_t* tile);
float tile_number_at(const std::uint8_t* section, TileNumber type, std::int64_t index, std::int64_t lane);
// The scale of a column, super scale included.
float tile_scale_at(const Scheme& scheme, const TileFormat& format, const std::uint8_t* tile, std::int64_t column, std::int64_t lane);
// The first n_columns of a row as floats.
void decode_tile_row(const std::uint8_t* tile, const TileFormat& format, const Scheme& scheme, std::int64_t lane, std::int64_t n_columns, float* target);

}  // namespace skiff
