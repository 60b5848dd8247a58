// Products of signed levels of 8 bits and codes, both as 16 bits: vpmaddwd adds two of them in 32 bits, without the sign that vpmaddubsw needs for each product.
// Instructions for 8 rows, 4 columns and a token are two vpmaddwd and two vpaddd, instead of vpsignb, vpmaddubsw, vpmaddwd and vpaddd, of which the first
// three want the same two ports. Included by tile_256.h alone.
//
// Of a vector of 8 rows and 4 columns, the even columns are a vector and the odd ones the next: a shift each. So a token's codes 0, 1, 2, 3 lie as 0, 2, 1, 3.
#pragma once

namespace skiff {
namespace {

// n codes, a multiple of 16.
inline void widen_codes(const std::int8_t* codes, std::int64_t n, std::int16_t* target) {
    const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    for (std::int64_t i = 0; i < n; i += 16) {
        const __m128i some = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i)), order);
        _mm256_store_si256(reinterpret_cast<__m256i*>(target + i), _mm256_cvtepi8_epi16(some));
    }
}

// Half `half` of vector v of an expanded block: vectors 4v + half and 4v + 2 + half, of 32 bytes.
inline void store_wide_levels(Byte* block, int v, int half, __m256i levels) {
    auto* target = reinterpret_cast<__m256i*>(block) + 4 * v + half;
    _mm256_store_si256(target, _mm256_srai_epi16(_mm256_slli_epi16(levels, 8), 8));
    _mm256_store_si256(target + 2, _mm256_srai_epi16(levels, 8));
}

struct WideSum {
    __m256i wide;
    __m256i total() const { return wide; }
};

// multiply_blocks() of expanded blocks. Sums begin with nothing: levels are what they stand for.
template <int Units, int N, Corrections kind, bool Placed>
void multiply_wide_blocks(const Stretch& stretch, const Tokens& tokens, float* sums, std::int64_t stride) {
    const Tokens x = tokens;
    constexpr int steps = 16 / Units;  // of two columns
    const float *scales = stretch.scales, *corrections = stretch.corrections;
    const auto* levels = reinterpret_cast<const __m256i*>(stretch.codes);
    const std::int8_t* codes = x.codes;
    for (std::int64_t b = 0; b < stretch.n_blocks; ++b, codes += x.block_bytes) {
        const std::int64_t place = Placed ? stretch.places[b] : b;
        if constexpr (Placed) codes = x.codes + place * x.block_bytes;
        // g++ 12 keeps the distance of each of the 64 broadcasts from the first, and spills them, where it can see where these come from.
        const std::int8_t* token[N];
        SKIFF_UNROLL
        for (int t = 0; t < N; ++t) {
            token[t] = codes + t * x.code_stride;
            SKIFF_OPAQUE(token[t]);
        }
        SKIFF_UNROLL
        for (int unit = 0; unit < Units; ++unit, levels += 2 * steps) {
            WideSum dot[N][2];
            SKIFF_UNROLL
            for (int step = 0; step < steps; ++step) {
                __m256i low = _mm256_load_si256(levels + 2 * step), high = _mm256_load_si256(levels + 2 * step + 1);
                SKIFF_KEEP(low);  // not an operand in memory, which would be loaded for each token
                SKIFF_KEEP(high);
                SKIFF_UNROLL
                for (int t = 0; t < N; ++t) {
                    const __m256i a = broadcast4(token[t] + (unit * steps + step) * 4);
                    SKIFF_UNROLL
                    for (int half = 0; half < 2; ++half) {
                        const __m256i products = _mm256_madd_epi16(half == 0 ? low : high, a);
                        dot[t][half].wide = step == 0 ? products : _mm256_add_epi32(dot[t][half].wide, products);
                    }
                }
                SKIFF_UNROLL
                for (int t = 0; t < N; ++t) {
                    SKIFF_KEEP(dot[t][0].wide);
                    SKIFF_KEEP(dot[t][1].wide);
                }
            }
            const std::int64_t scale = b * Units + unit;
            add_units<N, kind>(scales + scale * 16, corrections + scale * 16, x, place, place * Units + unit, dot, nullptr, sums, stride);
        }
    }
}

}  // namespace
}  // namespace skiff
