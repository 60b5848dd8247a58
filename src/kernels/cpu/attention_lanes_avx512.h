// What attention_body.h is written with, for AVX-512 with VNNI: 16 lanes, and products of a panel of the state (state_layout.h) with up to eight
// queries. A product is bound by its two multipliers: per load of 64 bytes one multiply-add and one broadcast (from memory, within the instruction)
// for each query and term. Integer operands of 14 bits come as two bytes, 128 * high + low, so that sums are exact and the same on every
// instruction set: int8 and int4 rows cost two vpdpbusd per 64 codes and query.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/attention_products.h"
#include "kernels/kernels.h"

#if defined(__clang__)
#define SKIFF_UNROLL _Pragma("unroll")
#else
#define SKIFF_UNROLL _Pragma("GCC unroll 16")
#endif

namespace skiff {
namespace {

using Lanes = __m512;
inline Lanes set_lanes(float x) { return _mm512_set1_ps(x); }
inline Lanes load_lanes(const float* p) { return _mm512_loadu_ps(p); }
inline Lanes load_first(const float* p, std::int64_t n) { return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << n) - 1), p); }  // n <= 16, zero behind
inline void store_lanes(float* p, Lanes x) { _mm512_storeu_ps(p, x); }
inline void store_first(float* p, std::int64_t n, Lanes x) { _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1U << n) - 1), x); }
inline Lanes load_f16(const std::uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline Lanes add(Lanes a, Lanes b) { return _mm512_add_ps(a, b); }
inline Lanes mul(Lanes a, Lanes b) { return _mm512_mul_ps(a, b); }
inline Lanes div(Lanes a, Lanes b) { return _mm512_div_ps(a, b); }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return _mm512_fmadd_ps(a, b, c); }
inline Lanes greater(Lanes a, Lanes b) { return _mm512_max_ps(a, b); }
inline Lanes magnitude(Lanes a) { return _mm512_abs_ps(a); }
inline float sum_of(Lanes x) { return _mm512_reduce_add_ps(x); }
inline float highest_of(Lanes x) { return _mm512_reduce_max_ps(x); }
// Lanes begin .. end - 1 of x, `other` elsewhere.
inline Lanes between(Lanes x, std::int64_t begin, std::int64_t end, Lanes other) {
    const auto mask = static_cast<__mmask16>(((1U << end) - 1) & ~((1U << begin) - 1));
    return _mm512_mask_blend_ps(mask, other, x);
}

// e^x to 2 units in the last place, as exp_ps of simd_avx2.h.
inline Lanes exp_lanes(Lanes x) {
    x = _mm512_max_ps(_mm512_set1_ps(-104.0f), _mm512_min_ps(_mm512_set1_ps(89.0f), x));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.0f / 5040);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

// tanh as tanh_ps of simd_avx2.h.
inline Lanes tanh_lanes(Lanes x) {
    const __m512 one = _mm512_set1_ps(1.0f), size = _mm512_abs_ps(x), e = exp_lanes(_mm512_add_ps(size, size));
    __m512 large = _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2.0f), _mm512_add_ps(e, one)));
    large = _mm512_or_ps(large, _mm512_and_ps(x, _mm512_set1_ps(-0.0f)));
    const __m512 z = _mm512_mul_ps(x, x);
    __m512 p = _mm512_set1_ps(21844.0f / 6081075);
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(-1382.0f / 155925));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(62.0f / 2835));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(-17.0f / 315));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(2.0f / 15));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(-1.0f / 3));
    const __m512 small = _mm512_fmadd_ps(_mm512_mul_ps(p, z), x, x);
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(size, _mm512_set1_ps(0.4f), _CMP_LT_OQ), large, small);
}

// ---- numbers as codes of 14 bits: 128 * high + low, high in -127 .. 127, low in -64 .. 63; the high bytes of `length` numbers, then the low ones.
// x * inverse must lie in -16256 .. 16256. Returns the sum of 16 codes in each lane added to `sum`.
inline __m512i put_codes(Lanes x, float inverse, std::byte* codes, std::int64_t i, std::int64_t length, __m512i sum) {
    const __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(inverse)));
    const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(code, _mm512_set1_epi32(64)), 7);
    const __m512i low = _mm512_sub_epi32(code, _mm512_slli_epi32(high, 7));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), _mm512_cvtepi32_epi8(high));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + length + i), _mm512_cvtepi32_epi8(low));
    return _mm512_add_epi32(sum, code);
}
using CodeSum = __m512i;
inline CodeSum no_codes() { return _mm512_setzero_si512(); }
inline std::int32_t total_of(CodeSum sum) { return _mm512_reduce_add_epi32(sum); }

