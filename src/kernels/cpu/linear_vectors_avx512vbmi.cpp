// Linear kernels over tiles of vectors (vector_format.h) with int8 activations (i8_b32) for AVX-512 with VNNI and VBMI.
//
// Indices of 8 bits: a table of 256 words lies in registers as four planes of 256 bytes, and two vpermi2b and a blend look one byte of 64 indices up; four planes and
// eight unpacks are 256 weights, 20 instructions, where four gathers of 16 words take some 80 cycles (Zen 5). Indices of 12 bits gather: 4096 words are L1's.
#include "kernels/cpu/tile_512.h"
#include "kernels/vector_format.h"

namespace skiff {
namespace {

// Bytes of four columns to the words of 64 indices: step by step.
inline void join_columns(__m512i a, __m512i b, __m512i c, __m512i d, __m512i (&words)[4]) {
    const __m512i ab_low = _mm512_unpacklo_epi8(a, b), ab_high = _mm512_unpackhi_epi8(a, b), cd_low = _mm512_unpacklo_epi8(c, d), cd_high = _mm512_unpackhi_epi8(c, d);
    words[0] = _mm512_unpacklo_epi16(ab_low, cd_low), words[1] = _mm512_unpackhi_epi16(ab_low, cd_low);
    words[2] = _mm512_unpacklo_epi16(ab_high, cd_high), words[3] = _mm512_unpackhi_epi16(ab_high, cd_high);
}

// Two columns to a code of 4 bits: bytes of 16 entries, looked up by shuffles.
struct Pairs {
    __m512i even, odd;
    explicit Pairs(const Byte* planes)  // in the first 16 entries the upper code is 0
        : even(_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(planes)))), odd(_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(planes + 256)))) {}
    void look_up(__m512i indices, __m512i (&words)[4]) const {
        const __m512i mask = _mm512_set1_epi8(15), low = _mm512_and_si512(indices, mask), high = _mm512_and_si512(_mm512_srli_epi16(indices, 4), mask);
        join_columns(_mm512_shuffle_epi8(even, low), _mm512_shuffle_epi8(odd, low), _mm512_shuffle_epi8(even, high), _mm512_shuffle_epi8(odd, high), words);
    }
};

// A word of each of 256 entries: column by column, 64 entries a register.
struct Planes {
    __m512i part[4][4];
    explicit Planes(const Byte* planes) {
        SKIFF_UNROLL
        for (int i = 0; i < 16; ++i) part[i / 4][i % 4] = load64(planes + i * 64);
    }
    __m512i column(int c, __m512i indices, __mmask64 upper) const {
        return _mm512_mask_blend_epi8(upper, _mm512_permutex2var_epi8(part[c][0], indices, part[c][1]), _mm512_permutex2var_epi8(part[c][2], indices, part[c][3]));
    }
    // The words of 64 indices: step by step.
    void look_up(__m512i indices, __m512i (&words)[4]) const {
        const __mmask64 upper = _mm512_movepi8_mask(indices);
        join_columns(column(0, indices, upper), column(1, indices, upper), column(2, indices, upper), column(3, indices, upper), words);
    }
};

// The indices of 12 bits of 16 rows, step by step.
inline void wide_indices(const Byte* vector, __m512i (&indices)[4]) {
    const __m512i by_step = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m256i nibbles = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(vector + 64));
    const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(nibbles), _mm256_srli_epi16(nibbles, 4), 1);
    const __m512i low = _mm512_permutexvar_epi32(by_step, load64(vector)), high = _mm512_permutexvar_epi32(by_step, _mm512_and_si512(both, _mm512_set1_epi8(15)));
    const auto join = [](__m128i l, __m128i h) { return _mm512_or_si512(_mm512_cvtepu8_epi32(l), _mm512_slli_epi32(_mm512_cvtepu8_epi32(h), 8)); };
    indices[0] = join(_mm512_extracti32x4_epi32(low, 0), _mm512_extracti32x4_epi32(high, 0));
    indices[1] = join(_mm512_extracti32x4_epi32(low, 1), _mm512_extracti32x4_epi32(high, 1));
    indices[2] = join(_mm512_extracti32x4_epi32(low, 2), _mm512_extracti32x4_epi32(high, 2));
    indices[3] = join(_mm512_extracti32x4_epi32(low, 3), _mm512_extracti32x4_epi32(high, 3));
}

