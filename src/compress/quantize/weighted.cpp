// Importance-weighted search: the scales that lose least of the squared weights times what the calibration text says of each column.
#include "compress/quantize/weighted.h"

#include <cmath>

namespace skiff {
namespace {

constexpr std::int64_t tile_rows = 16;

}  // namespace

Status check_statistics(const MethodInput& input) {
    const InputStatistics& inputs = *input.inputs;
    if (static_cast<std::int64_t>(inputs.mean_square.size()) != input.weight.n_columns())
        return runtime_error("statistics of " + std::to_string(inputs.mean_square.size()) + " inputs for a weight of " + std::to_string(input.weight.n_columns()) +
                             " columns; this is a bug, please report it");
    double sum = 0;  // NaN and infinity stay
    for (float square : inputs.mean_square) sum += static_cast<double>(square);
    for (float moment : inputs.gram) sum += static_cast<double>(moment);
    if (!std::isfinite(sum)) return corrupt("the inputs of this weight are not finite on the calibration text: the model itself gives NaN or infinity there; take --method nearest to round it nevertheless");
    return {};
}

std::vector<float> column_importance(const InputStatistics& inputs) {
    double sum = 0;
    for (float square : inputs.mean_square) sum += static_cast<double>(square);
    const auto floor = static_cast<float>(1e-3 * sum / static_cast<double>(inputs.mean_square.size()));
    std::vector<float> importance(inputs.mean_square);
    for (float& value : importance) value += floor;
    return importance;
}

void weigh_by_magnitude(std::span<const float> row, std::span<const float> columns, std::span<float> importance) {
    double sum = 0;
    for (float x : row) sum += static_cast<double>(x) * static_cast<double>(x);
    const auto sigma2 = static_cast<float>(sum / static_cast<double>(row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) importance[i] = columns[i] * std::sqrt(sigma2 + row[i] * row[i]);
}

Result<Weight> weighted_encode(const MethodInput& input) {
    if (input.scheme.kind == NumberKind::floating) return nearest_encode(input);
    if (const std::string why = why_not_calibrated(input, StatisticsNeed::moments); !why.empty()) {
        remark(input, "rounded to nearest: " + why);
        return nearest_encode(input);
    }
    SKIFF_CHECK(check_statistics(input));
    const auto grid = make_grid(input.scheme, input.scale_rule);
    const auto columns = column_importance(*input.inputs);
    return encode_tiles(input, tile_rows, [&](RowTile& tile) {
        std::vector<float> importance(columns.size());
        for (std::int64_t row = 0; row < tile.n_rows; ++row) {
            RowChoice& choice = tile.choices[static_cast<std::size_t>(row)];
            weigh_by_magnitude(tile.row(row), columns, importance);
            fit_row(*grid, input.scheme, tile.row(row), importance, choice.params);
            round_row(*grid, input.scheme, tile.row(row), choice);
        }
    });
}

}  // namespace skiff