// Of n codes from begin on.
inline std::int32_t sum_codes(const std::byte* codes, std::int64_t begin, std::int64_t n, std::int64_t length) {
    const auto* bytes = reinterpret_cast<const signed char*>(codes);
    std::int32_t sum = 0;
    for (std::int64_t i = begin; i < begin + n; ++i) sum += bytes[i] * 128 + bytes[length + i];
    return sum;
}

inline __m512i read(const std::byte* p) { return _mm512_loadu_si512(p); }
inline __m512i four(const std::byte* p) {
    std::int32_t bits;
    __builtin_memcpy(&bits, p, 4);
    return _mm512_set1_epi32(bits);
}

// out[k][16 v + lane] = sum along the panels of x[k] times the panel's numbers.
template <StateScheme S, int Q, int V>
void float_product(const FloatProduct& p, const float* x, std::int64_t panel, float* out) {
    __m512 sum[Q][V];
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) {
        SKIFF_UNROLL
        for (int v = 0; v < V; ++v) sum[k][v] = _mm512_setzero_ps();
    }
    constexpr std::int64_t step_bytes = S == StateScheme::f16 ? 32 : 64, numbers = S == StateScheme::bf16 ? 2 : 1;
    const std::byte* step = p.panels + panel * p.panel_bytes + p.first_step * step_bytes;
    x += p.first_step * numbers;
    for (std::int64_t i = 0; i < p.n_steps; ++i, step += step_bytes, x += numbers) {
        __m512 even[V], odd[V];
        SKIFF_UNROLL
        for (int v = 0; v < V; ++v) {
            const std::byte* source = step + v * p.panel_bytes;
            fetch_ahead(source, p.ahead);
            if constexpr (S == StateScheme::f32) {
                even[v] = _mm512_loadu_ps(source);
            } else if constexpr (S == StateScheme::f16) {
                even[v] = load_f16(reinterpret_cast<const std::uint16_t*>(source));
            } else {
                const __m512i pairs = read(source);
                even[v] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
                odd[v] = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-65536)));
            }
        }
        SKIFF_UNROLL
        for (int k = 0; k < Q; ++k) {
            const __m512 first = _mm512_set1_ps(x[k * p.x_stride]);
            SKIFF_UNROLL
            for (int v = 0; v < V; ++v) sum[k][v] = _mm512_fmadd_ps(first, even[v], sum[k][v]);
            if constexpr (S == StateScheme::bf16) {
                const __m512 second = _mm512_set1_ps(x[k * p.x_stride + 1]);
                SKIFF_UNROLL
                for (int v = 0; v < V; ++v) sum[k][v] = _mm512_fmadd_ps(second, odd[v], sum[k][v]);
            }
        }
    }
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) {
        SKIFF_UNROLL
        for (int v = 0; v < V; ++v) _mm512_storeu_ps(out + k * p.out_stride + (panel + v) * state_lanes, sum[k][v]);
    }
}

inline __m512 as_float(__m512i high, __m512i low, std::int32_t correction) {
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_add_epi32(_mm512_slli_epi32(high, 7), low), _mm512_set1_epi32(correction)));
}

template <int Q, int V>
void int8_product(const CodeProduct& p, std::int64_t query, std::int64_t panel) {
    __m512i high[Q][V], low[Q][V];
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) {
        SKIFF_UNROLL
        for (int v = 0; v < V; ++v) high[k][v] = low[k][v] = _mm512_setzero_si512();
    }
    const std::byte* step = p.panels + panel * p.panel_bytes + p.first_step * 64;
    const std::byte* x = p.codes + query * p.code_stride + p.first_step * 4;
    for (std::int64_t i = 0; i < p.n_steps; ++i, step += 64, x += 4) {
        __m512i row[V];
        SKIFF_UNROLL
        for (int v = 0; v < V; ++v) {
            row[v] = read(step + v * p.panel_bytes);
            fetch_ahead(step + v * p.panel_bytes, p.ahead);
        }
        SKIFF_UNROLL
        for (int k = 0; k < Q; ++k) {
            const __m512i upper = four(x + k * p.code_stride), lower = four(x + k * p.code_stride + p.code_length);
            SKIFF_UNROLL
            for (int v = 0; v < V; ++v) {
                high[k][v] = _mm512_dpbusd_epi32(high[k][v], row[v], upper);
                low[k][v] = _mm512_dpbusd_epi32(low[k][v], row[v], lower);
            }
        }
    }
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) {
        const __m512 factor = _mm512_set1_ps(p.factors[query + k]);
        SKIFF_UNROLL
        for (int v = 0; v < V; ++v) {
            __m512 value = _mm512_mul_ps(as_float(high[k][v], low[k][v], 128 * p.sums[(query + k) * p.sum_stride]), factor);
            if (p.lane_scales != nullptr) value = _mm512_mul_ps(value, load_f16(p.lane_scales + (panel + v) * state_lanes));
            _mm512_storeu_ps(p.out + (query + k) * p.out_stride + (panel + v) * state_lanes, value);
        }
    }
}

