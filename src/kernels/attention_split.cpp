// How attention is cut into units and dealt to threads.
#include <algorithm>

#include "base/checked.h"
#include "kernels/kernels.h"

namespace skiff {
namespace {

constexpr std::int64_t queries_at_once = 8;  // a tile of more tokens than fill a pass would only cut the work coarser

std::int64_t first_position(const AttentionArgs& args, std::int64_t token) {
    return args.window > 0 ? std::max<std::int64_t>(0, args.positions[token] - args.window + 1) : 0;
}

struct TileRead {
    std::int64_t first, last;  // positions
};
TileRead tile_read(const AttentionArgs& args, const AttentionTile& tile) {
    TileRead read{INT64_MAX, 0};
    for (std::int64_t token = tile.first_token; token < tile.first_token + tile.n_tokens; ++token) {
        read.first = std::min(read.first, first_position(args, token));
        read.last = std::max<std::int64_t>(read.last, args.positions[token]);
    }
    return read;
}

// Of a unit: its positions, and a little for what every unit costs.
std::int64_t unit_cost(const TileRead& read, std::int64_t chunk) {
    const std::int64_t begin = std::max(read.first, chunk * attention_chunk), end = std::min(read.last + 1, (chunk + 1) * attention_chunk);
    return end - begin + 16;
}

}  // namespace

AttentionTile attention_tile(const AttentionArgs& args, std::int64_t first_token) {
    const std::int64_t most = std::max<std::int64_t>(1, queries_at_once / (args.n_heads / args.n_kv_heads));
    AttentionTile tile{first_token, 1, 0, 0};
    while (tile.n_tokens < most && first_token + tile.n_tokens < args.n_tokens && args.keys[first_token + tile.n_tokens] == args.keys[first_token] &&
           args.values[first_token + tile.n_tokens] == args.values[first_token])
        ++tile.n_tokens;
    const TileRead read = tile_read(args, tile);
    tile.first_chunk = read.first / attention_chunk;
    tile.n_chunks = read.last / attention_chunk - tile.first_chunk + 1;
    return tile;
}

std::int64_t attention_n_units(const AttentionArgs& args) {
    std::int64_t n = 0;
    for (std::int64_t token = 0; token < args.n_tokens;) {
        const AttentionTile tile = attention_tile(args, token);
        n += tile.n_chunks;
        token += tile.n_tokens;
    }
    return n * args.n_kv_heads;
}

Range attention_share(const AttentionArgs& args, int thread, int n_threads) {
    std::int64_t n_tiles = 0, n_units = 0, cost = 0;  // of one KV head
    for (std::int64_t token = 0; token < args.n_tokens; ++n_tiles) {
        const AttentionTile tile = attention_tile(args, token);
        const TileRead read = tile_read(args, tile);
        for (std::int64_t chunk = tile.first_chunk; chunk < tile.first_chunk + tile.n_chunks; ++chunk) cost += unit_cost(read, chunk);
        n_units += tile.n_chunks;
        token += tile.n_tokens;
    }
    if (n_units == 0) return {0, 0};
    const bool split = args.partials != nullptr && n_tiles * args.n_kv_heads < attention_split_limit * n_threads;
    // The first unit (or tile) whose middle lies behind this thread's part of the whole cost.
    const auto boundary = [&](std::int64_t part) {
        if (part == n_threads) return n_units * args.n_kv_heads;
        const std::int64_t target = cost * args.n_kv_heads / n_threads * part + cost * args.n_kv_heads % n_threads * part / n_threads;
        std::int64_t unit = target / cost * n_units, left = target % cost;
        for (std::int64_t token = 0; token < args.n_tokens;) {
            const AttentionTile tile = attention_tile(args, token);
            const TileRead read = tile_read(args, tile);
            std::int64_t tile_cost = 0;
            for (std::int64_t chunk = tile.first_chunk; chunk < tile.first_chunk + tile.n_chunks; ++chunk) {
                const std::int64_t own = unit_cost(read, chunk);
                tile_cost += own;
                if (!split) continue;
                if (left <= own / 2) return unit;
                left -= own;
                ++unit;
            }
            if (!split) {
                if (left <= tile_cost / 2) return unit;
                left -= tile_cost;
                unit += tile.n_chunks;
            }
            token += tile.n_tokens;
        }
        return unit;
    };
    return {boundary(thread), boundary(thread + 1)};
}

std::int64_t attention_partial_floats(std::int64_t n_heads, std::int64_t n_kv_heads, std::int64_t head_dim) {
    const std::int64_t group = n_heads / n_kv_heads;
    return std::max(group, queries_at_once / group * group) * (round_up<std::int64_t>(head_dim, state_group) + state_lanes);
}

std::int64_t attention_max_split_units(std::int64_t capacity, int n_threads) {
    return attention_max_split_tiles(n_threads) * ceil_div<std::int64_t>(capacity, attention_chunk);
}

}  // namespace skiff
