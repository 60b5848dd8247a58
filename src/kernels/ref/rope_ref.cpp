#include <cmath>

#include "kernels/ref/ref.h"

namespace skiff {

// RoFormer (Su et al. 2021), eq. 34.
void rope_ref(const RopeArgs& args, Range tokens) {
    const std::int64_t half = args.rotary_dim / 2;
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
        const auto position = static_cast<float>(args.positions[token]);
        for (std::int64_t i = 0; i < half; ++i) {
            const float angle = position * args.inv_freq[i];
            const float cosine = std::cos(angle) * args.magnitude, sine = std::sin(angle) * args.magnitude;
            for (std::int64_t head = 0; head < args.n_heads; ++head) {
                float* x = args.x + (token * args.n_heads + head) * args.head_dim;
                float& first = args.style == RopeStyle::half ? x[i] : x[2 * i];
                float& second = args.style == RopeStyle::half ? x[i + half] : x[2 * i + 1];
                const float a = first, b = second;
                first = a * cosine - b * sine;
                second = b * cosine + a * sine;
            }
        }
    }
}

}  // namespace skiff