// Keys of 4 bit: groups of 32 dimensions, 4 steps of 8, each with 16 scales.
template <int Q>
void int4_key_product(const CodeProduct& p, std::int64_t query, std::int64_t panel) {
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512 sum[Q];
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) sum[k] = _mm512_setzero_ps();
    const std::byte* step = p.panels + panel * p.panel_bytes;
    const std::byte* x = p.codes + query * p.code_stride;
    const std::uint16_t* scales = p.lane_scales + panel * state_lanes;
    for (std::int64_t i = 0, group = 0; i < p.n_steps; ++group, scales += attention_chunk) {
        __m512i high[Q], low[Q];
        SKIFF_UNROLL
        for (int k = 0; k < Q; ++k) high[k] = low[k] = _mm512_setzero_si512();
        for (const std::int64_t end = i + 4 < p.n_steps ? i + 4 : p.n_steps; i < end; ++i, step += 64, x += 8) {
            fetch_ahead(step, p.ahead);
            const __m512i both = read(step), first = _mm512_and_si512(both, nibble), second = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
            SKIFF_UNROLL
            for (int k = 0; k < Q; ++k) {
                const std::byte* code = x + k * p.code_stride;
                high[k] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(high[k], first, four(code)), second, four(code + 4));
                low[k] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(low[k], first, four(code + p.code_length)), second, four(code + p.code_length + 4));
            }
        }
        const __m512 scale = load_f16(scales);
        SKIFF_UNROLL
        for (int k = 0; k < Q; ++k) sum[k] = _mm512_fmadd_ps(as_float(high[k], low[k], 8 * p.sums[(query + k) * p.sum_stride + group]), scale, sum[k]);
    }
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k)
        _mm512_storeu_ps(p.out + (query + k) * p.out_stride + panel * state_lanes, _mm512_mul_ps(sum[k], _mm512_set1_ps(p.factors[query + k])));
}

// Values of 4 bit: one panel of 32 dimensions, 4 positions in a step.
template <int Q>
void int4_value_product(const CodeProduct& p, std::int64_t query, std::int64_t panel) {
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512i high[Q][2], low[Q][2];
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) high[k][0] = high[k][1] = low[k][0] = low[k][1] = _mm512_setzero_si512();
    const std::byte* step = p.panels + panel * p.panel_bytes + p.first_step * 64;
    const std::byte* x = p.codes + query * p.code_stride + p.first_step * 4;
    for (std::int64_t i = 0; i < p.n_steps; ++i, step += 64, x += 4) {
        fetch_ahead(step, p.ahead);
        const __m512i both = read(step), first = _mm512_and_si512(both, nibble), second = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
        SKIFF_UNROLL
        for (int k = 0; k < Q; ++k) {
            const __m512i upper = four(x + k * p.code_stride), lower = four(x + k * p.code_stride + p.code_length);
            high[k][0] = _mm512_dpbusd_epi32(high[k][0], first, upper);
            high[k][1] = _mm512_dpbusd_epi32(high[k][1], second, upper);
            low[k][0] = _mm512_dpbusd_epi32(low[k][0], first, lower);
            low[k][1] = _mm512_dpbusd_epi32(low[k][1], second, lower);
        }
    }
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) {
        const std::int32_t correction = 8 * p.sums[(query + k) * p.sum_stride];
        const __m512 factor = _mm512_set1_ps(p.factors[query + k]);
        float* out = p.out + (query + k) * p.out_stride + panel * 2 * state_lanes;
        _mm512_storeu_ps(out, _mm512_mul_ps(as_float(high[k][0], low[k][0], correction), factor));
        _mm512_storeu_ps(out + state_lanes, _mm512_mul_ps(as_float(high[k][1], low[k][1], correction), factor));
    }
}

