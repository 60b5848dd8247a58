// What attention_body.h is written with, for NEON: 16 lanes in four registers, and products of a panel of the state (state_layout.h) with queries.
// Lanes and sums are in the order of AVX2, so the bits are the same. Integer operands of 14 bits are 16-bit words: ld4 takes a step of a panel apart into its
// four neighbours, each 16 lanes, and smlal multiplies eight lanes by one word.
#pragma once

#include "kernels/cpu/attention_products.h"
#include "kernels/cpu/simd_neon.h"
#include "kernels/kernels.h"

namespace skiff {
namespace {

struct Lanes {
    F8 a, b;
};
inline Lanes set_lanes(float x) { return {same(x), same(x)}; }
inline Lanes load_lanes(const float* p) { return {load(p), load(p + 8)}; }
inline std::int64_t within(std::int64_t n) { return n < 0 ? 0 : n > 8 ? 8 : n; }
inline Lanes load_first(const float* p, std::int64_t n) { return {load_tail(p, within(n)), load_tail(p + 8, within(n - 8))}; }  // n <= 16, zero behind
inline void store_lanes(float* p, Lanes x) { store(p, x.a), store(p + 8, x.b); }
inline void store_first(float* p, std::int64_t n, Lanes x) { store_tail(p, within(n), x.a), store_tail(p + 8, within(n - 8), x.b); }
inline Lanes load_f16(const std::uint16_t* p) { return {f16_to_f32(p), f16_to_f32(p + 8)}; }
inline Lanes add(Lanes x, Lanes y) { return {add(x.a, y.a), add(x.b, y.b)}; }
inline Lanes mul(Lanes x, Lanes y) { return {multiply(x.a, y.a), multiply(x.b, y.b)}; }
inline Lanes div(Lanes x, Lanes y) { return {divide(x.a, y.a), divide(x.b, y.b)}; }
inline Lanes fma(Lanes x, Lanes y, Lanes z) { return {fma(x.a, y.a, z.a), fma(x.b, y.b, z.b)}; }
inline Lanes greater(Lanes x, Lanes y) { return {larger(x.a, y.a), larger(x.b, y.b)}; }
inline Lanes magnitude(Lanes x) { return {magnitude(x.a), magnitude(x.b)}; }
inline float sum_of(Lanes x) { return sum_lanes(add(x.a, x.b)); }
inline float highest_of(Lanes x) { return max_lanes(larger(x.a, x.b)); }
// Lanes begin .. end - 1 of x, `other` elsewhere.
inline F8 between_of_8(F8 x, std::int64_t begin, std::int64_t end, F8 other) { return select(tail_mask(within(end)), select(tail_mask(within(begin)), other, x), other); }
inline Lanes between(Lanes x, std::int64_t begin, std::int64_t end, Lanes other) {
    return {between_of_8(x.a, begin, end, other.a), between_of_8(x.b, begin - 8, end - 8, other.b)};
}
inline Lanes exp_lanes(Lanes x) { return {exp_ps(x.a), exp_ps(x.b)}; }
inline Lanes tanh_lanes(Lanes x) { return {tanh_ps(x.a), tanh_ps(x.b)}; }

// ---- numbers as codes of 14 bits: words in order.
// x * inverse must lie in -16256 .. 16256. Returns the sum of 16 codes in each lane added to `sum`.
using CodeSum = int32x4_t;
inline CodeSum no_codes() { return vdupq_n_s32(0); }
inline CodeSum put_codes(Lanes x, float inverse, std::byte* codes, std::int64_t i, std::int64_t, CodeSum sum) {
    auto* words = reinterpret_cast<std::int16_t*>(codes) + i;
    const auto code = [&](float32x4_t value) { return vcvtnq_s32_f32(vmulq_n_f32(value, inverse)); };
    const int32x4_t a = code(x.a.low), b = code(x.a.high), c = code(x.b.low), d = code(x.b.high);
    vst1q_s16(words, vcombine_s16(vmovn_s32(a), vmovn_s32(b)));
    vst1q_s16(words + 8, vcombine_s16(vmovn_s32(c), vmovn_s32(d)));
    return vaddq_s32(sum, vaddq_s32(vaddq_s32(a, b), vaddq_s32(c, d)));
}
inline std::int32_t total_of(CodeSum x) { return vaddvq_s32(x); }
// Of n codes from begin on.
inline std::int32_t sum_codes(const std::byte* codes, std::int64_t begin, std::int64_t n, std::int64_t) {
    const auto* words = reinterpret_cast<const std::int16_t*>(codes);
    std::int32_t sum = 0;
    for (std::int64_t i = begin; i < begin + n; ++i) sum += words[i];
    return sum;
}

// out[k][lane] = sum along the panel of x[k] times the panel's numbers.
template <StateScheme S, int Q>
void float_product(const FloatProduct& p, const float* x, std::int64_t panel, float* out) {
    Lanes sum[Q];
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) sum[k] = set_lanes(0);
    constexpr std::int64_t step_bytes = S == StateScheme::f16 ? 32 : 64, numbers = S == StateScheme::bf16 ? 2 : 1;
    const std::byte* step = p.panels + panel * p.panel_bytes + p.first_step * step_bytes;
    x += p.first_step * numbers;
    for (std::int64_t i = 0; i < p.n_steps; ++i, step += step_bytes, x += numbers) {
        Lanes even, odd;
        if constexpr (S == StateScheme::f32) {
            even = load_lanes(reinterpret_cast<const float*>(step));
        } else if constexpr (S == StateScheme::f16) {
            even = load_f16(reinterpret_cast<const std::uint16_t*>(step));
        } else {
            const auto* pairs = reinterpret_cast<const std::uint32_t*>(step);
            const auto upper = [&](int quarter) { return vreinterpretq_f32_u32(vandq_u32(vld1q_u32(pairs + quarter * 4), vdupq_n_u32(0xffff0000u))); };
            const auto lower = [&](int quarter) { return vreinterpretq_f32_u32(vshlq_n_u32(vld1q_u32(pairs + quarter * 4), 16)); };
            even = {{lower(0), lower(1)}, {lower(2), lower(3)}};
            odd = {{upper(0), upper(1)}, {upper(2), upper(3)}};
        }
        SKIFF_UNROLL
        for (int k = 0; k < Q; ++k) {
            sum[k] = fma(set_lanes(x[k * p.x_stride]), even, sum[k]);
            if constexpr (S == StateScheme::bf16) sum[k] = fma(set_lanes(x[k * p.x_stride + 1]), odd, sum[k]);
        }
    }
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) store_lanes(out + k * p.out_stride + panel * state_lanes, sum[k]);
}

