// What attention_body.h is written with, for NEON of Armv8.0: 16 lanes in four registers, and products of a panel of the state (state_layout.h) with
// queries. Sums of four queries and 16 lanes take 16 of 32 registers. Integer operands of 14 bits are 16-bit words: smlal sums even and odd pairs of
// codes apart, and the sums are those of the other instruction sets.
#pragma once

#include "kernels/cpu/attention_products.h"
#include "kernels/cpu/simd_neon.h"
#include "kernels/kernels.h"

namespace skiff {
namespace {

struct Lanes4x4 {
    F8 a, b;
};
using Lanes = Lanes4x4;
inline Lanes set_lanes(float x) { return {same(x), same(x)}; }
inline Lanes load_lanes(const float* p) { return {load(p), load(p + 8)}; }
inline std::int64_t within(std::int64_t n) { return n < 0 ? 0 : n > 8 ? 8 : n; }
inline Lanes load_first(const float* p, std::int64_t n) { return {load_tail(p, within(n)), n > 8 ? load_tail(p + 8, n - 8) : zeros()}; }  // n <= 16, zero behind
inline void store_lanes(float* p, Lanes x) { store(p, x.a), store(p + 8, x.b); }
inline void store_first(float* p, std::int64_t n, Lanes x) {
    store_tail(p, within(n), x.a);
    if (n > 8) store_tail(p + 8, n - 8, x.b);
}
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
inline F8 between_of_8(F8 x, std::int64_t begin, std::int64_t end, F8 other) {
    const Mask8 upto = tail_mask(within(end)), before = tail_mask(within(begin));
    return select({vbicq_u32(upto.low, before.low), vbicq_u32(upto.high, before.high)}, x, other);
}
inline Lanes between(Lanes x, std::int64_t begin, std::int64_t end, Lanes other) {
    return {between_of_8(x.a, begin, end, other.a), between_of_8(x.b, begin - 8, end - 8, other.b)};
}
inline Lanes exp_lanes(Lanes x) { return {exp_ps(x.a), exp_ps(x.b)}; }
inline Lanes tanh_lanes(Lanes x) { return {tanh_ps(x.a), tanh_ps(x.b)}; }

// ---- numbers as codes of 14 bits: words, four at a time in the order 0 2 1 3, so that even and odd bytes of a row of codes meet theirs.
// x * inverse must lie in -16256 .. 16256. Returns the sum of 16 codes in each lane added to `sum`.
using CodeSum = int32x4_t;
inline CodeSum no_codes() { return vdupq_n_s32(0); }
inline int16x8_t words_of(F8 x) { return vcombine_s16(vmovn_s32(vcvtnq_s32_f32(x.low)), vmovn_s32(vcvtnq_s32_f32(x.high))); }
inline CodeSum put_codes(Lanes x, float inverse, std::byte* codes, std::int64_t i, std::int64_t, CodeSum sum) {
    alignas(16) std::int16_t words[16];
    vst1q_s16(words, words_of(multiply(x.a, same(inverse))));
    vst1q_s16(words + 8, words_of(multiply(x.b, same(inverse))));
    auto* target = reinterpret_cast<std::int16_t*>(codes + 2 * i);
    for (int quad = 0; quad < 16; quad += 4) {
        target[quad] = words[quad], target[quad + 1] = words[quad + 2], target[quad + 2] = words[quad + 1], target[quad + 3] = words[quad + 3];
    }
    return vpadalq_s16(vpadalq_s16(sum, vld1q_s16(words)), vld1q_s16(words + 8));
}
inline std::int32_t total_of(CodeSum x) { return vaddvq_s32(x); }
// Of n codes from begin on.
inline std::int32_t sum_codes(const std::byte* codes, std::int64_t begin, std::int64_t n, std::int64_t) {
    const auto* words = reinterpret_cast<const std::int16_t*>(codes);
    std::int32_t sum = 0;
    for (std::int64_t i = begin; i < begin + n; ++i) sum += words[i];
    return sum;
}

// out[k][16 v + lane] = sum along the panel of x[k] times the panel's numbers.
template <StateScheme S, int Q>
void float_product(const FloatProduct& p, const float* x, std::int64_t panel, float* out) {
    float32x4_t sum[Q][4];
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) sum[k][0] = sum[k][1] = sum[k][2] = sum[k][3] = vdupq_n_f32(0);
    constexpr std::int64_t step_bytes = S == StateScheme::f16 ? 32 : 64, numbers = S == StateScheme::bf16 ? 2 : 1;
    const std::byte* step = p.panels + panel * p.panel_bytes + p.first_step * step_bytes;
    x += p.first_step * numbers;
    for (std::int64_t i = 0; i < p.n_steps; ++i, step += step_bytes, x += numbers) {
        fetch_ahead(step, p.ahead);
        float32x4_t even[4], odd[4];
        if constexpr (S == StateScheme::f16) {
            const Lanes row = load_f16(reinterpret_cast<const std::uint16_t*>(step));
            even[0] = row.a.low, even[1] = row.a.high, even[2] = row.b.low, even[3] = row.b.high;
        } else {
            SKIFF_UNROLL
            for (int v = 0; v < 4; ++v) {
                if constexpr (S == StateScheme::f32) {
                    even[v] = vld1q_f32(reinterpret_cast<const float*>(step) + 4 * v);
                } else {
                    const uint32x4_t pairs = vld1q_u32(reinterpret_cast<const std::uint32_t*>(step) + 4 * v);
                    even[v] = vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16));
                    odd[v] = vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff0000u)));
                }
            }
        }
        SKIFF_UNROLL
        for (int k = 0; k < Q; ++k) {
            SKIFF_UNROLL
            for (int v = 0; v < 4; ++v) {
                sum[k][v] = vfmaq_n_f32(sum[k][v], even[v], x[k * p.x_stride]);
                if constexpr (S == StateScheme::bf16) sum[k][v] = vfmaq_n_f32(sum[k][v], odd[v], x[k * p.x_stride + 1]);
            }
        }
    }
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) {
        SKIFF_UNROLL
        for (int v = 0; v < 4; ++v) vst1q_f32(out + k * p.out_stride + panel * state_lanes + v * 4, sum[k][v]);
    }
}

