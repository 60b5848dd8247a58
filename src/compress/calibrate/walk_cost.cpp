#include "compress/calibrate/walk_cost.h"

#include <algorithm>
#include <map>

#include "base/progress.h"
#include "compress/algebra/algebra.h"
#include "compress/calibrate/walk.h"

namespace skiff {
namespace {

// Multiply-adds per second of a product that fits the cache.
double product_rate(ThreadPool& pool) {
    constexpr std::int64_t n = 512;
    std::vector<float> a(n * n, 1.0f), c(n * n);
    double best = 0;
    for (int round = 0; round < 3; ++round) {
        const double begin = monotonic_seconds();
        multiply({.m = n, .n = n, .k = n, .a = a.data(), .a_stride = n, .b = a.data(), .b_stride = n, .c = c.data(), .c_stride = n}, pool);
        best = std::max(best, static_cast<double>(n * n * n) / (monotonic_seconds() - begin));
    }
    return best;
}

}  // namespace

WalkCost walk_cost(const ModelSpec& spec, const CalibrationText& text, StatisticsNeed need, ThreadPool& pool) {
    const auto n_tokens = static_cast<double>(text.n_tokens());
    double multiply_adds = 0;
    std::uint64_t largest_block = 0;
    for (std::size_t i = 1; i + 1 < spec.blocks.size(); ++i) {
        std::uint64_t block_bytes = 0;
        std::map<ValueId, double> rows_of;  // outputs that read each input
        for (const auto& [key, input] : linear_inputs(spec.blocks[i])) {
            const Shape shape = spec.shape(spec.tensors.at(key));
            const double n_elements = static_cast<double>(element_count(shape));
            rows_of[input] += n_elements / static_cast<double>(spec.width(input));
            multiply_adds += 2 * n_tokens * n_elements;
            block_bytes += static_cast<std::uint64_t>(element_count(shape)) * 2 * sizeof(float);  // edited, and as the plan packs them
        }
        for (const auto& [input, n_rows] : rows_of) {
            const double n = static_cast<double>(spec.width(input));
            if (need != StatisticsNeed::gram) continue;
            multiply_adds += n_tokens * n * n / 2 + 2 * n * n * n + n_rows * n * n;  // upper triangle; Cholesky and inverse in f64, twice the cost; sweep
            block_bytes += static_cast<std::uint64_t>(n * n) * (sizeof(float) + sizeof(double));
        }
        largest_block = std::max(largest_block, block_bytes);
    }
    WalkCost cost;
    cost.seconds = multiply_adds / product_rate(pool);
    cost.disk_bytes = static_cast<std::uint64_t>(text.n_tokens() * spec.d_model) * sizeof(float);
    cost.memory_bytes = cost.disk_bytes + largest_block;
    return cost;
}

}  // namespace skiff
