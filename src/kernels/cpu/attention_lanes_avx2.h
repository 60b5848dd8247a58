// What attention_body.h is written with, for AVX2: 16 lanes in two registers, and products of a panel of the state (state_layout.h) with queries.
// Sums of four queries (or of two and two panels) fill the registers. Integer operands of 14 bits are 16-bit words here: vpmaddwd takes two codes and
// two numbers at a time, and the sums are those of the other instruction sets.
#pragma once

#include "kernels/cpu/attention_products.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/kernels.h"

namespace skiff {
namespace {

struct Lanes8x2 {
    __m256 a, b;
};
using Lanes = Lanes8x2;
inline Lanes set_lanes(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Lanes load_lanes(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline std::int64_t within(std::int64_t n) { return n < 0 ? 0 : n > 8 ? 8 : n; }
inline Lanes load_first(const float* p, std::int64_t n) { return {load_tail(p, within(n)), load_tail(p + 8, within(n - 8))}; }  // n <= 16, zero behind
inline void store_lanes(float* p, Lanes x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
inline void store_first(float* p, std::int64_t n, Lanes x) {
    store_tail(p, within(n), x.a);
    store_tail(p + 8, within(n - 8), x.b);
}
inline Lanes load_f16(const std::uint16_t* p) { return {f16_to_f32(p), f16_to_f32(p + 8)}; }
inline Lanes add(Lanes x, Lanes y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Lanes mul(Lanes x, Lanes y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline Lanes div(Lanes x, Lanes y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline Lanes fma(Lanes x, Lanes y, Lanes z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline Lanes greater(Lanes x, Lanes y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline Lanes magnitude(Lanes x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
inline float sum_of(Lanes x) { return sum_lanes(_mm256_add_ps(x.a, x.b)); }
inline float highest_of(Lanes x) { return max_lanes(_mm256_max_ps(x.a, x.b)); }
// Lanes begin .. end - 1 of x, `other` elsewhere.
inline __m256 between_of_8(__m256 x, std::int64_t begin, std::int64_t end, __m256 other) {
    const __m256i mask = _mm256_andnot_si256(tail_mask(within(begin)), tail_mask(within(end)));
    return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(mask));
}
inline Lanes between(Lanes x, std::int64_t begin, std::int64_t end, Lanes other) {
    return {between_of_8(x.a, begin, end, other.a), between_of_8(x.b, begin - 8, end - 8, other.b)};
}
inline Lanes exp_lanes(Lanes x) { return {exp_ps(x.a), exp_ps(x.b)}; }
inline Lanes tanh_lanes(Lanes x) { return {tanh_ps(x.a), tanh_ps(x.b)}; }

// ---- numbers as codes of 14 bits: words, four at a time in the order 0 2 1 3, so that even and odd bytes of a row of codes meet theirs.
// x * inverse must lie in -16256 .. 16256. Returns the sum of 16 codes in each lane added to `sum`.
using CodeSum = __m256i;
inline CodeSum no_codes() { return _mm256_setzero_si256(); }
inline CodeSum put_codes(Lanes x, float inverse, std::byte* codes, std::int64_t i, std::int64_t, CodeSum sum) {
    const __m256 factor = _mm256_set1_ps(inverse);
    const __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(x.a, factor)), b = _mm256_cvtps_epi32(_mm256_mul_ps(x.b, factor));
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
    const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15, 0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + 2 * i), _mm256_shuffle_epi8(words, order));
    return _mm256_add_epi32(sum, _mm256_add_epi32(a, b));
}
inline std::int32_t total_of(CodeSum x) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
// Of n codes from begin on.
inline std::int32_t sum_codes(const std::byte* codes, std::int64_t begin, std::int64_t n, std::int64_t) {
    const auto* words = reinterpret_cast<const std::int16_t*>(codes);
    std::int32_t sum = 0;
    for (std::int64_t i = begin; i < begin + n; ++i) sum += words[i];
    return sum;
}

inline __m256i read(const std::byte* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline __m256i two_words(const std::byte* p) {
    std::int32_t bits;
    __builtin_memcpy(&bits, p, 4);
    return _mm256_set1_epi32(bits);
}

// out[k][16 v + lane] = sum along the panels of x[k] times the panel's numbers.
template <StateScheme S, int Q, int V>
void float_product(const FloatProduct& p, const float* x, std::int64_t panel, float* out) {
    __m256 sum[Q][2 * V];
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) {
        SKIFF_UNROLL
        for (int v = 0; v < 2 * V; ++v) sum[k][v] = _mm256_setzero_ps();
    }
    constexpr std::int64_t step_bytes = S == StateScheme::f16 ? 32 : 64, numbers = S == StateScheme::bf16 ? 2 : 1;
    const std::byte* step = p.panels + panel * p.panel_bytes + p.first_step * step_bytes;
    x += p.first_step * numbers;
    for (std::int64_t i = 0; i < p.n_steps; ++i, step += step_bytes, x += numbers) {
        __m256 even[2 * V], odd[2 * V];
        SKIFF_UNROLL
        for (int v = 0; v < 2 * V; ++v) {
            const std::byte* source = step + v / 2 * p.panel_bytes + v % 2 * (step_bytes / 2);
            if (v % 2 == 0) fetch_ahead(source, p.ahead);
            if constexpr (S == StateScheme::f32) {
                even[v] = _mm256_loadu_ps(reinterpret_cast<const float*>(source));
            } else if constexpr (S == StateScheme::f16) {
                even[v] = f16_to_f32(source);
            } else {
                const __m256i pairs = read(source);
                even[v] = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
                odd[v] = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(-65536)));
            }
        }
        SKIFF_UNROLL
        for (int k = 0; k < Q; ++k) {
            const __m256 first = _mm256_broadcast_ss(x + k * p.x_stride);
            SKIFF_UNROLL
            for (int v = 0; v < 2 * V; ++v) sum[k][v] = _mm256_fmadd_ps(first, even[v], sum[k][v]);
            if constexpr (S == StateScheme::bf16) {
                const __m256 second = _mm256_broadcast_ss(x + k * p.x_stride + 1);
                SKIFF_UNROLL
                for (int v = 0; v < 2 * V; ++v) sum[k][v] = _mm256_fmadd_ps(second, odd[v], sum[k][v]);
            }
        }
    }
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) {
        SKIFF_UNROLL
        for (int v = 0; v < 2 * V; ++v) _mm256_storeu_ps(out + k * p.out_stride + panel * state_lanes + v * 8, sum[k][v]);
    }
}

inline Lanes as_float(__m256i a, __m256i b, std::int32_t correction) {
    const __m256i less = _mm256_set1_epi32(correction);
    return {_mm256_cvtepi32_ps(_mm256_sub_epi32(a, less)), _mm256_cvtepi32_ps(_mm256_sub_epi32(b, less))};
}

// Bytes of a row as words: those of even and of odd number, or of the nibbles.
struct Words {
    __m256i even, odd;
};
inline Words bytes_of(__m256i row) { return {_mm256_and_si256(row, _mm256_set1_epi16(255)), _mm256_srli_epi16(row, 8)}; }
inline Words low_nibbles_of(__m256i row) {
    const __m256i mask = _mm256_set1_epi16(15);
    return {_mm256_and_si256(row, mask), _mm256_and_si256(_mm256_srli_epi16(row, 8), mask)};
}
inline Words high_nibbles_of(__m256i row) { return {_mm256_and_si256(_mm256_srli_epi16(row, 4), _mm256_set1_epi16(15)), _mm256_srli_epi16(row, 12)}; }
inline __m256i multiply_words(__m256i sum, Words row, __m256i even, __m256i odd) {
    return _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(row.even, even), _mm256_madd_epi16(row.odd, odd)));
}

template <int Q>
void int8_product(const CodeProduct& p, std::int64_t query, std::int64_t panel) {
    __m256i sum[Q][2];
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) sum[k][0] = sum[k][1] = _mm256_setzero_si256();
    const std::byte* step = p.panels + panel * p.panel_bytes + p.first_step * 64;
    const std::byte* x = p.codes + query * p.code_stride + p.first_step * 8;
    for (std::int64_t i = 0; i < p.n_steps; ++i, step += 64, x += 8) {
        fetch_ahead(step, p.ahead);
        const Words a = bytes_of(read(step)), b = bytes_of(read(step + 32));
        SKIFF_UNROLL
        for (int k = 0; k < Q; ++k) {
            const __m256i even = two_words(x + k * p.code_stride), odd = two_words(x + k * p.code_stride + 4);
            sum[k][0] = multiply_words(sum[k][0], a, even, odd);
            sum[k][1] = multiply_words(sum[k][1], b, even, odd);
        }
    }
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) {
        Lanes value = mul(as_float(sum[k][0], sum[k][1], 128 * p.sums[(query + k) * p.sum_stride]), set_lanes(p.factors[query + k]));
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
    const std::byte* x = p.codes + query * p.code_stride;
    const std::uint16_t* scales = p.lane_scales + panel * state_lanes;
    for (std::int64_t i = 0, group = 0; i < p.n_steps; ++group, scales += attention_chunk) {
        __m256i sum[Q][2];
        SKIFF_UNROLL
        for (int k = 0; k < Q; ++k) sum[k][0] = sum[k][1] = _mm256_setzero_si256();
        for (const std::int64_t end = i + 4 < p.n_steps ? i + 4 : p.n_steps; i < end; ++i, step += 64, x += 16) {
            fetch_ahead(step, p.ahead);
            SKIFF_UNROLL
            for (int half = 0; half < 2; ++half) {
                const __m256i both = read(step + half * 32);
                const Words first = low_nibbles_of(both), second = high_nibbles_of(both);
                SKIFF_UNROLL
                for (int k = 0; k < Q; ++k) {
                    const std::byte* code = x + k * p.code_stride;
                    sum[k][half] = multiply_words(sum[k][half], first, two_words(code), two_words(code + 4));
                    sum[k][half] = multiply_words(sum[k][half], second, two_words(code + 8), two_words(code + 12));
                }
            }
        }
        const Lanes scale = load_f16(scales);
        SKIFF_UNROLL
        for (int k = 0; k < Q; ++k) total[k] = fma(as_float(sum[k][0], sum[k][1], 8 * p.sums[(query + k) * p.sum_stride + group]), scale, total[k]);
    }
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) store_lanes(p.out + (query + k) * p.out_stride + panel * state_lanes, mul(total[k], set_lanes(p.factors[query + k])));
}

