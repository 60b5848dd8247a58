#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/ref/ref.h"

namespace skiff {

void state_write_ref(const StateWriteArgs& args, Range tokens) {
    const DTypeInfo& info = dtype_info(args.state_dtype);
    const std::int64_t row_bytes = args.width * info.bits / 8;
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token)
        info.from_float(args.x + token * args.width, args.width, args.rows[token] + args.positions[token] * row_bytes);
}

// softmax(q k^T * scale) v, one token and one query head at a time, two passes, sums in double.
void attention_ref(const AttentionArgs& args, Range items) {
    const DTypeInfo& info = dtype_info(args.state_dtype);
    const std::int64_t group = args.n_heads / args.n_kv_heads, head_bytes = args.head_dim * info.bits / 8;
    const std::int64_t row_bytes = head_bytes * args.n_kv_heads;
    std::vector<float> row(static_cast<std::size_t>(args.head_dim));
    std::vector<double> scores, sum(static_cast<std::size_t>(args.head_dim));
    for (std::int64_t item = items.begin; item < items.end; ++item) {
        const std::int64_t token = item / args.n_kv_heads, kv_head = item % args.n_kv_heads;
        const std::int64_t last = args.positions[token];
        const std::int64_t first = args.window > 0 ? std::max<std::int64_t>(0, last - args.window + 1) : 0;
        for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
            const float* q = args.q + (token * args.n_heads + head) * args.head_dim;
            scores.clear();
            double highest = -INFINITY;
            for (std::int64_t p = first; p <= last; ++p) {
                info.to_float(args.keys[token] + p * row_bytes + kv_head * head_bytes, args.head_dim, row.data());
                double score = 0;
                for (std::int64_t i = 0; i < args.head_dim; ++i) score += static_cast<double>(q[i]) * row[static_cast<std::size_t>(i)];
                score *= args.scale;
                if (args.softcap > 0) score = args.softcap * std::tanh(score / args.softcap);
                highest = std::max(highest, score);
                scores.push_back(score);
            }
            double total = 0;
            std::fill(sum.begin(), sum.end(), 0.0);
            for (std::int64_t p = first; p <= last; ++p) {
                const double weight = std::exp(scores[static_cast<std::size_t>(p - first)] - highest);
                total += weight;
                info.to_float(args.values[token] + p * row_bytes + kv_head * head_bytes, args.head_dim, row.data());
                for (std::int64_t i = 0; i < args.head_dim; ++i) sum[static_cast<std::size_t>(i)] += weight * row[static_cast<std::size_t>(i)];
            }
            float* y = args.y + (token * args.n_heads + head) * args.head_dim;
            for (std::int64_t i = 0; i < args.head_dim; ++i) y[i] = static_cast<float>(sum[static_cast<std::size_t>(i)] / total);
        }
    }
}

}  // namespace skiff
