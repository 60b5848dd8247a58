// Vector helpers for the *_avx2.cpp units, and for them alone: all are static, so that no wide code is shared with other units.
#pragma once

#include <immintrin.h>

#include <cstdint>

#if defined(__clang__)
#define SKIFF_UNROLL _Pragma("unroll")
#else
#define SKIFF_UNROLL _Pragma("GCC unroll 16")
#endif

// Says that a vector is needed in a register here. Without it compilers regroup the sums of an unrolled loop, run all its loads first and
// spill; with it the w4 kernel of 4 tokens goes from 24 to 35 multiply-adds per cycle (g++ 12, Zen 3), and from 25 to 37 with clang 14.
#define SKIFF_KEEP(vector) asm("" : "+x"(vector))
#define SKIFF_OPAQUE(address) asm("" : "+r"(address))  // one the compiler knows nothing of

namespace skiff {
namespace {

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"

alignas(64) constexpr std::int32_t tail_bits[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

// The first n of 8 lanes, 0 <= n <= 8. All of them without a mask: vmaskmovps stores every 12 cycles on a Zen 4, vmovups every 2.
inline __m256i tail_mask(std::int64_t n) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tail_bits + 8 - n)); }
inline __m256 load_tail(const float* p, std::int64_t n) { return n == 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, tail_mask(n)); }
inline void store_tail(float* p, std::int64_t n, __m256 x) { n == 8 ? _mm256_storeu_ps(p, x) : _mm256_maskstore_ps(p, tail_mask(n), x); }

// Fixed tree: lanes i and i+4, then i and i+2, then i and i+1.
inline float sum_lanes(__m256 x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float max_lanes(__m256 x) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

inline __m256 f16_to_f32(const void* p) { return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p))); }
inline __m256 bf16_to_f32(const void* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))), 16));
}

// e^x to 2 units in the last place: x = n ln2 + r, a polynomial of degree 7 in r, and 2^n in two factors, so that
// subnormal results and the overflow to infinity come out right. NaN stays NaN.
inline __m256 exp_ps(__m256 x) {
    x = _mm256_max_ps(_mm256_set1_ps(-104.0f), _mm256_min_ps(_mm256_set1_ps(89.0f), x));  // the second operand wins when one is NaN
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(1.0f / 5040);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 720));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    const __m256i k = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(k, 1), bias = _mm256_set1_epi32(127);
    const __m256i low = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    const __m256i high = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(k, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(low)), _mm256_castsi256_ps(high));
}

inline __m256 sigmoid_ps(__m256 x) {
    const __m256 one = _mm256_set1_ps(1.0f);
    return _mm256_div_ps(one, _mm256_add_ps(one, exp_ps(_mm256_xor_ps(x, _mm256_set1_ps(-0.0f)))));
}

// tanh x = x + x^3 P(x^2) for small x (Taylor series to x^13 below 0.4), else 1 - 2 / (e^2|x| + 1) with the sign of x.
inline __m256 tanh_ps(__m256 x) {
    const __m256 sign_bit = _mm256_set1_ps(-0.0f), one = _mm256_set1_ps(1.0f);
    const __m256 magnitude = _mm256_andnot_ps(sign_bit, x);
    const __m256 e = exp_ps(_mm256_add_ps(magnitude, magnitude));
    __m256 large = _mm256_sub_ps(one, _mm256_div_ps(_mm256_set1_ps(2.0f), _mm256_add_ps(e, one)));
    large = _mm256_or_ps(large, _mm256_and_ps(x, sign_bit));
    const __m256 z = _mm256_mul_ps(x, x);
    __m256 p = _mm256_set1_ps(21844.0f / 6081075);
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(-1382.0f / 155925));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(62.0f / 2835));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(-17.0f / 315));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(2.0f / 15));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(-1.0f / 3));
    const __m256 small = _mm256_fmadd_ps(_mm256_mul_ps(p, z), x, x);
    return _mm256_blendv_ps(large, small, _mm256_cmp_ps(magnitude, _mm256_set1_ps(0.4f), _CMP_LT_OQ));
}

#pragma GCC diagnostic pop

}  // namespace
}  // namespace skiff