// Integer sums of 16 lanes.
struct Whole {
    int32x4_t part[4];
};
inline Whole no_sum() { return {{vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)}}; }
// + 16 bytes times a code
inline void add_product(Whole& sum, uint8x16_t bytes, std::int16_t code) {
    const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes))), high = vreinterpretq_s16_u16(vmovl_high_u8(bytes));
    const int16x4_t word = vdup_n_s16(code);
    sum.part[0] = vmlal_s16(sum.part[0], vget_low_s16(low), word);
    sum.part[1] = vmlal_high_s16(sum.part[1], low, vcombine_s16(word, word));
    sum.part[2] = vmlal_s16(sum.part[2], vget_low_s16(high), word);
    sum.part[3] = vmlal_high_s16(sum.part[3], high, vcombine_s16(word, word));
}
inline Lanes as_float(const Whole& sum, std::int32_t correction) {
    const auto value = [&](int i) { return vcvtq_f32_s32(vsubq_s32(sum.part[i], vdupq_n_s32(correction))); };
    return {{value(0), value(1)}, {value(2), value(3)}};
}
inline uint8x16x4_t neighbours(const std::byte* step) { return vld4q_u8(reinterpret_cast<const std::uint8_t*>(step)); }
inline uint8x16_t low_nibble(uint8x16_t x) { return vandq_u8(x, vdupq_n_u8(15)); }
inline uint8x16_t high_nibble(uint8x16_t x) { return vshrq_n_u8(x, 4); }
inline const std::int16_t* words_of(const CodeProduct& p, std::int64_t query) { return reinterpret_cast<const std::int16_t*>(p.codes + query * p.code_stride); }