// Tiles: as many sums as registers hold beside the operands; more panels at a time while queries are few.
template <StateScheme S, int Q>
void float_panels(const FloatProduct& p, std::int64_t query) {
    constexpr int V = Q <= 3 ? 4 : 2;
    const float* x = p.x + query * p.x_stride;
    float* out = p.out + query * p.out_stride;
    std::int64_t panel = 0;
    for (; panel + V <= p.n_panels; panel += V) float_product<S, Q, V>(p, x, panel, out);
    for (; panel < p.n_panels; ++panel) float_product<S, Q, 1>(p, x, panel, out);
}
template <int Q>
void int8_panels(const CodeProduct& p, std::int64_t query) {
    constexpr int V = Q <= 4 ? 2 : 1;
    std::int64_t panel = 0;
    for (; panel + V <= p.n_panels; panel += V) int8_product<Q, V>(p, query, panel);
    for (; panel < p.n_panels; ++panel) int8_product<Q, 1>(p, query, panel);
}
template <int Q>
void int4_key_panels(const CodeProduct& p, std::int64_t query) {
    for (std::int64_t panel = 0; panel < p.n_panels; ++panel) int4_key_product<Q>(p, query, panel);
}
template <int Q>
void int4_value_panels(const CodeProduct& p, std::int64_t query) {
    for (std::int64_t panel = 0; panel < p.n_panels; ++panel) int4_value_product<Q>(p, query, panel);
}

#define SKIFF_QUERIES(n, run)            \
    switch (n) {                         \
        case 1: run(1); break;           \
        case 2: run(2); break;           \
        case 3: run(3); break;           \
        case 4: run(4); break;           \
        case 5: run(5); break;           \
        case 6: run(6); break;           \
        case 7: run(7); break;           \
        default: run(8); break;          \
    }

template <StateScheme S>
void multiply_floats(const FloatProduct& p, std::int64_t n) {
#define SKIFF_RUN(q) float_panels<S, q>(p, 0)
    SKIFF_QUERIES(n, SKIFF_RUN)
#undef SKIFF_RUN
}
inline void multiply_int8(const CodeProduct& p, std::int64_t n) {
#define SKIFF_RUN(q) int8_panels<q>(p, 0)
    SKIFF_QUERIES(n, SKIFF_RUN)
#undef SKIFF_RUN
}
inline void multiply_int4_keys(const CodeProduct& p, std::int64_t n) {
#define SKIFF_RUN(q) int4_key_panels<q>(p, 0)
    SKIFF_QUERIES(n, SKIFF_RUN)
#undef SKIFF_RUN
}
inline void multiply_int4_values(const CodeProduct& p, std::int64_t n) {
    if (n > 4) {  // five queries' sums and operands do not fit the registers
        int4_value_panels<4>(p, 0);
        n -= 4;
        switch (n) {
            case 1: int4_value_panels<1>(p, 4); break;
            case 2: int4_value_panels<2>(p, 4); break;
            case 3: int4_value_panels<3>(p, 4); break;
            default: int4_value_panels<4>(p, 4); break;
        }
        return;
    }
    switch (n) {
        case 1: int4_value_panels<1>(p, 0); break;
        case 2: int4_value_panels<2>(p, 0); break;
        case 3: int4_value_panels<3>(p, 0); break;
        default: int4_value_panels<4>(p, 0); break;
    }
}

// ---- rows on their way into the state
// 16 numbers as bits of f16 or bf16, to nearest even; f16 saturates, NaN stays NaN.
inline void put_f16(Lanes x, std::uint16_t* target) {
    x = _mm512_min_ps(_mm512_set1_ps(65504.0f), _mm512_max_ps(_mm512_set1_ps(-65504.0f), x));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
inline void put_bf16(Lanes x, std::uint16_t* target) {
    const __m512i bits = _mm512_castps_si512(x), upper = _mm512_srli_epi32(bits, 16), odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i chosen = _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), _mm512_cvtepi32_epi16(chosen));
}
// 16 codes between low and high, plus an offset, as bytes.
inline void put_bytes(Lanes x, float inverse, int low, int high, int offset, std::uint8_t* target) {
    __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(inverse)));
    code = _mm512_min_epi32(_mm512_set1_epi32(high), _mm512_max_epi32(_mm512_set1_epi32(low), code));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm512_cvtepi32_epi8(_mm512_add_epi32(code, _mm512_set1_epi32(offset))));
}

}  // namespace
}  // namespace skiff
