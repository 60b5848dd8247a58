// Integer codes of up to 8 bits, and the GGUF blocks that are nothing else, interleaved in tiles of 16 rows for the int8 kernels (tile_format.h).
#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/layouts.h"
#include "kernels/tile_format.h"
#include "tensor/blocks_to_codes.h"

namespace skiff {

TileFormat tile_format(const Scheme& scheme, DType scale_dtype, std::int64_t n_columns) {
    TileFormat format = {};
    format.n_blocks = (n_columns + tile_block - 1) / tile_block;
    format.n_groups = scheme.n_groups(n_columns);
    format.blocks_per_group = format.n_groups == 1 ? format.n_blocks : scheme.group_size / tile_block;
    format.half_scales = scale_dtype == DType::f16;
    format.scale_bytes = tile_rows * (format.half_scales ? 2 : 4);
    format.zero_bytes = scheme.symmetric ? 0 : tile_rows;
    format.block_bytes = tile_rows * tile_block * (scheme.bits <= 4 ? 4 : 8) / 8;
    format.group_bytes = format.scale_bytes + format.zero_bytes + format.blocks_per_group * format.block_bytes;
    format.tile_bytes = format.n_groups * (format.scale_bytes + format.zero_bytes) + format.n_blocks * format.block_bytes;
    format.offset = 1 << (scheme.bits - 1);
    return format;
}

namespace {

bool groups_are_whole_blocks(const Scheme& scheme, std::int64_t n_columns) { return scheme.group_size % tile_block == 0 || scheme.group_size >= n_columns; }

bool accepts(const Weight& weight, int min_bits, int max_bits) {
    if (const Blocks* blocks = weight.blocks()) {
        const int bits = bits_of_blocks(blocks->type);
        return bits >= min_bits && bits <= max_bits && weight.n_columns() > 0;
    }
    const Codes* codes = weight.codes();
    return codes != nullptr && codes->scheme.kind == NumberKind::integer && !codes->scheme.relative_scales() && !codes->scheme.minimums &&
           codes->scheme.bits >= min_bits && codes->scheme.bits <= max_bits &&
           weight.n_columns() > 0 && groups_are_whole_blocks(codes->scheme, weight.n_columns());
}
bool accepts_w4(const Weight& weight) { return accepts(weight, 1, 4); }
bool accepts_w8(const Weight& weight) { return accepts(weight, 5, 8); }

// One 32-column block; codes: 16 rows, `stride` apart, first column of the block.
void pack_block(const std::uint8_t* codes, std::int64_t stride, const TileFormat& format, std::uint8_t* target) {
    const bool nibbles = format.block_bytes == 256;
    for (int v = 0; v < (nibbles ? 4 : 8); ++v)
        for (int row = 0; row < tile_rows; ++row)
            for (int k = 0; k < 4; ++k) {
                const std::uint8_t* source = codes + row * stride + v * 4 + k;
                *target++ = nibbles ? static_cast<std::uint8_t>(source[0] | source[16] << 4) : static_cast<std::uint8_t>(source[0] - format.offset);
            }
}

// Codes, scales and zeros of one tile of source rows, as they are about to be packed.
struct TileSource {
    std::vector<std::uint8_t> codes;   // (16, n_blocks * 32), padding holds codes that stand for zero in the packed form
    std::vector<std::byte> scales;     // (16, n_groups) as stored
    std::vector<std::uint8_t> zeros;   // (16, n_groups)
};

void load_tile(const Weight& weight, const RowMap& rows, std::int64_t first_row, const TileFormat& format, TileSource& tile) {
    const Codes& source = *weight.codes();
    const std::int64_t n_columns = weight.n_columns(), padded = format.n_blocks * tile_block, n_groups = format.n_groups;
    const std::int64_t scale_row_bytes = n_groups * dtype_info(source.scales.dtype).bits / 8;
    tile.codes.assign(static_cast<std::size_t>(tile_rows * padded), format.block_bytes == 256 ? 0 : static_cast<std::uint8_t>(format.offset));
    tile.scales.assign(static_cast<std::size_t>(tile_rows * scale_row_bytes), std::byte{0});
    tile.zeros.assign(static_cast<std::size_t>(tile_rows * n_groups), 0);
    for (std::int64_t row = 0; row < tile_rows && first_row + row < rows.n_rows(); ++row) {
        const std::int64_t at = rows.at(first_row + row);
        unpack_codes(source.packed.data.data() + at * packed_row_bytes(source.scheme.bits, n_columns), source.scheme.bits, n_columns, tile.codes.data() + row * padded);
        std::memcpy(tile.scales.data() + row * scale_row_bytes, source.scales.data.data() + at * scale_row_bytes, static_cast<std::size_t>(scale_row_bytes));
        if (!source.scheme.symmetric)
            std::memcpy(tile.zeros.data() + row * n_groups, source.zeros.data.data() + at * n_groups, static_cast<std::size_t>(n_groups));
    }
}

void store_tile(const TileSource& tile, const TileFormat& format, DType scale_dtype, std::uint8_t* target) {
    const std::int64_t padded = format.n_blocks * tile_block, scale_size = dtype_info(scale_dtype).bits / 8;
    for (std::int64_t group = 0; group < format.n_groups; ++group) {
        for (std::int64_t row = 0; row < tile_rows; ++row) {
            const std::byte* scale = tile.scales.data() + (row * format.n_groups + group) * scale_size;
            if (format.half_scales) std::memcpy(target + row * 2, scale, 2);
            else dtype_info(scale_dtype).to_float(scale, 1, reinterpret_cast<float*>(target) + row);
        }
        target += format.scale_bytes;
        for (std::int64_t row = 0; row < format.zero_bytes; ++row) *target++ = tile.zeros[static_cast<std::size_t>(row * format.n_groups + group)];
        const std::int64_t first = group * format.blocks_per_group, last = std::min(first + format.blocks_per_group, format.n_blocks);
        for (std::int64_t block = first; block < last; ++block, target += format.block_bytes) pack_block(tile.codes.data() + block * tile_block, padded, format, target);
    }
}

void pack_codes_tiles(const Weight& weight, const RowMap& rows, PackedWeight& packed) {
    const Codes& source = *weight.codes();
    packed.scheme = source.scheme;
    packed.dtype = source.scales.dtype == DType::f16 ? DType::f16 : DType::f32;
    const TileFormat format = tile_format(packed.scheme, packed.dtype, packed.n_columns);
    const std::int64_t n_tiles = (packed.n_rows + tile_rows - 1) / tile_rows;
    packed.buffer = AlignedBuffer(static_cast<std::size_t>(n_tiles * format.tile_bytes));
    packed.data = packed.buffer.data();
    packed.read_bytes = static_cast<std::uint64_t>(n_tiles * format.tile_bytes);
    TileSource tile;
    for (std::int64_t i = 0; i < n_tiles; ++i) {
        load_tile(weight, rows, i * tile_rows, format, tile);
        store_tile(tile, format, source.scales.dtype, packed.buffer.as<std::uint8_t>() + i * format.tile_bytes);
    }
}

void pack_tiles(const Weight& weight, const RowMap& rows, PackedWeight& packed) {
    const auto converted = codes_of_blocks(weight);  // of all rows; the copy lives until the tiles are made
    pack_codes_tiles(converted.has_value() ? *converted : weight, rows, packed);
}

// The code that Codes holds, out of its place in a block.
int code_at(const std::uint8_t* block, const TileFormat& format, std::int64_t row, std::int64_t column) {
    const std::int64_t place = row * 4 + column % 4;
    if (format.block_bytes == 512) return static_cast<std::int8_t>(block[column / 4 * 64 + place]) + format.offset;
    const std::uint8_t pair = block[column % 16 / 4 * 64 + place];
    return column < 16 ? pair & 15 : pair >> 4;
}

void tile_row(const PackedWeight& packed, std::int64_t row, float* target) {
    const TileFormat format = tile_format(packed.scheme, packed.dtype, packed.n_columns);
    const auto* tile = reinterpret_cast<const std::uint8_t*>(packed.data) + row / tile_rows * format.tile_bytes;
    row %= tile_rows;
    for (std::int64_t group = 0; group < format.n_groups; ++group, tile += format.group_bytes) {
        float scale;
        dtype_info(packed.dtype).to_float(tile + row * format.scale_bytes / tile_rows, 1, &scale);
        const int zero = format.zero_bytes == 0 ? format.offset : tile[format.scale_bytes + row];
        const std::uint8_t* blocks = tile + format.scale_bytes + format.zero_bytes;
        const std::int64_t begin = group * format.blocks_per_group * tile_block;
        const std::int64_t end = std::min(begin + format.blocks_per_group * tile_block, packed.n_columns);
        for (std::int64_t c = begin; c < end; ++c)
            target[c] = static_cast<float>(code_at(blocks + (c - begin) / tile_block * format.block_bytes, format, row, c % tile_block) - zero) * scale;
    }
}

}  // namespace

const Layout w4_r16 = {"w4_r16", tile_rows, accepts_w4, pack_tiles, tile_row};
const Layout w8_r16 = {"w8_r16", tile_rows, accepts_w8, pack_tiles, tile_row};

}  // namespace skiff
