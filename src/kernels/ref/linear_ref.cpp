#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "kernels/ref/ref.h"

namespace skiff {

namespace {

using Float4 = float __attribute__((vector_size(16), aligned(4), may_alias));
using Double4 = double __attribute__((vector_size(32), aligned(8), may_alias));

// Compiled for two widths of vectors, chosen when the program starts. A product of two floats is exact in double, so that fused or not the bits are the same.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define SKIFF_EACH_WIDTH __attribute__((target_clones("default", "arch=x86-64-v3")))
#else
#define SKIFF_EACH_WIDTH
#endif

// results[i] = row . x[i] for n_inputs rows of x: four chains of sums for each input and the inputs side by side, so that no add waits for the one before. The
// bits do not depend on what stands beside an input.
template <int n_inputs>
inline __attribute__((always_inline)) void products_of(const double* row, const float* x, std::int64_t n_columns, double* results) {
    Double4 sums[n_inputs] = {};
    std::int64_t c = 0;
    for (; c + 4 <= n_columns; c += 4) {
        const Double4 weights = *reinterpret_cast<const Double4*>(row + c);
#pragma GCC unroll 4
        for (int i = 0; i < n_inputs; ++i) sums[i] += weights * __builtin_convertvector(*reinterpret_cast<const Float4*>(x + i * n_columns + c), Double4);
    }
    for (int i = 0; i < n_inputs; ++i) {
        for (std::int64_t rest = c; rest < n_columns; ++rest) sums[i][0] += row[rest] * static_cast<double>(x[i * n_columns + rest]);
        results[i] = (sums[i][0] + sums[i][1]) + (sums[i][2] + sums[i][3]);
    }
}

constexpr std::int64_t most_inputs = 4;
SKIFF_EACH_WIDTH void products(const double* row, const float* x, std::int64_t n_columns, std::int64_t n_inputs, double* results) {
    if (n_inputs == most_inputs) return products_of<most_inputs>(row, x, n_columns, results);
    for (std::int64_t i = 0; i < n_inputs; ++i) products_of<1>(row, x + i * n_columns, n_columns, results + i);
}

}  // namespace

// Any layout, through its row function; sums in double.
void linear_ref(const LinearArgs& args, Range rows) {
    const std::int64_t n_columns = args.weight->n_columns;
    std::vector<float> row(static_cast<std::size_t>(n_columns));
    for (std::int64_t r = rows.begin; r < rows.end; ++r) {
        args.weight->layout->row(*args.weight, r, row.data());
        const std::vector<double> wide(row.begin(), row.end());
        for (std::int64_t first = 0; first < args.n_tokens; first += most_inputs) {
            double sums[most_inputs];
            const std::int64_t n = std::min(most_inputs, args.n_tokens - first);
            products(wide.data(), args.x.f32 + first * n_columns, n_columns, n, sums);
            for (std::int64_t i = 0; i < n; ++i) {
                auto value = static_cast<float>(sums[i]);
                if (args.bias != nullptr) value += args.bias[r];
                float& y = args.y[(first + i) * args.y_stride + r];
                y = args.write == LinearArgs::Write::add ? y + value : value;
            }
        }
    }
}

void linear_outliers(const LinearArgs& args, Range rows) {
    const auto* begins = reinterpret_cast<const std::uint32_t*>(args.weight->data);
    const auto* columns = reinterpret_cast<const std::uint16_t*>(args.weight->scales);
    const auto* values = reinterpret_cast<const float*>(args.weight->zeros);
    for (std::int64_t r = rows.begin; r < rows.end; ++r)
        for (std::int64_t token = 0; token < args.n_tokens; ++token) {
            const float* x = args.x.f32 + token * args.weight->n_columns;
            float sum[2] = {};
            std::uint32_t i = begins[r];
            for (; i + 2 <= begins[r + 1]; i += 2) sum[0] += values[i] * x[columns[i]], sum[1] += values[i + 1] * x[columns[i + 1]];
            if (i < begins[r + 1]) sum[0] += values[i] * x[columns[i]];
            float value = sum[0] + sum[1];
            if (args.bias != nullptr) value += args.bias[r];
            float& y = args.y[token * args.y_stride + r];
            y = args.write == LinearArgs::Write::add ? y + value : value;
        }
}

void quantize_ref(const QuantizeArgs& args, Range tokens) {
    const std::int64_t n_blocks = args.padded_columns / 32;
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
        const float* x = args.x + token * args.n_columns;
        std::int8_t* codes = args.codes + token * args.padded_columns;
        for (std::int64_t block = 0; block < n_blocks; ++block) {
            const std::int64_t begin = block * 32, end = std::min(begin + 32, args.n_columns);
            std::uint32_t largest_bits = 0;  // magnitudes compare like integers, and NaN is above all of them
            for (std::int64_t i = begin; i < end; ++i) largest_bits = std::max(largest_bits, std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffu);
            const auto largest = std::bit_cast<float>(largest_bits);
            const bool fixed = args.fixed_scale > 0 && largest <= 3.0e38f;
            const bool countable = fixed || (largest >= 1e-30f && largest <= 3.0e38f);  // else nothing, or an infinite or NaN scale that shows in the result
            const float scale = fixed ? args.fixed_scale : largest / 127.0f, inverse = fixed ? 1.0f / args.fixed_scale : countable ? 127.0f / largest : 0.0f;
            std::int16_t* sums = args.sums + (token * n_blocks + block) * 4;
            std::fill_n(sums, 4, std::int16_t{0});
            for (std::int64_t i = begin; i < begin + 32; ++i) {
                const auto code = static_cast<std::int32_t>(i < end && countable ? std::nearbyint(std::clamp(x[i] * inverse, -127.0f, 127.0f)) : 0.0f);
                codes[i] = static_cast<std::int8_t>(code);
                std::int16_t& sum = sums[(i - begin) / 16 * 2 + i % 4 / 2];
                sum = static_cast<std::int16_t>(sum + code);
            }
            args.scales[token * n_blocks + block] = scale;
        }
    }
}

}  // namespace skiff
