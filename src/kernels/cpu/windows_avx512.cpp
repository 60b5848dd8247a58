#include <immintrin.h>

#include "kernels/cpu/windows_body.h"

namespace skiff {
namespace {

struct Lanes16 {
    using Type = __m512;
    static constexpr std::int64_t lanes = 16;
    static __mmask16 first(std::int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }
    using Lanes = __m512i;
    static __m512i lanes_from(const std::int32_t* p) { return _mm512_loadu_si512(p); }
    static __m512 spread(__m512 x, __m512i from) { return _mm512_permutexvar_ps(from, x); }
    static __m512 zero() { return _mm512_setzero_ps(); }
    static __m512 load(const float* p) { return _mm512_loadu_ps(p); }
    static __m512 load_first(const float* p, std::int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
    static void store(float* p, __m512 x) { _mm512_storeu_ps(p, x); }
    static void store_first(float* p, std::int64_t n, __m512 x) { _mm512_mask_storeu_ps(p, first(n), x); }
    static __m512 fma(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
    static __m512 add(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
    static __m512 max(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }
    static __m512 divide(__m512 a, float b) { return _mm512_div_ps(a, _mm512_set1_ps(b)); }
};

}  // namespace

void depthwise_avx512(const DepthwiseArgs& args, Range pixels) { depthwise_wide<Lanes16>(args, pixels); }
void pool_avx512(const PoolArgs& args, Range pixels) { pool_wide<Lanes16>(args, pixels); }

}  // namespace skiff
