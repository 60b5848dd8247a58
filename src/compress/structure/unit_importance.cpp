#include "compress/structure/unit_importance.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "compress/calibrate/walk.h"
#include "model/axes.h"

namespace skiff {
namespace {

using Scores = Result<std::vector<double>>;

// Sums f(w) over all weights that go with each unit: its rows in the weights that make its values, its columns in the one that reads them.
template <class Fn>
Scores sum_over_weights(const UnitData& data, Fn&& f) {
    const CutAxis& axis = data.axis;
    const auto n_units = static_cast<std::size_t>(axis.n_units);
    std::vector<double> sums(n_units);
    SKIFF_TRY(const auto whole, coupled_cut(data.spec, axis.axis, first_units(axis)));
    for (const auto& [key, tensor] : data.spec.tensors) {
        if (tensor.role != TensorDecl::Role::linear || !data.weights.contains(key)) continue;
        for (std::size_t d = 0; d < tensor.dimensions.size(); ++d) {
            std::int64_t begin = 0;
            for (const AxisPart& part : tensor.dimensions[d]) {
                const Axis* found = data.spec.find_axis(part.axis);
                const std::int64_t size = found->size * part.unit;
                if (whole.count(part.axis) != 0 && size % axis.n_units == 0) {
                    SKIFF_TRY(const auto weight, data.weights.load(key));
                    std::vector<float> row(static_cast<std::size_t>(weight.n_columns()));
                    const std::int64_t entries = size / axis.n_units;
                    for (std::int64_t r = 0; r < weight.n_rows(); ++r) {
                        if (d == 0 && (r < begin || r >= begin + size)) continue;
                        weight.row(r, row.data());
                        if (d == 0)
                            for (const float w : row) sums[static_cast<std::size_t>((r - begin) / entries)] += f(static_cast<double>(w));
                        else
                            for (std::int64_t c = begin; c < begin + size; ++c) sums[static_cast<std::size_t>((c - begin) / entries)] += f(static_cast<double>(row[static_cast<std::size_t>(c)]));
                    }
                    release_pages(weight);
                }
                begin += size;
            }
        }
    }
    return sums;
}

Scores by_l1(const UnitData& data) {
    return sum_over_weights(data, [](double w) { return std::fabs(w); });
}
Scores by_l2(const UnitData& data) {
    return sum_over_weights(data, [](double w) { return w * w; });
}

// The norm of a unit's values over the text.
Scores by_activation(const UnitData& data) {
    std::vector<double> sums(static_cast<std::size_t>(data.axis.n_units));
    for (std::size_t column = 0; column < data.inputs->mean_square.size(); ++column)
        sums[column / static_cast<std::size_t>(data.axis.unit_columns)] += static_cast<double>(data.inputs->mean_square[column]);
    return sums;
}

// What a unit adds to the residual stream: E ||W_u x_u||^2, of single columns mean square times squared norm.
Scores by_contribution(const UnitData& data) {
    SKIFF_TRY(const auto weight, reader_matrix(data.axis, data.weights, data.pool));
    const std::size_t n = data.inputs->mean_square.size(), s = static_cast<std::size_t>(data.axis.unit_columns), n_outputs = weight.size() / n;
    const std::vector<float>& gram = data.inputs->gram;
    std::vector<double> scores(static_cast<std::size_t>(data.axis.n_units));
    for (std::size_t row = 0; row < n_outputs; ++row) {
        const float* w = weight.data() + row * n;
        for (std::size_t column = 0; column < n; ++column) {
            double response = static_cast<double>(w[column]) * static_cast<double>(data.inputs->mean_square[column]);
            if (s > 1 && !gram.empty()) {
                response = 0;
                const std::size_t begin = column / s * s;
                for (std::size_t j = begin; j < begin + s; ++j) response += static_cast<double>(gram[column * n + j]) * static_cast<double>(w[j]);
            }
            scores[column / s] += static_cast<double>(w[column]) * response;
        }
    }
    return scores;
}

// Average percentage of zeros (Hu et al. 2016): units that are seldom active go first. Of equal ones those of less activation.
Scores by_zeros(const UnitData& data) {
    SKIFF_TRY(auto activation, by_activation(data));
    double total = 0;
    for (const double value : activation) total += value;
    std::vector<double> scores(activation.size());
    for (std::size_t column = 0; column < data.near_zero.size(); ++column) scores[column / static_cast<std::size_t>(data.axis.unit_columns)] += 1 - data.near_zero[column];
    for (std::size_t u = 0; u < scores.size(); ++u) scores[u] = scores[u] / static_cast<double>(data.axis.unit_columns) + (total > 0 ? 1e-9 * activation[u] / total : 0);
    return scores;
}

Scores by_taylor(const UnitData& data) { return std::vector<double>(data.taylor.begin(), data.taylor.end()); }

template <Scores (*score)(const UnitData&)>
Result<std::vector<std::int64_t>> keep(const UnitData& data) {
    SKIFF_TRY(const auto scores, score(data));
    return keep_largest(data.axis, scores);
}

Result<std::vector<std::int64_t>> keep_obs(const UnitData& data) {
    SKIFF_TRY(const auto weight, reader_matrix(data.axis, data.weights, data.pool));
    return keep_by_least_squares({weight, *data.inputs, LeastSquares::Intercept::no, data.step.damping}, {data.axis.n_units, data.axis.unit_columns, data.axis.n_groups, data.axis.n_kept}, data.pool);
}

template <Scores (*score)(const UnitData&)>
Result<std::vector<std::int64_t>> rank(const UnitData& data) {
    SKIFF_TRY(const auto scores, score(data));
    return rank_by(data.axis, scores);
}

// What goes last is the most important.
Result<std::vector<std::int64_t>> rank_obs(const UnitData& data) {
    const CutAxis& axis = data.axis;
    SKIFF_TRY(const auto weight, reader_matrix(axis, data.weights, data.pool));
    std::vector<std::int64_t> gone;
    SKIFF_TRY(auto left, keep_by_least_squares({weight, *data.inputs, LeastSquares::Intercept::no, data.step.damping}, {axis.n_units, axis.unit_columns, axis.n_groups, axis.n_groups}, data.pool, &gone));
    left.insert(left.end(), gone.rbegin(), gone.rend());
    const std::int64_t per_group = axis.n_units / axis.n_groups;
    std::stable_sort(left.begin(), left.end(), [&](std::int64_t a, std::int64_t b) { return a / per_group < b / per_group; });
    return left;
}

Result<std::vector<std::int64_t>> keep_leading(const UnitData& data) { return first_units(data.axis); }
Result<std::vector<std::int64_t>> rank_leading(const UnitData& data) {
    std::vector<std::int64_t> all(static_cast<std::size_t>(data.axis.n_units));
    std::iota(all.begin(), all.end(), 0);
    return all;
}

constexpr UnitImportance importances[] = {
    {"obs", "one by one the unit that costs least when all others make up for it; looks at the data", StatisticsNeed::gram, UnitImportance::Counts::no, keep_obs, rank_obs},
    {"contribution", "what the unit adds to the residual stream: its activation through the weights that read it", StatisticsNeed::gram, UnitImportance::Counts::no, keep<by_contribution>, rank<by_contribution>},
    {"taylor", "how the loss answers to a factor on the unit, by its gradient, squared over the samples (needs LibTorch)", StatisticsNeed::none, UnitImportance::Counts::no, keep<by_taylor>, rank<by_taylor>, UnitImportance::Gradients::yes},
    {"activation", "the norm of the unit's values over the calibration text", StatisticsNeed::moments, UnitImportance::Counts::no, keep<by_activation>, rank<by_activation>},
    {"apoz", "how often the unit is not about zero", StatisticsNeed::moments, UnitImportance::Counts::yes, keep<by_zeros>, rank<by_zeros>},
    {"l2", "squares of all weights that go with the unit; needs no data", StatisticsNeed::none, UnitImportance::Counts::no, keep<by_l2>, rank<by_l2>},
    {"l1", "magnitudes of all weights that go with the unit; needs no data", StatisticsNeed::none, UnitImportance::Counts::no, keep<by_l1>, rank<by_l1>},
    {"leading", "the first units stay, as elastic training nests them; looks at nothing", StatisticsNeed::none, UnitImportance::Counts::no, keep_leading, rank_leading},
};

}  // namespace

std::span<const UnitImportance> unit_importances() { return importances; }

Result<const UnitImportance*> find_unit_importance(std::string_view name) {
    std::string known;
    for (const UnitImportance& row : importances) {
        if (row.name == name) return &row;
        known += (known.empty() ? "" : ", ") + std::string(row.name);
    }
    return usage_error("no importance of units is called \"" + std::string(name.substr(0, 64)) + "\"; there are: " + known);
}

std::vector<std::int64_t> rank_by(const CutAxis& axis, std::span<const double> scores) {
    const std::int64_t per_group = axis.n_units / axis.n_groups;
    std::vector<std::int64_t> order(static_cast<std::size_t>(axis.n_units));
    std::iota(order.begin(), order.end(), 0);
    for (auto begin = order.begin(); begin != order.end(); begin += per_group)
        std::stable_sort(begin, begin + per_group, [&](std::int64_t a, std::int64_t b) { return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)]; });
    return order;
}

std::vector<std::int64_t> keep_largest(const CutAxis& axis, std::span<const double> scores) {
    const std::vector<std::int64_t> order = rank_by(axis, scores);
    const std::int64_t per_group = axis.n_units / axis.n_groups, kept_per_group = axis.n_kept / axis.n_groups;
    std::vector<std::int64_t> kept;
    for (auto begin = order.begin(); begin != order.end(); begin += per_group) kept.insert(kept.end(), begin, begin + kept_per_group);
    std::sort(kept.begin(), kept.end());
    return kept;
}

}  // namespace skiff
