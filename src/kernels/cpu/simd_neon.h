// Vector helpers for the *_neon*.cpp units, and for them alone: all are static. Eight lanes in two registers, in the order of sums of simd_avx2.h, so that
// a float kernel gives the same bits on both.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#if defined(__clang__)
#define SKIFF_UNROLL _Pragma("unroll")
#else
#define SKIFF_UNROLL _Pragma("GCC unroll 16")
#endif

namespace skiff {
namespace {

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"

struct F8 {
    float32x4_t low, high;
};

inline F8 load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
inline void store(float* p, F8 x) { vst1q_f32(p, x.low), vst1q_f32(p + 4, x.high); }
inline F8 same(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
inline F8 zeros() { return same(0); }

// The first n of 8 lanes, 0 <= n <= 8; the others are zero.
inline F8 load_tail(const float* p, std::int64_t n) {
    if (n >= 8) return load(p);
    float values[8] = {};
    for (std::int64_t i = 0; i < n; ++i) values[i] = p[i];
    return load(values);
}
inline void store_tail(float* p, std::int64_t n, F8 x) {
    if (n >= 8) return store(p, x);
    float values[8];
    store(values, x);
    for (std::int64_t i = 0; i < n; ++i) p[i] = values[i];
}
// All ones in the first n lanes.
struct Mask8 {
    uint32x4_t low, high;
};
inline Mask8 tail_mask(std::int64_t n) {
    const uint32x4_t lanes = {0, 1, 2, 3};
    const auto limit = static_cast<std::uint32_t>(n);
    return {vcltq_u32(lanes, vdupq_n_u32(limit)), vcltq_u32(vaddq_u32(lanes, vdupq_n_u32(4)), vdupq_n_u32(limit))};
}
inline F8 select(Mask8 mask, F8 a, F8 b) { return {vbslq_f32(mask.low, a.low, b.low), vbslq_f32(mask.high, a.high, b.high)}; }

inline F8 add(F8 a, F8 b) { return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)}; }
inline F8 subtract(F8 a, F8 b) { return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)}; }
inline F8 multiply(F8 a, F8 b) { return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)}; }
inline F8 divide(F8 a, F8 b) { return {vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)}; }
inline F8 fma(F8 a, F8 b, F8 c) { return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)}; }    // a b + c
inline F8 fnma(F8 a, F8 b, F8 c) { return {vfmsq_f32(c.low, a.low, b.low), vfmsq_f32(c.high, a.high, b.high)}; }   // c - a b
inline F8 larger(F8 a, F8 b) { return {vmaxq_f32(a.low, b.low), vmaxq_f32(a.high, b.high)}; }                      // NaN if one is
inline F8 smaller(F8 a, F8 b) { return {vminq_f32(a.low, b.low), vminq_f32(a.high, b.high)}; }
inline F8 negate(F8 a) { return {vnegq_f32(a.low), vnegq_f32(a.high)}; }
inline F8 magnitude(F8 a) { return {vabsq_f32(a.low), vabsq_f32(a.high)}; }
inline F8 round_to_even(F8 a) { return {vrndnq_f32(a.low), vrndnq_f32(a.high)}; }
inline Mask8 less(F8 a, F8 b) { return {vcltq_f32(a.low, b.low), vcltq_f32(a.high, b.high)}; }

// Fixed tree: lanes i and i+4, then i and i+2, then i and i+1.
inline float sum_lanes(F8 x) {
    const float32x4_t four = vaddq_f32(x.low, x.high);
    return vpadds_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)));
}
inline float max_lanes(F8 x) { return vmaxvq_f32(vmaxq_f32(x.low, x.high)); }

inline F8 f16_to_f32(const void* p) {
    const float16x8_t half = vreinterpretq_f16_u16(vld1q_u16(static_cast<const std::uint16_t*>(p)));
    return {vcvt_f32_f16(vget_low_f16(half)), vcvt_high_f32_f16(half)};
}
inline F8 bf16_to_f32(const void* p) {
    const uint16x8_t upper = vld1q_u16(static_cast<const std::uint16_t*>(p));
    return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(upper), 16)), vreinterpretq_f32_u32(vshll_high_n_u16(upper, 16))};
}

inline float32x4_t power_of_two(int32x4_t k) { return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(k, vdupq_n_s32(127)), 23)); }
// p 2^n for whole n, by two factors.
inline float32x4_t scale_by_power(float32x4_t p, float32x4_t n) {
    const int32x4_t k = vcvtnq_s32_f32(n), half = vshrq_n_s32(k, 1);
    return vmulq_f32(vmulq_f32(p, power_of_two(half)), power_of_two(vsubq_s32(k, half)));
}

// e^x to 2 units in the last place: x = n ln2 + r, a polynomial of degree 7 in r, and 2^n in two factors, so that
// subnormal results and the overflow to infinity come out right. NaN stays NaN.
inline F8 exp_ps(F8 x) {
    x = larger(same(-104.0f), smaller(same(89.0f), x));
    const F8 n = round_to_even(multiply(x, same(1.44269504f)));
    F8 r = fnma(n, same(0.693359375f), x);
    r = fnma(n, same(-2.12194440e-4f), r);
    F8 p = same(1.0f / 5040);
    p = fma(p, r, same(1.0f / 720));
    p = fma(p, r, same(1.0f / 120));
    p = fma(p, r, same(1.0f / 24));
    p = fma(p, r, same(1.0f / 6));
    p = fma(p, r, same(0.5f));
    p = fma(p, r, same(1.0f));
    p = fma(p, r, same(1.0f));
    return {scale_by_power(p.low, n.low), scale_by_power(p.high, n.high)};
}

inline F8 sigmoid_ps(F8 x) { return divide(same(1.0f), add(same(1.0f), exp_ps(negate(x)))); }

// tanh x = x + x^3 P(x^2) for small x (Taylor series to x^13 below 0.4), else 1 - 2 / (e^2|x| + 1) with the sign of x.
inline F8 tanh_ps(F8 x) {
    const F8 one = same(1.0f), size = magnitude(x);
    const F8 e = exp_ps(add(size, size));
    const F8 positive = subtract(one, divide(same(2.0f), add(e, one)));
    const uint32x4_t sign_bit = vdupq_n_u32(0x80000000u);
    const F8 large = {vbslq_f32(sign_bit, x.low, positive.low), vbslq_f32(sign_bit, x.high, positive.high)};
    const F8 z = multiply(x, x);
    F8 p = same(21844.0f / 6081075);
    p = fma(p, z, same(-1382.0f / 155925));
    p = fma(p, z, same(62.0f / 2835));
    p = fma(p, z, same(-17.0f / 315));
    p = fma(p, z, same(2.0f / 15));
    p = fma(p, z, same(-1.0f / 3));
    return select(less(size, same(0.4f)), fma(multiply(p, z), x, x), large);
}

#pragma GCC diagnostic pop

}  // namespace
}  // namespace skiff
