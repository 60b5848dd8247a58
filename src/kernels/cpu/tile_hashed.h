// The loops of tile_driver.h over hashed weights (hash_tiles.h): a stretch of a tile of the bank is expanded once, and multiplied for every tile of the weight
// that takes its blocks from it, by the micro-kernels that pruned tiles use: they are told where a block's columns are. A sign goes into the scales. Included
// by tile_driver.h alone.
#pragma once

#include "kernels/hash_tiles.h"

namespace skiff {
namespace {

constexpr std::int64_t hashed_tiles_at_once = 8, hashed_tokens_at_once = 256;  // whose sums lie in the cache together

// The scales of `stored` with the signs that one tile of the weight gives its blocks.
inline void turn_scales(const Stretch& stored, const Byte* signs, Stretch& turned) {
    const std::int64_t per_block = stored.format->units_per_block() * tile_rows;
    const float *from = stored.scales;
    float* to = turned.scales;
    for (std::int64_t block = 0; block < stored.n_blocks; ++block, from += per_block, to += per_block) {
        const float sign = signs[block] != 0 ? -1.0f : 1.0f;
        for (std::int64_t i = 0; i < per_block; i += tile_rows)
            for (std::int64_t lane = 0; lane < tile_rows; ++lane) to[i + lane] = from[i + lane] * sign;
    }
}

template <class M>
void hashed_tokens(const LinearArgs& args, Range rows, const TileFormat& format, const Tokens& x) {
    alignas(64) Byte expanded[blocks_at_once * expanded_bytes<M>];
    Stretch stored, turned;
    const auto* data = reinterpret_cast<const Byte*>(args.weight->data);
    const auto* banks = reinterpret_cast<const std::uint32_t*>(data);
    const HashTiles parts = hash_tiles(args.weight->n_rows, format.n_blocks);
    const bool few = args.n_tokens <= M::max_direct;
    const std::int64_t most = few ? args.n_tokens : tokens_per_pass(args), at_once = most < hashed_tokens_at_once ? most : hashed_tokens_at_once;
    float* scratch = thread_scratch(hashed_tiles_at_once * at_once * tile_rows);
    turned.format = &format;
    for (std::int64_t token = 0; token < args.n_tokens; token += at_once) {
        const std::int64_t n_tokens = args.n_tokens - token < at_once ? args.n_tokens - token : at_once, tile_sums = n_tokens * tile_rows;
        const Tokens part = from(x, token, 0, format.units_per_block());
        for (std::int64_t row = rows.begin, n_tiles = 0; row < rows.end; row += n_tiles * tile_rows) {
            const std::int64_t first = row / tile_rows, left = (rows.end - row + tile_rows - 1) / tile_rows;
            n_tiles = 1;
            while (n_tiles < left && n_tiles < hashed_tiles_at_once && banks[first + n_tiles] == banks[first]) ++n_tiles;
            const Byte *tile = data + parts.bank_at + banks[first] * format.tile_bytes, *turns = data + parts.turns_at + first * parts.turn_bytes;
            for (std::int64_t i = 0; i < n_tiles * tile_sums; ++i) scratch[i] = 0;
            for (std::int64_t block = 0; block < format.n_blocks; block += blocks_at_once) {
                const std::int64_t n = format.n_blocks - block < blocks_at_once ? format.n_blocks - block : blocks_at_once;
                load_scales<M>(tile, format, block, n, stored);
                turned.n_blocks = n;
                turned.row_levels = stored.row_levels;
                turned.codes = tile + format.codes_at + block * format.block_bytes;
                if (!few) {
                    M::expand(format, nullptr, turned.codes, n, expanded);
                    turned.codes = expanded;
                }
                for (std::int64_t i = 0; i < n_tiles; ++i) {
                    const Byte* turn = turns + i * parts.turn_bytes;
                    turned.places = reinterpret_cast<const std::uint16_t*>(turn) + block;
                    turn_scales(stored, turn + format.n_blocks * 2 + block, turned);
                    if (few) M::direct(turned, part, n_tokens, scratch + i * tile_sums);
                    else M::multiply(&turned, 1, part, n_tokens, scratch + i * tile_sums, tile_rows);
                }
            }
            for (std::int64_t i = 0; i < n_tiles; ++i) {
                const std::int64_t begin = row + i * tile_rows;
                write_rows<M>(args, begin, rows.end - begin < tile_rows ? rows.end - begin : tile_rows, token, n_tokens, scratch + i * tile_sums, tile_rows);
            }
        }
    }
}

}  // namespace
}  // namespace skiff