// Bytes of 4 lanes as words: those of even and of odd number, or of the nibbles.
struct WordRow {
    int16x8_t even, odd;
};
inline WordRow bytes_of(uint16x8_t row) { return {vreinterpretq_s16_u16(vandq_u16(row, vdupq_n_u16(255))), vreinterpretq_s16_u16(vshrq_n_u16(row, 8))}; }
inline WordRow low_nibbles_of(uint16x8_t row) { return bytes_of(vandq_u16(row, vdupq_n_u16(0x0f0f))); }
inline WordRow high_nibbles_of(uint16x8_t row) { return bytes_of(vandq_u16(vshrq_n_u16(row, 4), vdupq_n_u16(0x0f0f))); }
inline uint16x8_t read(const std::byte* p) { return vreinterpretq_u16_u8(vld1q_u8(reinterpret_cast<const std::uint8_t*>(p))); }

// Four numbers x meet four lanes: sums of the first and the last two lanes' products, two each.
struct WordSum {
    int32x4_t first, last;
};
inline WordSum multiply_words(WordSum sum, WordRow row, const std::byte* x) {
    std::int32_t pair[2];
    __builtin_memcpy(pair, x, 8);
    const int16x8_t even = vreinterpretq_s16_s32(vdupq_n_s32(pair[0])), odd = vreinterpretq_s16_s32(vdupq_n_s32(pair[1]));
    sum.first = vmlal_s16(vmlal_s16(sum.first, vget_low_s16(row.even), vget_low_s16(even)), vget_low_s16(row.odd), vget_low_s16(odd));
    sum.last = vmlal_high_s16(vmlal_high_s16(sum.last, row.even, even), row.odd, odd);
    return sum;
}
inline float32x4_t as_float(WordSum sum, std::int32_t correction) { return vcvtq_f32_s32(vsubq_s32(vpaddq_s32(sum.first, sum.last), vdupq_n_s32(correction))); }
inline Lanes as_lanes(const WordSum* sum, std::int32_t correction) {
    return {{as_float(sum[0], correction), as_float(sum[1], correction)}, {as_float(sum[2], correction), as_float(sum[3], correction)}};
}