template <int Q>
void int8_product(const CodeProduct& p, std::int64_t query, std::int64_t panel) {
    Whole sum[Q];
    const std::int16_t* x[Q];
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) sum[k] = no_sum(), x[k] = words_of(p, query + k) + p.first_step * 4;
    const std::byte* step = p.panels + panel * p.panel_bytes + p.first_step * 64;
    for (std::int64_t i = 0; i < p.n_steps; ++i, step += 64) {
        const uint8x16x4_t bytes = neighbours(step);
        SKIFF_UNROLL
        for (int n = 0; n < 4; ++n) {
            SKIFF_UNROLL
            for (int k = 0; k < Q; ++k) add_product(sum[k], bytes.val[n], x[k][i * 4 + n]);
        }
    }
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) {
        Lanes value = mul(as_float(sum[k], 128 * p.sums[(query + k) * p.sum_stride]), set_lanes(p.factors[query + k]));
        if (p.lane_scales != nullptr) value = mul(value, load_f16(p.lane_scales + panel * state_lanes));
        store_lanes(p.out + (query + k) * p.out_stride + panel * state_lanes, value);
    }
}

// Keys of 4 bit: groups of 32 dimensions, 4 steps of 8, each with 16 scales.
template <int Q>
void int4_key_product(const CodeProduct& p, std::int64_t query, std::int64_t panel) {
    Lanes total[Q];
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) total[k] = set_lanes(0);
    const std::byte* step = p.panels + panel * p.panel_bytes;
    const std::uint16_t* scales = p.lane_scales + panel * state_lanes;
    for (std::int64_t i = 0, group = 0; i < p.n_steps; ++group, scales += attention_chunk) {
        Whole sum[Q];
        SKIFF_UNROLL
        for (int k = 0; k < Q; ++k) sum[k] = no_sum();
        for (const std::int64_t end = i + 4 < p.n_steps ? i + 4 : p.n_steps; i < end; ++i, step += 64) {
            const uint8x16x4_t bytes = neighbours(step);
            SKIFF_UNROLL
            for (int n = 0; n < 4; ++n) {
                SKIFF_UNROLL
                for (int k = 0; k < Q; ++k) {
                    const std::int16_t* code = words_of(p, query + k) + i * 8;
                    add_product(sum[k], low_nibble(bytes.val[n]), code[n]);
                    add_product(sum[k], high_nibble(bytes.val[n]), code[4 + n]);
                }
            }
        }
        const Lanes scale = load_f16(scales);
        SKIFF_UNROLL
        for (int k = 0; k < Q; ++k) total[k] = fma(as_float(sum[k], 8 * p.sums[(query + k) * p.sum_stride + group]), scale, total[k]);
    }
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) store_lanes(p.out + (query + k) * p.out_stride + panel * state_lanes, mul(total[k], set_lanes(p.factors[query + k])));
}

// Values of 4 bit: one panel of 32 dimensions, 4 positions in a step.
template <int Q>
void int4_value_product(const CodeProduct& p, std::int64_t query, std::int64_t panel) {
    Whole low[Q], high[Q];
    const std::int16_t* x[Q];
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) low[k] = high[k] = no_sum(), x[k] = words_of(p, query + k) + p.first_step * 4;
    const std::byte* step = p.panels + panel * p.panel_bytes + p.first_step * 64;
    for (std::int64_t i = 0; i < p.n_steps; ++i, step += 64) {
        const uint8x16x4_t bytes = neighbours(step);
        SKIFF_UNROLL
        for (int n = 0; n < 4; ++n) {
            SKIFF_UNROLL
            for (int k = 0; k < Q; ++k) {
                add_product(low[k], low_nibble(bytes.val[n]), x[k][i * 4 + n]);
                add_product(high[k], high_nibble(bytes.val[n]), x[k][i * 4 + n]);
            }
        }
    }
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) {
        const std::int32_t correction = 8 * p.sums[(query + k) * p.sum_stride];
        float* out = p.out + (query + k) * p.out_stride + panel * 2 * state_lanes;
        store_lanes(out, mul(as_float(low[k], correction), set_lanes(p.factors[query + k])));
        store_lanes(out + state_lanes, mul(as_float(high[k], correction), set_lanes(p.factors[query + k])));
    }
}

