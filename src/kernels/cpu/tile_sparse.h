// The loops of tile_driver.h over tiles of pruned weights (sparse_tiles.h): blocks that are left out are jumped over, masked ones are expanded a stretch
// at a time into the very levels that dense blocks give. The sums are those of the dense tile, less the zeros. Included by tile_driver.h alone.
//
// A unit's M has beside what tile_driver.h lists:
//     skips               whether there are rows of the table for pruned weights: not for levels that are looked up
//     masked              whether its codes can have masks
//     expand_masked       masks and codes of blocks to levels
//     max_direct_masked   up to so many tokens work from masks and codes (direct_masked); above, or with 0, from expanded blocks
#pragma once

#include "kernels/sparse_tiles.h"

namespace skiff {
namespace {

// Which bytes of eight a mask's set bits take, from the first on; 255: none, a zero.
struct ExpandTable {
    alignas(64) Byte of[256][8];
};
constexpr ExpandTable make_expand_table() {
    ExpandTable table = {};
    for (int mask = 0; mask < 256; ++mask)
        for (int byte = 0, n = 0; byte < 8; ++byte) table.of[mask][byte] = (mask >> byte & 1) != 0 ? static_cast<Byte>(n++) : Byte{255};
    return table;
}
[[maybe_unused]] constexpr ExpandTable expand_table = make_expand_table();

// Blocks of one stretch of a tile with masks.
struct MaskedBlocks {
    const Byte *masks, *codes;
    std::int64_t n_blocks;
    std::int64_t lines;  // of the cache that a block of this weight has on average, rounded up: what to fetch ahead for each
};

template <class M>
void skip_stretch(const Byte* tile, const TileFormat& format, std::int64_t first, Stretch& stretch) {
    const std::int64_t n = format.n_blocks - first < blocks_at_once ? format.n_blocks - first : blocks_at_once;
    load_scales<M>(tile, format, first, n, stretch);
    stretch.codes = tile + format.codes_at + first * format.block_bytes;
}

// Tiles without their empty blocks: the same micro-kernels, told where a block's columns are.
template <class M>
void skip_tokens(const LinearArgs& args, Range rows, const TileFormat& whole, const Tokens& x, float* scratch) {
    alignas(64) Byte expanded[blocks_at_once * expanded_bytes<M>];
    Stretch stretch;
    const auto* data = reinterpret_cast<const Byte*>(args.weight->data);
    const bool few = args.n_tokens <= M::max_direct;
    const std::int64_t at_once = few ? args.n_tokens : tokens_per_pass(args);
    for (std::int64_t token = 0; token < args.n_tokens; token += at_once) {
        const std::int64_t n_tokens = args.n_tokens - token < at_once ? args.n_tokens - token : at_once;
        const Tokens part = from(x, token, 0, whole.units_per_block());
        for (std::int64_t row = rows.begin; row < rows.end; row += tile_rows) {
            SkipTile tile;
            __builtin_memcpy(&tile, data + row / tile_rows * static_cast<std::int64_t>(sizeof tile), sizeof tile);
            const TileFormat format = format_of_blocks(whole, static_cast<std::int64_t>(tile.n_blocks));
            const auto* places = reinterpret_cast<const std::uint16_t*>(data + tile.at);
            const Byte* blocks = data + tile.at + (format.n_blocks * 2 + tile_vector_bytes - 1) / tile_vector_bytes * tile_vector_bytes;
            for (std::int64_t i = 0; i < n_tokens * tile_rows; ++i) scratch[i] = 0;
            for (std::int64_t block = 0; block < format.n_blocks; block += blocks_at_once) {
                skip_stretch<M>(blocks, format, block, stretch);
                stretch.places = places + block;
                if (few) {
                    M::direct(stretch, part, n_tokens, scratch);
                } else {
                    M::expand(format, nullptr, stretch.codes, stretch.n_blocks, expanded);
                    stretch.codes = expanded;
                    M::multiply(&stretch, 1, part, n_tokens, scratch, tile_rows);
                }
            }
            write_rows<M>(args, row, rows.end - row < tile_rows ? rows.end - row : tile_rows, token, n_tokens, scratch, tile_rows);
        }
    }
}

// Tiles with masks, for many_tokens().
template <class M>
struct MaskedTiles {
    static constexpr bool any_stretch = false;
    const Byte* data;
    const TileFormat& format;
    int mask_rows;
    std::int64_t lines;

