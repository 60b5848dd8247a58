#include "compress/quantize/outliers.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

namespace skiff {
namespace {

// work(row, values of the weight's row, which it may use) for every row, shared among the threads
void for_each_row(const Weight& weight, ThreadPool& pool, const std::function<void(std::int64_t, std::vector<float>&)>& work) {
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

std::int64_t outliers_per_row(double share, std::int64_t n_columns) { return static_cast<std::int64_t>(std::nearbyint(share * static_cast<double>(n_columns))); }

OutlierSplit split_outliers(const Weight& weight, std::int64_t per_row, ThreadPool& pool) {
    const std::int64_t n_columns = weight.n_columns();
    OutlierSplit split;
    split.per_row = per_row;
    split.columns.resize(static_cast<std::size_t>(weight.n_rows() * per_row));
    std::vector<float> rest(static_cast<std::size_t>(weight.n_rows() * n_columns));
    for_each_row(weight, pool, [&](std::int64_t row, std::vector<float>& values) {
        std::vector<std::int32_t> order(static_cast<std::size_t>(n_columns));
        std::iota(order.begin(), order.end(), 0);
        std::nth_element(order.begin(), order.begin() + per_row, order.end(), [&](std::int32_t a, std::int32_t b) {
            const float x = std::fabs(values[static_cast<std::size_t>(a)]), y = std::fabs(values[static_cast<std::size_t>(b)]);
            return x > y || (x == y && a < b);
        });
        std::sort(order.begin(), order.begin() + per_row);
        std::copy_n(order.begin(), per_row, split.columns.begin() + row * per_row);
        for (std::int64_t i = 0; i < per_row; ++i) values[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])] = 0;
        std::copy(values.begin(), values.end(), rest.begin() + row * n_columns);
    });
    split.rest = make_float_weight(weight.shape, std::move(rest));
    return split;
}

Weight outliers_of(const Weight& weight, const Weight& codes, const OutlierSplit& split, ThreadPool& pool) {
    std::vector<float> values(split.columns.size());
    for_each_row(weight, pool, [&](std::int64_t row, std::vector<float>& original) {
        std::vector<float> rounded(original.size());
        codes.row(row, rounded.data());
        for (std::int64_t i = row * split.per_row; i < (row + 1) * split.per_row; ++i) {
            const auto column = static_cast<std::size_t>(split.columns[static_cast<std::size_t>(i)]);
            values[static_cast<std::size_t>(i)] = std::clamp(original[column] - rounded[column], -65504.0f, 65504.0f);
        }
    });
    std::vector<std::int64_t> rows;
    for (std::int64_t row = 0; row <= weight.n_rows(); ++row) rows.push_back(row * split.per_row);
    return make_outliers(weight.shape, DType::f16, values, split.columns, std::move(rows));
}

Weight sum_of(const Weight& codes, const Weight& outliers, ThreadPool& pool) {
    std::vector<float> sums(static_cast<std::size_t>(element_count(codes.shape)));
    for_each_row(codes, pool, [&](std::int64_t row, std::vector<float>& values) {
        std::vector<float> beside(values.size());
        outliers.row(row, beside.data());
        for (std::size_t i = 0; i < values.size(); ++i) sums[static_cast<std::size_t>(row) * values.size() + i] = values[i] + beside[i];
    });
    return make_float_weight(codes.shape, std::move(sums));
}

}  // namespace skiff