template <StateScheme S, int Q>
void float_panels(const FloatProduct& p, std::int64_t query) {
    for (std::int64_t panel = 0; panel < p.n_panels; ++panel) float_product<S, Q>(p, p.x + query * p.x_stride, panel, p.out + query * p.out_stride);
}

// Four queries at a time (values of 4 bit: two), then the rest.
template <StateScheme S>
void multiply_floats(const FloatProduct& p, std::int64_t n) {
    std::int64_t k = 0;
    for (; k + 4 <= n; k += 4) float_panels<S, 4>(p, k);
    if (n - k == 3) float_panels<S, 3>(p, k);
    if (n - k == 2) float_panels<S, 2>(p, k);
    if (n - k == 1) float_panels<S, 1>(p, k);
}
inline void multiply_int8(const CodeProduct& p, std::int64_t n) {
    for (std::int64_t panel = 0; panel < p.n_panels; ++panel) {
        std::int64_t k = 0;
        for (; k + 4 <= n; k += 4) int8_product<4>(p, k, panel);
        for (; k + 2 <= n; k += 2) int8_product<2>(p, k, panel);
        if (k < n) int8_product<1>(p, k, panel);
    }
}
inline void multiply_int4_keys(const CodeProduct& p, std::int64_t n) {
    for (std::int64_t panel = 0; panel < p.n_panels; ++panel) {
        std::int64_t k = 0;
        for (; k + 2 <= n; k += 2) int4_key_product<2>(p, k, panel);
        if (k < n) int4_key_product<1>(p, k, panel);
    }
}
inline void multiply_int4_values(const CodeProduct& p, std::int64_t n) {
    for (std::int64_t panel = 0; panel < p.n_panels; ++panel) {
        std::int64_t k = 0;
        for (; k + 2 <= n; k += 2) int4_value_product<2>(p, k, panel);
        if (k < n) int4_value_product<1>(p, k, panel);
    }
}

// ---- rows on their way into the state
// 16 numbers as bits of f16 or bf16, to nearest even; f16 saturates, NaN stays NaN.
inline uint16x8_t to_f16(F8 x) {
    const auto half = [](float32x4_t value) { return vreinterpret_u16_f16(vcvt_f16_f32(vminq_f32(vdupq_n_f32(65504.0f), vmaxq_f32(vdupq_n_f32(-65504.0f), value)))); };
    return vcombine_u16(half(x.low), half(x.high));
}
inline void put_f16(Lanes x, std::uint16_t* target) { vst1q_u16(target, to_f16(x.a)), vst1q_u16(target + 8, to_f16(x.b)); }
inline uint16x4_t to_bf16(float32x4_t x) {
    const uint32x4_t bits = vreinterpretq_u32_f32(x), upper = vshrq_n_u32(bits, 16), odd = vandq_u32(upper, vdupq_n_u32(1));
    const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
    return vmovn_u32(vbslq_u32(vceqq_f32(x, x), rounded, vorrq_u32(upper, vdupq_n_u32(0x40))));
}
inline void put_bf16(Lanes x, std::uint16_t* target) {
    vst1q_u16(target, vcombine_u16(to_bf16(x.a.low), to_bf16(x.a.high)));
    vst1q_u16(target + 8, vcombine_u16(to_bf16(x.b.low), to_bf16(x.b.high)));
}
// 16 codes between low and high, plus an offset, as bytes.
inline void put_bytes(Lanes x, float inverse, int low, int high, int offset, std::uint8_t* target) {
    const auto code = [&](float32x4_t value) {
        const int32x4_t rounded = vcvtnq_s32_f32(vmulq_n_f32(value, inverse));
        return vmovn_u32(vreinterpretq_u32_s32(vaddq_s32(vminq_s32(vdupq_n_s32(high), vmaxq_s32(vdupq_n_s32(low), rounded)), vdupq_n_s32(offset))));
    };
    vst1q_u8(target, vcombine_u8(vmovn_u16(vcombine_u16(code(x.a.low), code(x.a.high))), vmovn_u16(vcombine_u16(code(x.b.low), code(x.b.high)))));
}

}  // namespace
}  // namespace skiff