    const Byte* tile(std::int64_t i) const {
        std::uint64_t at;
        __builtin_memcpy(&at, data + i * 8, 8);
        return data + at;
    }
    const Byte* stretch(const Byte* tile, std::int64_t block) const {
        std::uint32_t at;
        __builtin_memcpy(&at, tile + format.codes_at + block / mask_stretch * 4, 4);
        return tile + at;
    }
    MaskedBlocks blocks(const Byte* tile, std::int64_t block, std::int64_t n_blocks) const {
        const Byte* masks = stretch(tile, block);
        return {masks, masks + n_blocks * mask_block_bytes(mask_rows), n_blocks, lines};
    }
    void expand(const Byte* tile, std::int64_t block, std::int64_t n_blocks, Byte* target) const {
        const MaskedBlocks masked = blocks(tile, block, n_blocks);
        switch (mask_rows) {
            case 1: return M::template expand_masked<1>(format, masked, target);
            case 4: return M::template expand_masked<4>(format, masked, target);
            default: return M::template expand_masked<16>(format, masked, target);
        }
    }
};

template <class M, int MaskRows>
void few_masked_tokens(const LinearArgs& args, Range rows, const MaskedTiles<M>& tiles, const Tokens& x) {
    alignas(64) float sums[M::max_direct_masked * tile_rows];
    Stretch stretch;
    const TileFormat& format = tiles.format;
    for (std::int64_t row = rows.begin; row < rows.end; row += tile_rows) {
        const Byte* tile = tiles.tile(row / tile_rows);
        for (std::int64_t i = 0; i < args.n_tokens * tile_rows; ++i) sums[i] = 0;
        for (std::int64_t block = 0; block < format.n_blocks; block += blocks_at_once) {
            const std::int64_t n = format.n_blocks - block < blocks_at_once ? format.n_blocks - block : blocks_at_once;
            load_scales<M>(tile, format, block, n, stretch);
            M::template direct_masked<MaskRows>(stretch, tiles.blocks(tile, block, n), from(x, 0, block, format.units_per_block()), args.n_tokens, sums);
        }
        write_rows<M>(args, row, rows.end - row < tile_rows ? rows.end - row : tile_rows, 0, args.n_tokens, sums, tile_rows);
    }
}

template <class M>
void masked_tokens(const LinearArgs& args, Range rows, const TileFormat& format, const Tokens& x, float* scratch) {
    const std::int64_t n_blocks = (args.weight->n_rows + tile_rows - 1) / tile_rows * format.n_blocks;
    const std::int64_t lines = (static_cast<std::int64_t>(args.weight->read_bytes) + 64 * n_blocks - 1) / (64 * n_blocks);
    const MaskedTiles<M> tiles{reinterpret_cast<const Byte*>(args.weight->data), format, args.weight->mask_rows, lines};
    if constexpr (M::max_direct_masked > 0)
        if (args.n_tokens <= M::max_direct_masked) {
            switch (tiles.mask_rows) {
                case 1: return few_masked_tokens<M, 1>(args, rows, tiles, x);
                case 4: return few_masked_tokens<M, 4>(args, rows, tiles, x);
                default: return few_masked_tokens<M, 16>(args, rows, tiles, x);
            }
        }
    many_tokens<M>(args, rows, format, tiles, x, scratch);
}
static_assert(blocks_at_once == mask_stretch, "stretches of blocks are found by the offset of their first");

}  // namespace
}  // namespace skiff
