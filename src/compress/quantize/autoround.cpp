// Learnt rounding operator by operator: over one linear operator the loss is quadratic.
#include <cmath>

#include "compress/algebra/algebra.h"
#include "compress/quantize/learnt_rounding.h"
#include "compress/quantize/weighted.h"
#include "tensor/codes_builder.h"

namespace skiff {
namespace {

constexpr std::int64_t tile_rows = 64;
constexpr float least_factor = 0.5f, most_factor = 1.5f;

}  // namespace

LearntSteps::LearntSteps(const Grid& grid, const Scheme& scheme, ZeroWeights zeros) : grid_(grid), scheme_(scheme), zeros_(zeros) {
    const GroupParams unit{1, 0, 1};
    float low = grid.value(0, unit), high = low;
    for (std::int32_t code = 1; code < grid.n_codes(); ++code) {
        low = std::min(low, grid.value(code, unit));
        high = std::max(high, grid.value(code, unit));
    }
    step_ = (high - low) / static_cast<float>(std::max(1, grid.n_codes() - 1));
}

void LearntSteps::learn_tile(RowTile& tile, const SecondMoments& moments, std::int64_t n_iterations, std::vector<float>& best_offset, std::vector<float>& best_factor) const {
    const std::int64_t n = tile.n_columns, n_groups = scheme_.n_groups(n);
    std::vector<float> offset(tile.values.size()), factor(static_cast<std::size_t>(tile.n_rows * n_groups), 1.0f), d(tile.values.size()), g(tile.values.size());
    best_offset = offset;
    best_factor = factor;
    std::vector<RowChoice> now = tile.choices;
    const std::vector<RowChoice> start = tile.choices;
    std::vector<double> least(static_cast<std::size_t>(tile.n_rows), std::numeric_limits<double>::infinity());
    for (std::int64_t iteration = 0; iteration <= n_iterations; ++iteration) {
        for (std::int64_t row = 0; row < tile.n_rows; ++row) {
            const auto values = tile.row(row);
            const RowChoice& choice = now[static_cast<std::size_t>(row)];
            for (std::size_t i = 0; i < values.size(); ++i)
                d[static_cast<std::size_t>(row * n) + i] = values[i] - grid_.value(choice.codes[i], choice.params.groups[static_cast<std::size_t>(scheme_.group_of(static_cast<std::int64_t>(i)))]);
        }
        g = d;
        multiply({.m = tile.n_rows, .n = n, .k = n, .a = d.data(), .a_stride = n, .b = moments.gram, .b_stride = n, .c = g.data(), .c_stride = n, .factor = 1, .keep = moments.added});
        const float rate = (1 - static_cast<float>(iteration) / static_cast<float>(n_iterations)) / static_cast<float>(n_iterations);
        for (std::int64_t row = 0; row < tile.n_rows; ++row) {
            const auto at = static_cast<std::size_t>(row);
            double loss = 0;
            for (std::int64_t i = row * n; i < (row + 1) * n; ++i) loss += static_cast<double>(d[static_cast<std::size_t>(i)]) * static_cast<double>(g[static_cast<std::size_t>(i)]);
            if (loss < least[at]) {
                least[at] = loss;
                tile.choices[at] = now[at];
                std::copy_n(offset.begin() + row * n, n, best_offset.begin() + row * n);
                std::copy_n(factor.begin() + row * n_groups, n_groups, best_factor.begin() + row * n_groups);
            }
            if (iteration < n_iterations) step_row(rate, tile.row(row), g.data() + row * n, start[at].params, {offset.data() + row * n, factor.data() + row * n_groups}, now[at]);
        }
    }
}

void LearntSteps::step_row(float rate, std::span<const float> values, const float* g, const RowParams& start, const LearntRow& learnt, RowChoice& choice) const {
    const auto n = static_cast<std::int64_t>(values.size());
    std::vector<float> levels, target;
    for (std::int64_t group = 0; group < scheme_.n_groups(n); ++group) {
        const Range columns = columns_of_group(scheme_, group, n);
        const auto size = static_cast<std::size_t>(columns.end - columns.begin);
        GroupParams& params = choice.params.groups[static_cast<std::size_t>(group)];
        const GroupParams& fitted = start.groups[static_cast<std::size_t>(group)];
        if (fitted.scale == 0) continue;
        levels.resize(size);
        target.resize(size);
        double slope = 0;
        for (std::size_t i = 0; i < size; ++i) {
            const std::int64_t column = columns.begin + static_cast<std::int64_t>(i);
            levels[i] = grid_.value(choice.codes[static_cast<std::size_t>(column)], {1, params.zero, 1});
            slope += static_cast<double>(g[column]) * static_cast<double>(levels[i]);
            if (zeros_ == ZeroWeights::stay && values[static_cast<std::size_t>(column)] == 0) continue;
            const float moved = learnt.offset[column] + (g[column] > 0 ? rate : g[column] < 0 ? -rate : 0);
            learnt.offset[column] = std::clamp(moved, -0.5f, 0.5f);
        }
        const double direction = slope * static_cast<double>(fitted.scale);
        float& factor = learnt.factor[group];
        factor = std::clamp(factor + (direction > 0 ? rate : direction < 0 ? -rate : 0), least_factor, most_factor);
        GroupParams wanted = fitted;
        wanted.scale = fitted.scale * factor;
        for (std::size_t i = 0; i < size; ++i) target[i] = levels[i] * wanted.scale;
        const GroupParams stored = stored_scale(grid_, scheme_, super_scale_of(scheme_, start, columns.begin), wanted, target);
        if (stored.scale != 0 && !scale_is_lost(stored, scheme_, {})) params = stored;
        const float step = step_ * std::fabs(params.scale);
        for (std::size_t i = 0; i < size; ++i) target[i] = values[static_cast<std::size_t>(columns.begin) + i] + learnt.offset[columns.begin + static_cast<std::int64_t>(i)] * step;
        grid_.round_group(target, params, choice.codes.data() + columns.begin);
    }
}

Status autoround_defined_on(const Scheme& scheme) {
    SKIFF_CHECK(algebra_available());
    return codes_defined_on(scheme);
}

Result<Weight> autoround_encode(const MethodInput& input) {
    if (input.scheme.kind == NumberKind::floating) return nearest_encode(input);
    if (const std::string why = why_not_calibrated(input, StatisticsNeed::gram); !why.empty()) {
        remark(input, "no learnt rounding: " + why);
        return weighted_encode(input);
    }
    SKIFF_CHECK(check_statistics(input));
    const auto grid = make_grid(input.scheme, input.scale_rule);
    const SecondMoments moments = second_moments(*input.inputs, input.options.damping);
    const LearntSteps steps(*grid, input.scheme, input.weight.sparse() != nullptr ? ZeroWeights::stay : ZeroWeights::move);
    return encode_tiles(input, tile_rows, [&](RowTile& tile) {
        for (std::int64_t row = 0; row < tile.n_rows; ++row) {
            RowChoice& choice = tile.choices[static_cast<std::size_t>(row)];
            fit_row(*grid, input.scheme, tile.row(row), moments.diagonal, choice.params);
            round_row(*grid, input.scheme, tile.row(row), choice);
        }
        std::vector<float> offset, factor;
        steps.learn_tile(tile, moments, input.options.n_iterations, offset, factor);
    });
}

}  // namespace skiff
