#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "kernels/ref/ref.h"

namespace skiff {

// Any layout, through its row function; sums in double.
void linear_ref(const LinearArgs& args, Range rows) {
    const std::int64_t n_columns = args.weight->n_columns;
    std::vector<float> row(static_cast<std::size_t>(n_columns));
    for (std::int64_t r = rows.begin; r < rows.end; ++r) {
        args.weight->layout->row(*args.weight, r, row.data());
        for (std::int64_t token = 0; token < args.n_tokens; ++token) {
            const float* x = args.x.f32 + token * n_columns;
            double sum[4] = {};  // four chains, so that the loop is not bound by the latency of one add
            std::int64_t c = 0;
            for (; c + 4 <= n_columns; c += 4)
                for (int lane = 0; lane < 4; ++lane) sum[lane] += static_cast<double>(row[static_cast<std::size_t>(c + lane)]) * x[c + lane];
            for (; c < n_columns; ++c) sum[0] += static_cast<double>(row[static_cast<std::size_t>(c)]) * x[c];
            auto value = static_cast<float>((sum[0] + sum[1]) + (sum[2] + sum[3]));
            if (args.bias != nullptr) value += args.bias[r];
            float& y = args.y[token * args.y_stride + r];
            y = args.write == LinearArgs::Write::add ? y + value : value;
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
