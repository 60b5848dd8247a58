// Which tiles are the fastest for a product of many tokens on this machine: what tuning found (tune_tiles.h), by kernel and shape, in a file that people can read
// (docs/formats/tiles.md). A choice changes the speed and never a result, so an entry needs no trust; a file that is damaged or another machine's is ignored.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>

#include "base/result.h"
#include "kernels/kernels.h"

namespace skiff {

// Tokens of a product, by which tiles differ. Up to 64 there is nothing to choose.
inline constexpr std::int64_t tile_bucket_limits[] = {128, 256, INT64_MAX};
inline constexpr std::size_t n_tile_buckets = std::size(tile_bucket_limits);
inline constexpr std::int64_t least_tiled_tokens = 65;
inline std::size_t tile_bucket_of(std::int64_t n_tokens) {
    std::size_t bucket = 0;
    while (n_tokens > tile_bucket_limits[bucket]) ++bucket;
    return bucket;
}
using TilesByTokens = std::array<LinearTiles, n_tile_buckets>;

struct TileKey {
    std::string kernel;              // names layout and instruction set
    std::int64_t rows, columns;      // rows that one call works on
    std::int64_t tokens;             // the upper limit of the bucket, 512 for the last
    int threads;
    auto operator<=>(const TileKey&) const = default;
};
inline std::int64_t tile_tokens_of(std::size_t bucket) { return bucket + 1 < n_tile_buckets ? tile_bucket_limits[bucket] : 512; }

struct TileEntry {
    LinearTiles tiles;
    double gain = 1;  // speed over the kernel's own rule, when it was measured
};

class TileTable {
public:
    // $SKIFF_CACHE_DIR/tiles.json, else $XDG_CACHE_HOME/skiff/tiles.json, else ~/.cache/skiff/tiles.json; empty where none of them is set.
    static std::string default_path();
    // What the file holds for this machine and program; nothing where there is none, and then `note()` says why if it should have been usable.
    static TileTable read(const std::string& path);
    // Adds the entries to what the file holds by now, whole or not at all; writers wait for each other.
    Status write(const std::string& path) const;

    const TileEntry* find(const TileKey& key) const;
    void set(const TileKey& key, const TileEntry& entry) { entries_[key] = entry; }
    bool empty() const { return entries_.empty(); }
    const std::map<TileKey, TileEntry>& entries() const { return entries_; }
    const std::string& note() const { return note_; }
    std::string text() const;

private:
    std::map<TileKey, TileEntry> entries_;
    std::string note_;
};

// The processor and the caches that entries were measured on.
std::string tile_machine();

}  // namespace skiff
