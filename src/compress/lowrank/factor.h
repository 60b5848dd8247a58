// The best product of two thin matrices for a weight, as each method measures what is best.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "compress/calibrate/statistics.h"

namespace skiff {

// W = left * diag(values) * ..., seen through what the method takes for its inputs: up = the first r columns of `left`, down = up^T W. As `left` is orthonormal
// in those columns, the loss of rank r is the sum of the squared values behind the r-th.
struct Factors {
    std::int64_t n_rows = 0, n_columns = 0;
    std::vector<double> values;  // descending // (k), k = min(n_rows, n_columns)
    std::vector<double> left;    // (n_rows, k) f64
};

struct FactorMethod {
    std::string_view name, summary;
    StatisticsNeed needs = StatisticsNeed::none;
    // w: (n_rows, n_columns) f32. `inputs` may be null where nothing was measured: then as if all inputs were alike.
    Result<Factors> (*factor)(std::span<const float> w, std::int64_t n_rows, const InputStatistics* inputs, ThreadPool& pool) = nullptr;
};

std::span<const FactorMethod> factor_methods();
Result<const FactorMethod*> find_factor_method(std::string_view name);  // a usage error lists the names

struct ThinPair {
    std::vector<float> up, down;  // (n_rows, rank), (rank, n_columns) f32
};
ThinPair thin_pair(const Factors& factors, std::span<const float> w, std::int64_t rank, ThreadPool& pool);
std::vector<float> product_of(const ThinPair& pair, std::int64_t n_rows, std::int64_t n_columns, ThreadPool& pool);

}  // namespace skiff
