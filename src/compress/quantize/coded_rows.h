// What methods share that choose the codes of each row by itself: the rows as floats in tiles, shared by the threads, and the weight from what was chosen.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "compress/method.h"

namespace skiff {

struct RowChoice {
    RowParams params;
    std::vector<std::uint8_t> codes;  // (n_columns)
};

// What a method does with a weight of exactly zero: rounds it as any other, or, in what pruning left, lets it be.
enum class ZeroWeights : std::uint8_t { move, stay };

struct RowTile {
    std::int64_t first_row = 0, n_rows = 0, n_columns = 0;
    ZeroWeights zeros = ZeroWeights::move;
    bool stays(float weight) const { return zeros == ZeroWeights::stay && weight == 0; }
    std::vector<float> values;         // (n_rows, n_columns)
    std::vector<RowChoice> choices;    // (n_rows), for `choose` to fill; codes have their size already
    std::span<float> row(std::int64_t i) { return {values.data() + i * n_columns, static_cast<std::size_t>(n_columns)}; }
};

// Calls choose(tile) for all rows, `tile_rows` at a time, on the threads of the pool. The cut does not depend on their number.
Result<Weight> encode_tiles(const MethodInput& input, std::int64_t tile_rows, const std::function<void(RowTile&)>& choose);

// The columns of a group. // [begin, end)
Range columns_of_group(const Scheme& scheme, std::int64_t group, std::int64_t n_columns);

// The codes nearest to `values` under the parameters of its groups.
void round_row(const Grid& grid, const Scheme& scheme, std::span<const float> values, RowChoice& choice);

// Whether the type of the scales cannot hold one of a row's. // values: (n_columns) f32
bool scales_are_lost(const Scheme& scheme, std::span<const float> values, const RowChoice& choice);
Error lost_scales_error(const MethodInput& input);  // and sets its scales_lost

// Where scales are relative: what the scale codes around this column multiply; else 0.
float super_scale_of(const Scheme& scheme, const RowParams& params, std::int64_t column);
// `wanted` with its scale as the scheme stores it; a relative one is chosen near it by what it does to `values`.
GroupParams stored_scale(const Grid& grid, const Scheme& scheme, float super_scale, const GroupParams& wanted, std::span<const float> values);

// Why there is nothing to choose with these inputs, or an empty text. What is measured over few tokens says little: fewer than these are not used.
inline constexpr std::int64_t fewest_tokens = 64;
std::string why_not_calibrated(const MethodInput& input, StatisticsNeed needs);
void remark(const MethodInput& input, const std::string& text);

}  // namespace skiff