// Values of 4 bit: one panel of 32 dimensions, 4 positions in a step.
template <int Q>
void int4_value_product(const CodeProduct& p, std::int64_t query, std::int64_t panel) {
    __m256i sum[Q][4];
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) sum[k][0] = sum[k][1] = sum[k][2] = sum[k][3] = _mm256_setzero_si256();
    const std::byte* step = p.panels + panel * p.panel_bytes + p.first_step * 64;
    const std::byte* x = p.codes + query * p.code_stride + p.first_step * 8;
    for (std::int64_t i = 0; i < p.n_steps; ++i, step += 64, x += 8) {
        fetch_ahead(step, p.ahead);
        SKIFF_UNROLL
        for (int half = 0; half < 2; ++half) {
            const __m256i both = read(step + half * 32);
            const Words first = low_nibbles_of(both), second = high_nibbles_of(both);
            SKIFF_UNROLL
            for (int k = 0; k < Q; ++k) {
                const __m256i even = two_words(x + k * p.code_stride), odd = two_words(x + k * p.code_stride + 4);
                sum[k][half] = multiply_words(sum[k][half], first, even, odd);
                sum[k][2 + half] = multiply_words(sum[k][2 + half], second, even, odd);
            }
        }
    }
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) {
        const std::int32_t correction = 8 * p.sums[(query + k) * p.sum_stride];
        float* out = p.out + (query + k) * p.out_stride + panel * 2 * state_lanes;
        store_lanes(out, mul(as_float(sum[k][0], sum[k][1], correction), set_lanes(p.factors[query + k])));
        store_lanes(out + state_lanes, mul(as_float(sum[k][2], sum[k][3], correction), set_lanes(p.factors[query + k])));
    }
}

