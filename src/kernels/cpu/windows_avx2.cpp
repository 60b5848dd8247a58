#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/windows_body.h"

namespace skiff {
namespace {

struct Lanes8 {
    using Type = __m256;
    static constexpr std::int64_t lanes = 8;
    using Lanes = __m256i;
    static __m256i lanes_from(const std::int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    static __m256 spread(__m256 x, __m256i from) { return _mm256_permutevar8x32_ps(x, from); }
    static __m256 zero() { return _mm256_setzero_ps(); }
    static __m256 load(const float* p) { return _mm256_loadu_ps(p); }
    static __m256 load_first(const float* p, std::int64_t n) { return load_tail(p, n); }
    static void store(float* p, __m256 x) { _mm256_storeu_ps(p, x); }
    static void store_first(float* p, std::int64_t n, __m256 x) { store_tail(p, n, x); }
    static __m256 fma(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
    static __m256 add(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
    static __m256 max(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
    static __m256 divide(__m256 a, float b) { return _mm256_div_ps(a, _mm256_set1_ps(b)); }
};

}  // namespace

void depthwise_avx2(const DepthwiseArgs& args, Range pixels) { depthwise_wide<Lanes8>(args, pixels); }
void pool_avx2(const PoolArgs& args, Range pixels) { pool_wide<Lanes8>(args, pixels); }

}  // namespace skiff