inline void int8_product(const CodeProduct& p, std::int64_t query, std::int64_t panel) {
    WordSum sum[4];
    for (auto& lanes : sum) lanes.first = lanes.last = vdupq_n_s32(0);
    const std::byte* step = p.panels + panel * p.panel_bytes + p.first_step * 64;
    const std::byte* x = p.codes + query * p.code_stride + p.first_step * 8;
    for (std::int64_t i = 0; i < p.n_steps; ++i, step += 64, x += 8) {
        fetch_ahead(step, p.ahead);
        SKIFF_UNROLL
        for (int v = 0; v < 4; ++v) sum[v] = multiply_words(sum[v], bytes_of(read(step + v * 16)), x);
    }
    Lanes value = mul(as_lanes(sum, 128 * p.sums[query * p.sum_stride]), set_lanes(p.factors[query]));
    if (p.lane_scales != nullptr) value = mul(value, load_f16(p.lane_scales + panel * state_lanes));
    store_lanes(p.out + query * p.out_stride + panel * state_lanes, value);
}

// Keys of 4 bit: groups of 32 dimensions, 4 steps of 8, each with 16 scales.
inline void int4_key_product(const CodeProduct& p, std::int64_t query, std::int64_t panel) {
    Lanes total = set_lanes(0);
    const std::byte* step = p.panels + panel * p.panel_bytes;
    const std::byte* x = p.codes + query * p.code_stride;
    const std::uint16_t* scales = p.lane_scales + panel * state_lanes;
    for (std::int64_t i = 0, group = 0; i < p.n_steps; ++group, scales += attention_chunk) {
        WordSum sum[4];
        for (auto& lanes : sum) lanes.first = lanes.last = vdupq_n_s32(0);
        for (const std::int64_t end = i + 4 < p.n_steps ? i + 4 : p.n_steps; i < end; ++i, step += 64, x += 16) {
            fetch_ahead(step, p.ahead);
            SKIFF_UNROLL
            for (int v = 0; v < 4; ++v) {
                const uint16x8_t both = read(step + v * 16);
                sum[v] = multiply_words(multiply_words(sum[v], low_nibbles_of(both), x), high_nibbles_of(both), x + 8);
            }
        }
        total = fma(as_lanes(sum, 8 * p.sums[query * p.sum_stride + group]), load_f16(scales), total);
    }
    store_lanes(p.out + query * p.out_stride + panel * state_lanes, mul(total, set_lanes(p.factors[query])));
}

// Values of 4 bit: one panel of 32 dimensions, 4 positions in a step.
inline void int4_value_product(const CodeProduct& p, std::int64_t query, std::int64_t panel) {
    WordSum low[4], high[4];
    for (int v = 0; v < 4; ++v) low[v].first = low[v].last = high[v].first = high[v].last = vdupq_n_s32(0);
    const std::byte* step = p.panels + panel * p.panel_bytes + p.first_step * 64;
    const std::byte* x = p.codes + query * p.code_stride + p.first_step * 8;
    for (std::int64_t i = 0; i < p.n_steps; ++i, step += 64, x += 8) {
        fetch_ahead(step, p.ahead);
        SKIFF_UNROLL
        for (int v = 0; v < 4; ++v) {
            const uint16x8_t both = read(step + v * 16);
            low[v] = multiply_words(low[v], low_nibbles_of(both), x);
            high[v] = multiply_words(high[v], high_nibbles_of(both), x);
        }
    }
    const std::int32_t correction = 8 * p.sums[query * p.sum_stride];
    float* out = p.out + query * p.out_stride + panel * 2 * state_lanes;
    store_lanes(out, mul(as_lanes(low, correction), set_lanes(p.factors[query])));
    store_lanes(out + state_lanes, mul(as_lanes(high, correction), set_lanes(p.factors[query])));
}

