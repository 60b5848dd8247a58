#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd_avx2.h"

namespace skiff {
namespace {

struct SineCosine {
    __m256 sine, cosine;
};

// Four angles: the quadrant and the rest, reduced in double so that long contexts keep every bit of the angle.
inline __m128 reduce_angle(__m128 angle, __m128i& quadrant) {
    const __m256d x = _mm256_cvtps_pd(angle);
    const __m256d n = _mm256_round_pd(_mm256_mul_pd(x, _mm256_set1_pd(0.63661977236758134308)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    quadrant = _mm256_cvtpd_epi32(n);
    const __m256d rest = _mm256_fnmadd_pd(n, _mm256_set1_pd(6.12323399573676603587e-17), _mm256_fnmadd_pd(n, _mm256_set1_pd(1.57079632679489661923), x));
    return _mm256_cvtpd_ps(rest);
}

// Cephes sinf and cosf (Moshier) on [-pi/4, pi/4], error below 1e-7.
inline SineCosine sine_cosine(__m256 angle) {
    __m128i low_quadrant, high_quadrant;
    const __m128 low = reduce_angle(_mm256_castps256_ps128(angle), low_quadrant);
    const __m128 high = reduce_angle(_mm256_extractf128_ps(angle, 1), high_quadrant);
    const __m256 r = _mm256_set_m128(high, low), z = _mm256_mul_ps(r, r);
    const __m256i quadrant = _mm256_set_m128i(high_quadrant, low_quadrant);
    __m256 s = _mm256_fmadd_ps(z, _mm256_set1_ps(-1.9515295891e-4f), _mm256_set1_ps(8.3321608736e-3f));
    s = _mm256_fmadd_ps(s, z, _mm256_set1_ps(-1.6666654611e-1f));
    s = _mm256_fmadd_ps(_mm256_mul_ps(s, z), r, r);
    __m256 c = _mm256_fmadd_ps(z, _mm256_set1_ps(2.443315711809948e-5f), _mm256_set1_ps(-1.388731625493765e-3f));
    c = _mm256_fmadd_ps(c, z, _mm256_set1_ps(4.166664568298827e-2f));
    c = _mm256_fmadd_ps(_mm256_mul_ps(c, z), z, _mm256_fnmadd_ps(z, _mm256_set1_ps(0.5f), _mm256_set1_ps(1.0f)));
    const __m256 swap = _mm256_castsi256_ps(_mm256_slli_epi32(quadrant, 31));
    const __m256i two = _mm256_set1_epi32(2);
    const __m256i sine_sign = _mm256_slli_epi32(_mm256_and_si256(quadrant, two), 30);
    const __m256i cosine_sign = _mm256_slli_epi32(_mm256_and_si256(_mm256_add_epi32(quadrant, _mm256_set1_epi32(1)), two), 30);
    return {_mm256_xor_ps(_mm256_blendv_ps(s, c, swap), _mm256_castsi256_ps(sine_sign)),
            _mm256_xor_ps(_mm256_blendv_ps(c, s, swap), _mm256_castsi256_ps(cosine_sign))};
}

// Lanes 0..n-1 of x[0..] with x[half..], for every head.
inline void rotate_halves(const RopeArgs& args, float* x, std::int64_t n, SineCosine at) {
    const std::int64_t half = args.rotary_dim / 2;
    for (std::int64_t head = 0; head < args.n_heads; ++head, x += args.head_dim) {
        const __m256 a = load_tail(x, n), b = load_tail(x + half, n);
        store_tail(x, n, _mm256_sub_ps(_mm256_mul_ps(a, at.cosine), _mm256_mul_ps(b, at.sine)));
        store_tail(x + half, n, _mm256_add_ps(_mm256_mul_ps(b, at.cosine), _mm256_mul_ps(a, at.sine)));
    }
}

// Pairs (x[0], x[1]), (x[2], x[3]) ... n pairs, for every head.
inline void rotate_pairs(const RopeArgs& args, float* x, std::int64_t n, SineCosine at) {
    const __m256i first = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3), second = _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7);
    const __m256 cosine[2] = {_mm256_permutevar8x32_ps(at.cosine, first), _mm256_permutevar8x32_ps(at.cosine, second)};
    const __m256 sine[2] = {_mm256_permutevar8x32_ps(at.sine, first), _mm256_permutevar8x32_ps(at.sine, second)};
    const std::int64_t count[2] = {n < 4 ? n * 2 : 8, n < 4 ? 0 : (n - 4) * 2};
    for (std::int64_t head = 0; head < args.n_heads; ++head, x += args.head_dim) {
        SKIFF_UNROLL
        for (int part = 0; part < 2; ++part) {
            if (count[part] == 0) continue;
            const __m256 value = load_tail(x + part * 8, count[part]), swapped = _mm256_permute_ps(value, 0xb1);
            store_tail(x + part * 8, count[part], _mm256_addsub_ps(_mm256_mul_ps(value, cosine[part]), _mm256_mul_ps(swapped, sine[part])));
        }
    }
}

}  // namespace

void rope_avx2(const RopeArgs& args, Range tokens) {
    const std::int64_t half = args.rotary_dim / 2;
    const __m256 magnitude = _mm256_set1_ps(args.magnitude);
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
        const __m256 position = _mm256_set1_ps(static_cast<float>(args.positions[token]));
        float* x = args.x + token * args.n_heads * args.head_dim;
        for (std::int64_t i = 0; i < half; i += 8) {
            const std::int64_t n = half - i < 8 ? half - i : 8;
            SineCosine at = sine_cosine(_mm256_mul_ps(position, load_tail(args.inv_freq + i, n)));
            at = {_mm256_mul_ps(at.sine, magnitude), _mm256_mul_ps(at.cosine, magnitude)};
            if (args.style == RopeStyle::half) rotate_halves(args, x + i, n, at);
            else rotate_pairs(args, x + 2 * i, n, at);
        }
    }
}

}  // namespace skiff
