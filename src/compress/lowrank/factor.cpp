#include "compress/lowrank/factor.h"

#include <algorithm>
#include <cmath>

#include "compress/algebra/algebra.h"

namespace skiff {
namespace {

Result<Factors> of_product(const std::vector<float>& seen, std::int64_t n_rows) {
    const std::int64_t n_columns = static_cast<std::int64_t>(seen.size()) / n_rows;
    SKIFF_TRY(auto svd, singular_values({seen.begin(), seen.end()}, n_rows, n_columns));
    return Factors{n_rows, n_columns, std::move(svd.s), std::move(svd.u)};
}

Result<Factors> plain_svd(std::span<const float> w, std::int64_t n_rows, const InputStatistics*, ThreadPool&) { return of_product({w.begin(), w.end()}, n_rows); }

// ASVD (Yuan et al. 2023): columns count by the root of their inputs' mean magnitude.
Result<Factors> scaled_svd(std::span<const float> w, std::int64_t n_rows, const InputStatistics* inputs, ThreadPool& pool) {
    if (inputs == nullptr) return plain_svd(w, n_rows, inputs, pool);
    std::vector<float> seen(w.begin(), w.end());
    const std::size_t n = inputs->mean_absolute.size();
    for (std::size_t i = 0; i < seen.size(); ++i) seen[i] *= std::sqrt(std::max(inputs->mean_absolute[i % n], 1e-12f));
    return of_product(seen, n_rows);
}

// SVD-LLM (Wang et al. 2024): with the second moments H = L L^T of the inputs, ||(W - W') L||_F^2 is the error of the output itself. The left vectors of W L
// are the main directions of the output; up * up^T * W keeps those, and L is never inverted.
Result<Factors> whitened_svd(std::span<const float> w, std::int64_t n_rows, const InputStatistics* inputs, ThreadPool& pool) {
    if (inputs == nullptr) return plain_svd(w, n_rows, inputs, pool);
    const std::size_t n = inputs->mean_square.size();
    double mean = 0;
    for (std::size_t i = 0; i < n; ++i) mean += static_cast<double>(inputs->gram[i * n + i]) / static_cast<double>(n);
    std::vector<double> factor;
    for (double damping = 1e-7;; damping *= 10) {
        factor.assign(inputs->gram.begin(), inputs->gram.end());
        for (std::size_t i = 0; i < n; ++i) factor[i * n + i] += damping * mean + 1e-30;
        if (cholesky_upper(factor.data(), static_cast<std::int64_t>(n))) break;
        if (damping > 1) return runtime_error("the second moments of its inputs are not positive definite; give more calibration text");
    }
    const std::vector<float> upper(factor.begin(), factor.end());  // H = U^T U: L is U^T
    std::vector<float> seen(w.size());
    const auto columns = static_cast<std::int64_t>(n);
    multiply({.m = n_rows, .n = columns, .k = columns, .a = w.data(), .a_stride = columns, .b = upper.data(), .b_stride = columns, .b_as = Product::As::transposed, .c = seen.data(), .c_stride = columns}, pool);
    return of_product(seen, n_rows);
}

constexpr FactorMethod methods[] = {
    {"svd-llm", "least error of the operator's output on the calibration text", StatisticsNeed::gram, whitened_svd},
    {"asvd", "singular values of the weight with columns scaled by the root of their inputs' mean magnitude", StatisticsNeed::moments, scaled_svd},
    {"svd", "singular values of the weight alone; needs no data", StatisticsNeed::none, plain_svd},
};

}  // namespace

std::span<const FactorMethod> factor_methods() { return methods; }

Result<const FactorMethod*> find_factor_method(std::string_view name) {
    std::string known;
    for (const FactorMethod& method : methods) {
        if (method.name == name) return &method;
        known += (known.empty() ? "" : ", ") + std::string(method.name);
    }
    return usage_error("no factorization is called \"" + std::string(name.substr(0, 64)) + "\"; there are: " + known + ", correction");
}

ThinPair thin_pair(const Factors& factors, std::span<const float> w, std::int64_t rank, ThreadPool& pool) {
    const auto k = static_cast<std::size_t>(factors.values.size()), r = static_cast<std::size_t>(rank), m = static_cast<std::size_t>(factors.n_rows);
    ThinPair pair;
    pair.up.resize(m * r);
    for (std::size_t row = 0; row < m; ++row)
        for (std::size_t i = 0; i < r; ++i) pair.up[row * r + i] = static_cast<float>(factors.left[row * k + i]);
    pair.down.resize(r * static_cast<std::size_t>(factors.n_columns));
    multiply({.m = rank, .n = factors.n_columns, .k = factors.n_rows, .a = pair.up.data(), .a_stride = rank, .a_as = Product::As::transposed, .b = w.data(), .b_stride = factors.n_columns, .c = pair.down.data(),
              .c_stride = factors.n_columns}, pool);
    return pair;
}

std::vector<float> product_of(const ThinPair& pair, std::int64_t n_rows, std::int64_t n_columns, ThreadPool& pool) {
    std::vector<float> w(static_cast<std::size_t>(n_rows * n_columns));
    const std::int64_t rank = static_cast<std::int64_t>(pair.up.size()) / n_rows;
    multiply({.m = n_rows, .n = n_columns, .k = rank, .a = pair.up.data(), .a_stride = rank, .b = pair.down.data(), .b_stride = n_columns, .c = w.data(), .c_stride = n_columns}, pool);
    return w;
}

}  // namespace skiff