template <StateScheme S>
void multiply_floats(const FloatProduct& p, std::int64_t n) {
    for (std::int64_t panel = 0; panel < p.n_panels; ++panel) {
        std::int64_t k = 0;
        const auto x = [&] { return p.x + k * p.x_stride; };
        const auto out = [&] { return p.out + k * p.out_stride; };
        for (; k + 4 <= n; k += 4) float_product<S, 4>(p, x(), panel, out());
        for (; k + 2 <= n; k += 2) float_product<S, 2>(p, x(), panel, out());
        if (k < n) float_product<S, 1>(p, x(), panel, out());
    }
}
inline void multiply_int8(const CodeProduct& p, std::int64_t n) {
    for (std::int64_t panel = 0; panel < p.n_panels; ++panel)
        for (std::int64_t k = 0; k < n; ++k) int8_product(p, k, panel);
}
inline void multiply_int4_keys(const CodeProduct& p, std::int64_t n) {
    for (std::int64_t panel = 0; panel < p.n_panels; ++panel)
        for (std::int64_t k = 0; k < n; ++k) int4_key_product(p, k, panel);
}
inline void multiply_int4_values(const CodeProduct& p, std::int64_t n) {
    for (std::int64_t panel = 0; panel < p.n_panels; ++panel)
        for (std::int64_t k = 0; k < n; ++k) int4_value_product(p, k, panel);
}

// ---- rows on their way into the state
// 16 numbers as bits of f16 or bf16, to nearest even; f16 saturates, NaN stays NaN.
inline void put_f16(Lanes x, std::uint16_t* target) {
    const auto half = [](F8 value) {
        value = larger(same(-65504.0f), smaller(same(65504.0f), value));
        return vreinterpretq_u16_f16(vcombine_f16(vcvt_f16_f32(value.low), vcvt_f16_f32(value.high)));
    };
    vst1q_u16(target, half(x.a));
    vst1q_u16(target + 8, half(x.b));
}
inline void put_bf16(Lanes x, std::uint16_t* target) {
    const auto upper_half = [](float32x4_t value) {
        const uint32x4_t bits = vreinterpretq_u32_f32(value), upper = vshrq_n_u32(bits, 16);
        const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, vaddq_u32(vandq_u32(upper, vdupq_n_u32(1)), vdupq_n_u32(0x7fff))), 16);
        return vmovn_u32(vbslq_u32(vceqq_f32(value, value), rounded, vorrq_u32(upper, vdupq_n_u32(0x40))));
    };
    vst1q_u16(target, vcombine_u16(upper_half(x.a.low), upper_half(x.a.high)));
    vst1q_u16(target + 8, vcombine_u16(upper_half(x.b.low), upper_half(x.b.high)));
}
// 16 codes between low and high, plus an offset, as bytes.
inline void put_bytes(Lanes x, float inverse, int low, int high, int offset, std::uint8_t* target) {
    const auto code = [&](F8 value) {
        value = multiply(value, same(inverse));
        const auto four = [&](float32x4_t part) {
            return vmovn_s32(vaddq_s32(vminq_s32(vdupq_n_s32(high), vmaxq_s32(vdupq_n_s32(low), vcvtnq_s32_f32(part))), vdupq_n_s32(offset)));
        };
        return vmovn_u16(vreinterpretq_u16_s16(vcombine_s16(four(value.low), four(value.high))));
    };
    vst1q_u8(target, vcombine_u8(code(x.a), code(x.b)));
}

}  // namespace
}  // namespace skiff
