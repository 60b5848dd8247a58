#include "compress/quantize/coded_rows.h"

#include <atomic>
#include <limits>

#include "base/progress.h"
#include "tensor/codes_builder.h"
#include "tensor/grid_parts.h"

namespace skiff {
namespace {

void lower(std::atomic<std::int64_t>& least, std::int64_t value) {
    std::int64_t known = least.load();
    while (value < known && !least.compare_exchange_weak(known, value)) {
    }
}

}  // namespace

Range columns_of_group(const Scheme& scheme, std::int64_t group, std::int64_t n_columns) {
    if (scheme.group_size == 0) return {0, n_columns};
    return {group * scheme.group_size, std::min(n_columns, (group + 1) * scheme.group_size)};
}

void round_row(const Grid& grid, const Scheme& scheme, std::span<const float> values, RowChoice& choice) {
    const auto n_columns = static_cast<std::int64_t>(values.size());
    choice.codes.resize(values.size());
    for (std::size_t group = 0; group < choice.params.groups.size(); ++group) {
        const Range columns = columns_of_group(scheme, static_cast<std::int64_t>(group), n_columns);
        grid.round_group(values.subspan(static_cast<std::size_t>(columns.begin), static_cast<std::size_t>(columns.end - columns.begin)), choice.params.groups[group],
                         choice.codes.data() + columns.begin);
    }
}

float super_scale_of(const Scheme& scheme, const RowParams& params, std::int64_t column) {
    return scheme.relative_scales() ? params.super_scales[static_cast<std::size_t>(scheme.super_of(column))] : 0;
}

GroupParams stored_scale(const Grid& grid, const Scheme& scheme, float super_scale, const GroupParams& wanted, std::span<const float> values) {
    if (scheme.relative_scales()) return grid.fit_under(super_scale, wanted, values, {}).params;
    GroupParams stored = wanted;
    stored.scale = grids::round_to(scheme.scale_dtype, wanted.scale);
    return stored;
}

bool scales_are_lost(const Scheme& scheme, std::span<const float> values, const RowChoice& choice) {
    for (std::size_t group = 0; group < choice.params.groups.size(); ++group) {
        const Range columns = columns_of_group(scheme, static_cast<std::int64_t>(group), static_cast<std::int64_t>(values.size()));
        if (scale_is_lost(choice.params.groups[group], scheme, values.subspan(static_cast<std::size_t>(columns.begin), static_cast<std::size_t>(columns.end - columns.begin)))) return true;
    }
    return false;
}

Error lost_scales_error(const MethodInput& input) {
    if (input.scales_lost != nullptr) *input.scales_lost = true;
    return runtime_error("scales do not fit " + std::string(dtype_info(input.scheme.scale_dtype).name) + ", which the survey of the weights did not foresee; this is a bug, please report it");
}

Result<Weight> encode_by(const WeightMethod& method, const MethodInput& input) {
    const auto attempt = [&](const Scheme& scheme, std::vector<std::string>& said, bool* lost) {
        return method.encode({input.weight, scheme, input.scale_rule, input.pool, input.inputs, input.options, &said, input.squared_gradients, lost});
    };
    std::vector<std::string> said;
    bool lost = false;
    auto result = attempt(input.scheme, said, &lost);
    if (!result.ok() && lost && input.scheme.scale_dtype == DType::f16) {
        Scheme wider = input.scheme;
        wider.scale_dtype = DType::f32;
        said.clear();
        result = attempt(wider, said, nullptr);
    }
    for (const std::string& text : said) remark(input, text);
    return result;
}

Result<Weight> encode_tiles(const MethodInput& input, std::int64_t tile_rows, const std::function<void(RowTile&)>& choose) {
    const Weight& source = input.weight;
    const Scheme& scheme = input.scheme;
    SKIFF_CHECK(check_can_encode(source, scheme));
    const std::int64_t n_rows = source.n_rows(), n_columns = source.n_columns(), n_tiles = (n_rows + tile_rows - 1) / tile_rows;
    constexpr std::int64_t none = std::numeric_limits<std::int64_t>::max();
    CodesBuilder builder(scheme, n_rows, n_columns);
    std::atomic<std::int64_t> bad_row = none, next = 0;
    std::atomic<bool> scales_lost = false;
    input.pool.run([&](int) {
        RowTile tile;
        tile.n_columns = n_columns;
        tile.zeros = source.sparse() != nullptr ? ZeroWeights::stay : ZeroWeights::move;
        for (std::int64_t i = next++; i < n_tiles && bad_row == none && !interrupt_requested(); i = next++) {
            tile.first_row = i * tile_rows;
            tile.n_rows = std::min(tile_rows, n_rows - tile.first_row);
            tile.values.resize(static_cast<std::size_t>(tile.n_rows * n_columns));
            tile.choices.resize(static_cast<std::size_t>(tile.n_rows));
            std::int64_t row = 0;
            for (; row < tile.n_rows; ++row) {
                source.row(tile.first_row + row, tile.row(row).data());
                if (first_non_finite(tile.row(row)) >= 0) break;
                tile.choices[static_cast<std::size_t>(row)].codes.resize(static_cast<std::size_t>(n_columns));
            }
            if (row < tile.n_rows) {
                lower(bad_row, tile.first_row + row);
                break;
            }
            choose(tile);
            for (row = 0; row < tile.n_rows; ++row) {
                const RowChoice& choice = tile.choices[static_cast<std::size_t>(row)];
                if (scales_are_lost(scheme, tile.row(row), choice)) scales_lost = true;
                builder.set_row(tile.first_row + row, choice.codes, choice.params);
            }
        }
    });
    if (interrupt_requested()) return Error{ErrorCode::interrupted, "quantization was interrupted", {}};
    if (bad_row != none) {
        // Tiles are taken in rising order, but the first bad one need not be the first that ends.
        std::vector<float> values(static_cast<std::size_t>(n_columns));
        std::int64_t row = 0;
        for (; row < bad_row; ++row) {
            source.row(row, values.data());
            if (first_non_finite(values) >= 0) break;
        }
        return non_finite_error(source, row);
    }
    if (scales_lost) return lost_scales_error(input);
    return builder.finish();
}

std::string why_not_calibrated(const MethodInput& input, StatisticsNeed needs) {
    if (input.inputs == nullptr) return "nothing was measured of its inputs";
    if (input.inputs->n_tokens < fewest_tokens)
        return "its inputs were measured over " + std::to_string(input.inputs->n_tokens) + " tokens, and fewer than " + std::to_string(fewest_tokens) + " say too little";
    double sum = 0;
    for (float square : input.inputs->mean_square) sum += static_cast<double>(square);
    if (sum == 0) return "its inputs were all zero";
    if (needs == StatisticsNeed::gram && input.inputs->gram.empty()) return "no second moments of its inputs were measured";
    return {};
}

void remark(const MethodInput& input, const std::string& text) {
    if (input.remarks != nullptr) input.remarks->push_back(text);
}

}  // namespace skiff
