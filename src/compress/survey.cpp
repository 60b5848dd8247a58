#include "compress/survey.h"

#include <algorithm>
#include <cmath>

#include "tensor/encode_clusters.h"

namespace skiff {
namespace {

// How far the scale search may go from the scale at which the largest weight takes the largest code, with room to spare (tensor/grid.cpp).
float search_factor(int bits) { return bits >= 7 ? 2 : 4; }
constexpr float flushed_to_zero = 0x1p-100f;  // smaller groups get scale 0 on purpose (tensor/grid.cpp)

struct RowSurvey {
    float largest = 0;
    double sum_of_squares = 0;
    std::int64_t bad_column = -1;
    bool wide = false;
};

bool group_needs_wide_scale(float minimum, float maximum, const Scheme& scheme) {
    const float magnitude = std::max(-minimum, maximum);
    if (magnitude <= flushed_to_zero) return false;
    if (scheme.kind == NumberKind::clusters || scheme.kind == NumberKind::vectors) return levels_need_f32(magnitude);
    if (scheme.kind == NumberKind::codebook) {  // only a scale that f16 has not at all is lost (tensor/encode.cpp)
        // Levels of 8-bit floats repeat themselves at every power of two: the search may put the largest weight on any of them down to one.
        if (scheme.bits == 8) {
            float highest = 0;
            for (float level : scheme.codebook->levels) highest = std::isfinite(level) ? std::max(highest, level) : highest;
            return magnitude * 4 > 65504 || magnitude / highest < 0x1p-22f;
        }
        const auto [low, high] = std::minmax_element(scheme.codebook->levels.begin(), scheme.codebook->levels.end());
        return magnitude / std::max(-*low, *high) < 0x1p-22f || magnitude / std::min(-*low, *high) * 4 > 65504;
    }
    const float levels = scheme.symmetric ? static_cast<float>(1 << (scheme.bits - 1)) : static_cast<float>((1 << scheme.bits) - 1);
    const float least = (scheme.symmetric ? magnitude : maximum - minimum) / levels / search_factor(scheme.bits);
    return !scale_is_storable(least, DType::f16, scheme.bits) || !scale_is_storable(magnitude * search_factor(scheme.bits), DType::f16, scheme.bits);
}

RowSurvey survey_row(std::span<const float> row, const Scheme* scheme) {
    RowSurvey survey;
    const auto n = static_cast<std::int64_t>(row.size());
    const std::int64_t group_size = scheme == nullptr || scheme->group_size == 0 ? n : scheme->group_size;
    for (std::int64_t begin = 0; begin < n; begin += group_size) {
        float minimum = 0, maximum = 0;
        double squares = 0;
        for (std::int64_t i = begin; i < std::min(n, begin + group_size); ++i) {
            const float x = row[static_cast<std::size_t>(i)];
            minimum = x < minimum ? x : minimum;
            maximum = x > maximum ? x : maximum;
            squares += static_cast<double>(x) * x;
        }
        if (!std::isfinite(squares)) {  // finite floats have finite squares in double
            for (std::int64_t i = begin; survey.bad_column < 0; ++i)
                if (!std::isfinite(row[static_cast<std::size_t>(i)])) survey.bad_column = i;
            return survey;
        }
        survey.sum_of_squares += squares;
        survey.largest = std::max({survey.largest, -minimum, maximum});
        if (scheme != nullptr) survey.wide = survey.wide || group_needs_wide_scale(minimum, maximum, *scheme);
    }
    return survey;
}

// Calls work(row, values) for each row, rows shared among the threads. // values: (n_columns) f32
void for_each_row(const Weight& weight, ThreadPool& pool, const std::function<void(std::int64_t, std::span<const float>)>& work) {
    pool.run([&](int thread) {
        std::vector<float> values(static_cast<std::size_t>(weight.n_columns()));
        const Range rows = share_of(weight.n_rows(), thread, pool.n_threads());
        for (std::int64_t row = rows.begin; row < rows.end; ++row) {
            weight.row(row, values.data());
            work(row, values);
        }
    });
}

}  // namespace

Result<Survey> survey_weight(const Weight& weight, const Scheme* scheme, ThreadPool& pool) {
    const Scheme* narrow_scales = scheme != nullptr && scheme->is_coded() && scheme->scale_dtype == DType::f16 ? scheme : nullptr;
    std::vector<RowSurvey> rows(static_cast<std::size_t>(weight.n_rows()));
    for_each_row(weight, pool, [&](std::int64_t row, std::span<const float> values) { rows[static_cast<std::size_t>(row)] = survey_row(values, narrow_scales); });
    Survey survey;
    for (std::size_t row = 0; row < rows.size(); ++row) {
        if (rows[row].bad_column >= 0) {
            std::vector<float> values(static_cast<std::size_t>(weight.n_columns()));
            weight.row(static_cast<std::int64_t>(row), values.data());
            const bool nan = std::isnan(values[static_cast<std::size_t>(rows[row].bad_column)]);
            return corrupt(std::string("holds ") + (nan ? "NaN" : "infinity") + " at row " + std::to_string(row) + ", column " + std::to_string(rows[row].bad_column) +
                           " of " + shape_text(weight.shape) + "; only finite weights can be compressed: fetch or train the model again");
        }
        survey.largest = std::max(survey.largest, rows[row].largest);
        survey.sum_of_squares += rows[row].sum_of_squares;
        survey.needs_wide_scales = survey.needs_wide_scales || rows[row].wide;
    }
    return survey;
}

double relative_squared_error(const Weight& original, const Weight& result, ThreadPool& pool) {
    const auto n_rows = static_cast<std::size_t>(original.n_rows());
    std::vector<double> errors(n_rows), squares(n_rows);
    for_each_row(original, pool, [&](std::int64_t row, std::span<const float> values) {
        thread_local std::vector<float> other;
        other.resize(values.size());
        result.row(row, other.data());
        double error = 0, square = 0;
        for (std::size_t i = 0; i < values.size(); ++i) {
            const double difference = static_cast<double>(values[i]) - other[i];
            error += difference * difference;
            square += static_cast<double>(values[i]) * values[i];
        }
        errors[static_cast<std::size_t>(row)] = error;
        squares[static_cast<std::size_t>(row)] = square;
    });
    double error = 0, square = 0;
    for (std::size_t row = 0; row < n_rows; ++row) {
        error += errors[row];
        square += squares[row];
    }
    return square > 0 ? error / square : 0;
}

}  // namespace skiff
