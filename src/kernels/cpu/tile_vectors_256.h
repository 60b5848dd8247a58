// Tiles of vectors (vector_format.h) in vectors of 256 bits: a gather of eight words gives four columns of eight rows. Included by the units for AVX2 and AVX-VNNI, and
// by them alone.
//
// The alternative is a table of the products of each token's vectors with all entries, from which rows then only add. It takes 256 products for each column before the
// first row, and as many look-ups as here, in tables of n / vector x 256 sums (256 KiB for 2048 columns in 16 bits, where the words here take 1 KiB): it saves the one
// multiplication that follows 8 look-ups, and leaves the L1 cache for it. With 16 entries its look-ups are shuffles, but so are those of plain codes (w2).
#pragma once

#include "kernels/cpu/tile_256.h"
#include "kernels/vector_format.h"

namespace skiff {
namespace {

// Eight rows of step i of a vector of indices: rows 8 half .. 8 half + 7.
template <int IndexBits>
inline __m256i indices_of(const Byte* vector, int i, int half) {
    const auto eight = [&](const Byte* p) {
        std::int32_t low, high;
        __builtin_memcpy(&low, p, 4);
        __builtin_memcpy(&high, p + 16, 4);
        return _mm_unpacklo_epi32(_mm_cvtsi32_si128(low), _mm_cvtsi32_si128(high));
    };
    const __m256i low = _mm256_cvtepu8_epi32(eight(vector + half * 32 + i * 4));
    if constexpr (IndexBits == 8) return low;
    const __m256i high = _mm256_cvtepu8_epi32(eight(vector + 64 + i * 4));
    return _mm256_or_si256(low, _mm256_and_si256(half == 0 ? _mm256_slli_epi32(high, 8) : _mm256_slli_epi32(high, 4), _mm256_set1_epi32(0xf00)));
}

template <int Depth, int IndexBits, int Parts, int Tables>
struct Vectors256 : Micro256<8, Depth, 0> {
    using Base = Micro256<8, Depth, 0>;
    static constexpr std::int64_t max_direct = 0;
    static constexpr bool skips = false, masked = false;

    static void expand(const TileFormat& format, const Byte*, const Byte* block, std::int64_t n_blocks, Byte* target) {
        constexpr std::int64_t index_bytes = 8 * IndexBits, vectors = 2 / Parts, words = (std::int64_t{1} << IndexBits) * Parts;
        const auto* tables = reinterpret_cast<const std::int32_t*>(format.tables);
        for (std::int64_t b = 0; b < n_blocks; ++b, block += format.block_bytes, target += expanded_bytes<Base>) {
            for (std::int64_t line = 0; line < format.block_bytes; line += 64) _mm_prefetch(reinterpret_cast<const char*>(block + 1024 + line), _MM_HINT_T0);
            for (std::int64_t vector = 0; vector < vectors; ++vector) {
                const Byte* indices = block + vector * index_bytes;
                SKIFF_UNROLL
                for (int i = 0; i < 4; ++i) {
                    SKIFF_UNROLL
                    for (int half = 0; half < 2; ++half) {
                        const __m256i first = indices_of<IndexBits>(indices, i, half);
                        __m256i second = first;
                        if constexpr (Tables == 2) second = indices_of<IndexBits>(indices + vectors * index_bytes, i, half);
                        SKIFF_UNROLL
                        for (int word = 0; word < Parts; ++word) {
                            __m256i levels = _mm256_i32gather_epi32(tables + word, first, 4 * Parts);
                            if constexpr (Tables == 2) levels = _mm256_add_epi8(levels, _mm256_i32gather_epi32(tables + words + word, second, 4 * Parts));
                            if constexpr (Depth == signed_levels) levels = _mm256_xor_si256(levels, _mm256_set1_epi8(static_cast<char>(128)));
                            Base::store_levels(target, static_cast<int>((vector * 4 + i) * Parts + word), half, levels);
                        }
                    }
                }
            }
        }
    }
};

// Two columns to a code of 4 bits: two shuffles for the lower codes of 32 indices, two for the upper ones, and eight unpacks are 128 weights.
template <int Depth>
struct Pairs256 : Micro256<8, Depth, 0> {
    using Base = Micro256<8, Depth, 0>;
    static constexpr std::int64_t max_direct = 0;
    static constexpr bool skips = false, masked = false;

    static void expand(const TileFormat& format, const Byte*, const Byte* block, std::int64_t n_blocks, Byte* target) {
        const auto* planes = reinterpret_cast<const Byte*>(format.tables) + 1024;  // in the first 16 entries the upper code is 0
        const auto table = [&](int column) {
            const __m256i bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(planes + column * 256)));
            return Depth == signed_levels ? _mm256_xor_si256(bytes, _mm256_set1_epi8(static_cast<char>(128))) : bytes;
        };
        const __m256i even = table(0), odd = table(1), mask = _mm256_set1_epi8(15);
        for (std::int64_t b = 0; b < n_blocks; ++b, block += 128, target += expanded_bytes<Base>) {
            _mm_prefetch(reinterpret_cast<const char*>(block + 4096), _MM_HINT_T0);
            _mm_prefetch(reinterpret_cast<const char*>(block + 4160), _MM_HINT_T0);
            SKIFF_UNROLL
            for (int part = 0; part < 4; ++part) {
                const __m256i indices = load32(block + part * 32), low = _mm256_and_si256(indices, mask), high = _mm256_and_si256(_mm256_srli_epi16(indices, 4), mask);
                const __m256i a = _mm256_shuffle_epi8(even, low), c = _mm256_shuffle_epi8(odd, low), d = _mm256_shuffle_epi8(even, high), e = _mm256_shuffle_epi8(odd, high);
                const __m256i first_low = _mm256_unpacklo_epi8(a, c), first_high = _mm256_unpackhi_epi8(a, c), second_low = _mm256_unpacklo_epi8(d, e), second_high = _mm256_unpackhi_epi8(d, e);
                const __m256i words[4] = {_mm256_unpacklo_epi16(first_low, second_low), _mm256_unpackhi_epi16(first_low, second_low), _mm256_unpacklo_epi16(first_high, second_high),
                                          _mm256_unpackhi_epi16(first_high, second_high)};
                SKIFF_UNROLL
                for (int i = 0; i < 4; ++i) Base::store_levels(target, part / 2 * 4 + i, part % 2, words[i]);
            }
        }
    }
};

template <int Depth, int IndexBits>
void vectors_by_parts(const LinearArgs& args, Range rows, const VectorFormat& format) {
    if (format.n_tables == 1 && format.parts == 1) return linear_tiles<Vectors256<Depth, IndexBits, 1, 1>>(args, rows);
    if (format.n_tables == 1) return linear_tiles<Vectors256<Depth, IndexBits, 2, 1>>(args, rows);
    if (format.parts == 1) return linear_tiles<Vectors256<Depth, IndexBits, 1, 2>>(args, rows);
    linear_tiles<Vectors256<Depth, IndexBits, 2, 2>>(args, rows);
}

template <int Depth>
void linear_vectors(const LinearArgs& args, Range rows) {
    const VectorFormat format = vector_format(args.weight->scheme);
    if (format.pairs) return linear_tiles<Pairs256<Depth>>(args, rows);
    if (format.index_bits == 8) return vectors_by_parts<Depth, 8>(args, rows, format);
    vectors_by_parts<Depth, 12>(args, rows, format);
}

}  // namespace
}  // namespace skiff