template <StateScheme S, int Q>
void float_panels(const FloatProduct& p, std::int64_t query) {
    constexpr int V = Q <= 2 ? 2 : 1;
    const float* x = p.x + query * p.x_stride;
    float* out = p.out + query * p.out_stride;
    std::int64_t panel = 0;
    for (; panel + V <= p.n_panels; panel += V) float_product<S, Q, V>(p, x, panel, out);
    for (; panel < p.n_panels; ++panel) float_product<S, Q, 1>(p, x, panel, out);
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
        if (n - k == 3) int8_product<3>(p, k, panel);
        if (n - k == 2) int8_product<2>(p, k, panel);
        if (n - k == 1) int8_product<1>(p, k, panel);
    }
}
inline void multiply_int4_keys(const CodeProduct& p, std::int64_t n) {
    for (std::int64_t panel = 0; panel < p.n_panels; ++panel) {
        std::int64_t k = 0;
        for (; k + 4 <= n; k += 4) int4_key_product<4>(p, k, panel);
        if (n - k == 3) int4_key_product<3>(p, k, panel);
        if (n - k == 2) int4_key_product<2>(p, k, panel);
        if (n - k == 1) int4_key_product<1>(p, k, panel);
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
inline void put_f16(Lanes x, std::uint16_t* target) {
    const __m256 low = _mm256_set1_ps(-65504.0f), high = _mm256_set1_ps(65504.0f);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm256_cvtps_ph(_mm256_min_ps(high, _mm256_max_ps(low, x.a)), _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target + 8), _mm256_cvtps_ph(_mm256_min_ps(high, _mm256_max_ps(low, x.b)), _MM_FROUND_TO_NEAREST_INT));
}
inline __m128i to_bf16(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x), upper = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i chosen = _mm256_blendv_epi8(rounded, _mm256_or_si256(upper, _mm256_set1_epi32(0x40)), nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1));
}
inline void put_bf16(Lanes x, std::uint16_t* target) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target), to_bf16(x.a));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target + 8), to_bf16(x.b));
}
// 16 codes between low and high, plus an offset, as bytes.
inline void put_bytes(Lanes x, float inverse, int low, int high, int offset, std::uint8_t* target) {
    const auto code = [&](__m256 value) {
        const __m256i rounded = _mm256_cvtps_epi32(_mm256_mul_ps(value, _mm256_set1_ps(inverse)));
        return _mm256_add_epi32(_mm256_min_epi32(_mm256_set1_epi32(high), _mm256_max_epi32(_mm256_set1_epi32(low), rounded)), _mm256_set1_epi32(offset));
    };
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(code(x.a), code(x.b)), 0xd8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

}  // namespace
}  // namespace skiff
