#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd_avx2.h"

namespace skiff {
namespace {

// 32 values to codes, scale and sum, the same bits as quantize_ref.
inline void quantize_block(const __m256 (&x)[4], float fixed_scale, std::int8_t* codes, float* scale_out, std::int16_t* sums) {
    const __m256i magnitude_bits = _mm256_set1_epi32(0x7fffffff);
    __m256i largest_bits = _mm256_setzero_si256();
    SKIFF_UNROLL
    for (int k = 0; k < 4; ++k) largest_bits = _mm256_max_epi32(largest_bits, _mm256_and_si256(_mm256_castps_si256(x[k]), magnitude_bits));
    __m128i top = _mm_max_epi32(_mm256_castsi256_si128(largest_bits), _mm256_extracti128_si256(largest_bits, 1));
    top = _mm_max_epi32(top, _mm_shuffle_epi32(top, 0x4e));
    top = _mm_max_epi32(top, _mm_shuffle_epi32(top, 0xb1));
    const float largest = _mm_cvtss_f32(_mm_castsi128_ps(top));
    const bool fixed = fixed_scale > 0 && largest <= 3.0e38f;
    *scale_out = fixed ? fixed_scale : largest / 127.0f;
    if (!fixed && !(largest >= 1e-30f && largest <= 3.0e38f)) {  // nothing, or not a number: the scale tells which
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), _mm256_setzero_si256());
        for (int i = 0; i < 4; ++i) sums[i] = 0;
        return;
    }
    const __m256 inverse = _mm256_set1_ps(fixed ? 1.0f / fixed_scale : 127.0f / largest), most = _mm256_set1_ps(127.0f), least = _mm256_set1_ps(-127.0f);
    __m256i whole[4];
    SKIFF_UNROLL
    for (int k = 0; k < 4; ++k) whole[k] = _mm256_cvtps_epi32(_mm256_max_ps(_mm256_min_ps(_mm256_mul_ps(x[k], inverse), most), least));
    const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(whole[0], whole[1]), _mm256_packs_epi32(whole[2], whole[3]));
    const __m256i in_order = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), in_order);
    __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), in_order);  // sums of columns 0, 1 (mod 4) and 2, 3 (mod 4) by turns
    pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32(pairs, 0x4e));
    pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32(pairs, 0xb1));
    const std::int32_t first = _mm256_cvtsi256_si32(pairs), second = _mm256_extract_epi32(pairs, 4);
    __builtin_memcpy(sums, &first, 4);
    __builtin_memcpy(sums + 2, &second, 4);
}

}  // namespace

void quantize_avx2(const QuantizeArgs& args, Range tokens) {
    const std::int64_t n_blocks = args.padded_columns / 32;
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
        const float* x = args.x + token * args.n_columns;
        for (std::int64_t block = 0; block < n_blocks; ++block) {
            __m256 values[4];
            const std::int64_t rest = args.n_columns - block * 32;
            SKIFF_UNROLL
            for (int k = 0; k < 4; ++k) {
                const std::int64_t n = rest - k * 8;
                values[k] = n >= 8 ? _mm256_loadu_ps(x + block * 32 + k * 8) : n > 0 ? load_tail(x + block * 32 + k * 8, n) : _mm256_setzero_ps();
            }
            quantize_block(values, args.fixed_scale, args.codes + token * args.padded_columns + block * 32, args.scales + token * n_blocks + block, args.sums + (token * n_blocks + block) * 4);
        }
    }
}

}  // namespace skiff
