// Compiled with -O3, so that both loops become vector code.
#include "measure/row_exp.h"

#include <bit>

namespace skiff {
namespace {

// exp(x) = 2^n * exp(r), n = round(x / ln 2), |r| <= ln(2)/2; Cody-Waite reduction, Taylor polynomial of degree 7 (error 3e-9 there).
inline float exp_nonpositive(float x) {
    constexpr float log2_e = 1.44269504f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f, magic = 12582912.0f;  // 1.5 * 2^23 rounds to an integer
    const float clamped = x < -87.0f ? -87.0f : x;
    const float rounded = clamped * log2_e + magic;
    const float n = rounded - magic;
    const float r = (clamped - n * ln2_high) - n * ln2_low;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const std::int32_t exponent = std::bit_cast<std::int32_t>(rounded) - std::bit_cast<std::int32_t>(magic);
    const float scale = std::bit_cast<float>((exponent + 127) << 23);
    return x < -87.0f ? 0.0f : p * scale;
}

}  // namespace

double row_exp(const float* x, std::int64_t n, float max, float* target) {
    for (std::int64_t i = 0; i < n; ++i) target[i] = exp_nonpositive(x[i] - max);
    double lanes[4] = {};
    std::int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int lane = 0; lane < 4; ++lane) lanes[lane] += static_cast<double>(target[i + lane]);
    for (; i < n; ++i) lanes[0] += static_cast<double>(target[i]);
    return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

}  // namespace skiff
