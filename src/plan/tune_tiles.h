// Finds the fastest tiles for the products of a plan, by trying them on its own weights.
#pragma once

#include <functional>
#include <vector>

#include "base/progress.h"
#include "plan/plan.h"
#include "plan/tile_table.h"

namespace skiff {

struct LinearSegment;

// Calls `body` with every segment of a step whose kernel works in tiles, and the rows that one call of it works on with n_threads.
void for_each_tiled_segment(Step& step, int n_threads, const std::function<void(LinearSegment& segment, std::int64_t rows)>& body);
TileKey tile_key(const LinearSegment& segment, std::int64_t rows, std::size_t bucket, int n_threads);

// Gives the segments of a program of many tokens what the table has for them.
void apply_tiles(const TileTable& table, std::vector<std::unique_ptr<Step>>& steps, int n_threads);

// What is tried: none of it changes a sum, only which numbers wait in the cache. The first is the kernel's own rule.
std::vector<LinearTiles> tile_candidates(std::int64_t n_tokens, std::int64_t rows);

struct TuneOptions {
    int n_threads = 1;
    std::int64_t max_tokens = 256;  // of a run: larger buckets do not occur
    double seconds = 10;            // for all shapes together, about; every shape is tried in three rounds at least
    ProgressSink progress;
};
Result<TileTable> tune_tiles(const Plan& plan, const TuneOptions& options);

}  // namespace skiff