template <int IndexBits, int Parts, int Tables, class Planes8 = Planes>
struct Vectors512 : Avx512<8, 0, false> {
    static constexpr std::int64_t max_direct = 0;
    static constexpr std::int64_t index_bytes = 8 * IndexBits, vectors = 2 / Parts, words = (std::int64_t{1} << IndexBits) * Parts;

    // Levels of one word of one table, in place or added to those of the first.
    template <class LookUp>
    static void expand_word(const TileFormat& format, int table, int word, const Byte* block, std::int64_t n_blocks, Byte* target, const LookUp& look_up) {
        block += table * vectors * index_bytes;
        for (std::int64_t b = 0; b < n_blocks; ++b, block += format.block_bytes, target += expanded_block_bytes) {
            if (word == 0)
                for (std::int64_t line = 0; line < vectors * index_bytes; line += 64) _mm_prefetch(reinterpret_cast<const char*>(block + 4096 + line), _MM_HINT_T0);
            SKIFF_UNROLL
            for (std::int64_t vector = 0; vector < vectors; ++vector) {
                __m512i found[4];
                look_up(block + vector * index_bytes, found);
                SKIFF_UNROLL
                for (int i = 0; i < 4; ++i) {
                    Byte* at = target + ((vector * 4 + i) * Parts + word) * 64;
                    _mm512_store_si512(at, table == 0 ? found[i] : _mm512_add_epi8(found[i], _mm512_load_si512(at)));
                }
            }
        }
    }
    static void expand(const TileFormat& format, const Byte*, const Byte* block, std::int64_t n_blocks, Byte* target) {
        const auto* tables = reinterpret_cast<const Byte*>(format.tables);
        for (int table = 0; table < Tables; ++table)
            for (int word = 0; word < Parts; ++word) {
                if constexpr (IndexBits == 8) {
                    const Planes8 planes(tables + Tables * words * 4 + (table * Parts + word) * 1024);
                    expand_word(format, table, word, block, n_blocks, target, [&](const Byte* indices, __m512i (&found)[4]) { planes.look_up(load64(indices), found); });
                } else {
                    const Byte* own = tables + table * words * 4 + word * 4;
                    expand_word(format, table, word, block, n_blocks, target, [&](const Byte* vector, __m512i (&found)[4]) {
                        __m512i indices[4];
                        wide_indices(vector, indices);
                        SKIFF_UNROLL
                        for (int i = 0; i < 4; ++i) found[i] = _mm512_i32gather_epi32(indices[i], own, 4 * Parts);
                    });
                }
            }
    }
};

template <int IndexBits>
void by_parts(const LinearArgs& args, Range rows, const VectorFormat& format) {
    if (format.n_tables == 1 && format.parts == 1) return linear_tiles<Vectors512<IndexBits, 1, 1>>(args, rows);
    if (format.n_tables == 1) return linear_tiles<Vectors512<IndexBits, 2, 1>>(args, rows);
    if (format.parts == 1) return linear_tiles<Vectors512<IndexBits, 1, 2>>(args, rows);
    linear_tiles<Vectors512<IndexBits, 2, 2>>(args, rows);
}

}  // namespace

void linear_vectors_r16_avx512vbmi(const LinearArgs& args, Range rows) {
    const VectorFormat format = vector_format(args.weight->scheme);
    if (format.pairs) return linear_tiles<Vectors512<8, 1, 1, Pairs>>(args, rows);
    if (format.index_bits == 8) return by_parts<8>(args, rows, format);
    by_parts<12>(args, rows, format);
}

}  // namespace skiff
