// Half-quadratic quantization (Badri and Shaji 2023): scale and zero that minimise the p-norm, p < 1, of what rounding loses, so that few weights
// that are far off count less than many that are a little off. Needs no data. The paper moves the zero alone; symmetric grids and codebooks have
// none, so there the scale moves.
#include <cmath>

#include "compress/quantize/weighted.h"

namespace skiff {
namespace {

constexpr double p = 0.7, first_beta = 10, beta_growth = 1.01;
constexpr int n_rounds = 20;
constexpr std::int64_t tile_rows = 16;
// A result that loses this much more in squares than the search has collapsed, as happens with few bits.
constexpr double collapse = 1.25;

struct Loss {
    double p_norm = 0, squares = 0;  // sums of |e|^p and e^2
};

// Of one group, with codes that are nearest.
Loss loss_of(const Grid& grid, std::span<const float> values, std::span<const float> importance, const GroupParams& params, std::vector<std::uint8_t>& codes) {
    grid.round_group(values, params, codes.data());
    Loss loss;
    for (std::size_t i = 0; i < values.size(); ++i) {
        const double error = std::fabs(static_cast<double>(values[i]) - static_cast<double>(grid.value(codes[i], params)));
        const double weight = importance.empty() ? 1 : static_cast<double>(importance[i]);
        loss.p_norm += error > 0 ? weight * std::pow(error, p) : 0;
        loss.squares += weight * error * error;
    }
    return loss;
}

// The generalised soft threshold: the minimiser of |e|^p + beta/2 (e - x)^2, as the paper's equation 5 has it.
double shrink(double x, double beta) {
    const double magnitude = std::fabs(x);
    if (magnitude == 0) return 0;
    return std::copysign(std::max(0.0, magnitude - std::pow(magnitude, p - 1) / beta), x);
}

class Solver {
public:
    Solver(const Grid& grid, const Scheme& scheme) : grid_(grid), scheme_(scheme) {}

    // importance: of each weight, or empty
    GroupParams solve(float super_scale, std::span<const float> values, std::span<const float> importance, const GroupParams& start) {
        importance_ = importance;
        codes_.resize(values.size());
        target_.resize(values.size());
        if (start.scale == 0) return start;
        GroupParams best = start, own = start;
        const Loss begin = loss_of(grid_, values, importance, start, codes_);
        if (begin.squares == 0) return start;
        double least = begin.p_norm;
        // In units of the group's mean error, so that beta means the same for weights of any size.
        double weights = importance.empty() ? static_cast<double>(values.size()) : 0;
        for (float weight : importance) weights += static_cast<double>(weight);
        const double unit = std::sqrt(begin.squares / weights);
        double beta = first_beta;
        for (int round = 0; round < n_rounds; ++round, beta *= beta_growth) {
            grid_.round_group(values, own, codes_.data());
            for (std::size_t i = 0; i < values.size(); ++i) {
                const double error = static_cast<double>(values[i]) - static_cast<double>(grid_.value(codes_[i], own));
                target_[i] = static_cast<float>(static_cast<double>(values[i]) - unit * shrink(error / unit, beta));
            }
            const GroupParams moved = moved_to_target(super_scale, own);
            if (moved.scale == 0 || (moved.scale == own.scale && moved.zero == own.zero)) break;
            own = moved;
            const Loss loss = loss_of(grid_, values, importance, own, codes_);
            if (!(loss.p_norm < least) || loss.squares > collapse * begin.squares) continue;
            least = loss.p_norm;
            best = own;
        }
        return best;
    }

private:
    double weight_of(std::size_t i) const { return importance_.empty() ? 1 : static_cast<double>(importance_[i]); }

    // Least squares of the parameter that moves, given the codes. A scale is brought to what the scheme stores by the grid itself.
    GroupParams moved_to_target(float super_scale, const GroupParams& own) const {
        GroupParams moved = own;
        if (scheme_.stores_zeros()) {
            double sum = 0, weights = 0;
            for (std::size_t i = 0; i < target_.size(); ++i) {
                sum += weight_of(i) * (codes_[i] - static_cast<double>(target_[i]) / static_cast<double>(own.scale));
                weights += weight_of(i);
            }
            if (!(weights > 0)) return own;
            moved.zero = std::clamp(static_cast<std::int32_t>(std::nearbyint(sum / weights)), 0, grid_.n_codes() - 1);
            return moved;
        }
        double xq = 0, qq = 0;
        for (std::size_t i = 0; i < target_.size(); ++i) {
            const auto level = static_cast<double>(grid_.value(codes_[i], {1, own.zero, 1}));
            xq += weight_of(i) * level * static_cast<double>(target_[i]);
            qq += weight_of(i) * level * level;
        }
        if (!(qq > 0)) return own;
        return stored_scale(grid_, scheme_, super_scale, {static_cast<float>(xq / qq), own.zero, 0}, target_);
    }

    const Grid& grid_;
    const Scheme& scheme_;
    std::vector<std::uint8_t> codes_;
    std::vector<float> target_;
    std::span<const float> importance_;
};

}  // namespace

Result<Weight> hqq_encode(const MethodInput& input) {
    if (input.scheme.kind == NumberKind::floating) return nearest_encode(input);
    const auto grid = make_grid(input.scheme, input.scale_rule);
    std::vector<float> importance;  // an importance file was given: it needs none
    if (input.inputs != nullptr) {
        if (const std::string why = why_not_calibrated(input, StatisticsNeed::moments); !why.empty()) {
            remark(input, "every weight counts the same: " + why);
        } else {
            SKIFF_CHECK(check_statistics(input));
            importance = column_importance(*input.inputs);
        }
    }
    return encode_tiles(input, tile_rows, [&](RowTile& tile) {
        Solver solver(*grid, input.scheme);
        for (std::int64_t row = 0; row < tile.n_rows; ++row) {
            RowChoice& choice = tile.choices[static_cast<std::size_t>(row)];
            fit_row(*grid, input.scheme, tile.row(row), importance, choice.params);
            for (std::size_t group = 0; group < choice.params.groups.size(); ++group) {
                const Range columns = columns_of_group(input.scheme, static_cast<std::int64_t>(group), tile.n_columns);
                const auto values = tile.row(row).subspan(static_cast<std::size_t>(columns.begin), static_cast<std::size_t>(columns.end - columns.begin));
                choice.params.groups[group] = solver.solve(super_scale_of(input.scheme, choice.params, columns.begin), values, importance.empty() ? std::span<const float>() : std::span<const float>(importance).subspan(static_cast<std::size_t>(columns.begin), values.size()), choice.params.groups[group]);
            }
            round_row(*grid, input.scheme, tile.row(row), choice);
        }
    });
}

}  // namespace skiff
