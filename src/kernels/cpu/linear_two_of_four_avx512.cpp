// Linear kernels over tiles of two kept columns in four (two_of_four.h) with int8 activations (i8_b32) for AVX-512 with VNNI.
//
// Positions are the control of a shuffle that brings each code its activation: 64 codes, of 128 columns, are a shuffle and two vpdpbusd, where masks take two expansions
// and counts of bits, each of which the next address waits for. The second product sums the activations, since offset times those of dropped columns must not be taken off.
#include "kernels/cpu/tile_512.h"
#include "kernels/two_of_four.h"

namespace skiff {
namespace {

template <int Bits>
inline __m512i kept_codes(const Byte* vectors, int g) {
    if constexpr (Bits == 8) return load64(vectors + g * 64);
    const __m512i plane = load64(vectors + g % 2 * 64);
    return _mm512_and_si512(g < 2 ? plane : _mm512_srli_epi16(plane, 4), _mm512_set1_epi8(15));
}

// sums (N, 16) += stored blocks times N tokens
template <int Bits, int Units, int N, bool IntoL2>
void direct_kept(const Stretch& stretch, const Tokens& x, float* sums) {
    constexpr std::int64_t block_bytes = 64 + 32 * Bits;
    const __m512i ones = _mm512_set1_epi8(1), offset = _mm512_set1_epi32(stretch.format->offset), second_four = _mm512_set1_epi32(0x04040000);
    const float* scales = stretch.scales;
    const Byte* block = stretch.codes;
    __m512 sum[N];
    SKIFF_UNROLL
    for (int t = 0; t < N; ++t) sum[t] = _mm512_load_ps(sums + t * 16);
    for (std::int64_t b = 0; b < stretch.n_blocks; ++b, block += block_bytes) {
        fetch_lines<IntoL2>(block + fetch_ahead_bytes, block_bytes / 64);
        const __m512i positions = load64(block);
        const auto add = [&](int unit) __attribute__((always_inline)) {
            __m512i dot[N], kept[N];
            SKIFF_UNROLL
            for (int t = 0; t < N; ++t) dot[t] = kept[t] = _mm512_setzero_si512();
            SKIFF_UNROLL
            for (int g = unit * 4 / Units; g < (unit + 1) * 4 / Units; ++g) {
                const __m512i code = kept_codes<Bits>(block + 64, g);
                const __m512i column = _mm512_ternarylogic_epi32(g == 0 ? positions : _mm512_srli_epi16(positions, static_cast<unsigned>(2 * g)), _mm512_set1_epi8(3), second_four, 0xea);  // (a & b) | c
                SKIFF_UNROLL
                for (int t = 0; t < N; ++t) {
                    long long eight;
                    __builtin_memcpy(&eight, x.codes + t * x.code_stride + b * tile_block + g * 8, 8);
                    const __m512i activations = _mm512_shuffle_epi8(_mm512_set1_epi64(eight), column);
                    dot[t] = _mm512_dpbusd_epi32(dot[t], code, activations);
                    kept[t] = _mm512_dpbusd_epi32(kept[t], ones, activations);
                }
            }
            const __m512 scale = _mm512_load_ps(scales);
            scales += 16;
            SKIFF_UNROLL
            for (int t = 0; t < N; ++t)  // sums of 16 activations at most fit the 16 bits that are multiplied; the upper half meets 0
                sum[t] = add_unit(sum[t], _mm512_sub_epi32(dot[t], _mm512_madd_epi16(kept[t], offset)), scale, x.scales[b * x.stride + t]);
        };
        add(0);
        if constexpr (Units == 2) add(1);
    }
    SKIFF_UNROLL
    for (int t = 0; t < N; ++t) _mm512_store_ps(sums + t * 16, sum[t]);
}

template <int Bits>
struct TwoOfFour : Avx512<Bits, 0, false> {
    static constexpr std::int64_t max_direct = 4;
    static constexpr bool finds_scales = false;

    template <int Units, int N>
    static void direct_tokens(const Stretch& stretch, const Tokens& x, float* sums) {
        if (fetch_into_l2) direct_kept<Bits, Units, N, true>(stretch, x, sums);
        else direct_kept<Bits, Units, N, false>(stretch, x, sums);
    }
    template <int Units>
    static void direct_units(const Stretch& stretch, const Tokens& x, std::int64_t n_tokens, float* sums) {
        switch (n_tokens) {
            case 1: return direct_tokens<Units, 1>(stretch, x, sums);
            case 2: return direct_tokens<Units, 2>(stretch, x, sums);
            case 3: return direct_tokens<Units, 3>(stretch, x, sums);
            default: return direct_tokens<Units, 4>(stretch, x, sums);
        }
    }
    static void direct(const Stretch& stretch, const Tokens& x, std::int64_t n_tokens, float* sums) {
        if (stretch.format->units_per_block() == 2) direct_units<2>(stretch, x, n_tokens, sums);
        else direct_units<1>(stretch, x, n_tokens, sums);
    }

    // Each of a row's two codes to all four of its columns' bytes, and taken where its position says.
    static void expand(const TileFormat& format, const Byte*, const Byte* block, std::int64_t n_blocks, Byte* target) {
        const __m512i row = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
        const __m512i zero = _mm512_set1_epi8(static_cast<char>(format.offset)), columns = _mm512_set1_epi32(0x03020100);
        for (std::int64_t b = 0; b < n_blocks; ++b, block += format.block_bytes) {
            const __m512i positions = load64(block);
            SKIFF_UNROLL
            for (int g = 0; g < 4; ++g) {
                const __m512i code = kept_codes<Bits>(block + 64, g), column = _mm512_and_si512(_mm512_srli_epi16(positions, static_cast<unsigned>(2 * g)), _mm512_set1_epi8(3));
                SKIFF_UNROLL
                for (int half = 0; half < 2; ++half, target += 64) {
                    __m512i levels = zero;
                    SKIFF_UNROLL
                    for (int i = 0; i < 2; ++i) {
                        const __m512i from = _mm512_or_si512(row, _mm512_set1_epi8(static_cast<char>(half * 2 + i)));
                        levels = _mm512_mask_blend_epi8(_mm512_cmpeq_epi8_mask(_mm512_shuffle_epi8(column, from), columns), levels, _mm512_shuffle_epi8(code, from));
                    }
                    _mm512_store_si512(target, levels);
                }
            }
        }
    }
};

template <int Bits>
void linear(const LinearArgs& args, Range rows) {
    using M = TwoOfFour<Bits>;
    const TileFormat format = two_of_four_format(*args.weight);
    const Tokens x = prepare_tokens<M>(args, format);
    if (args.n_tokens <= M::max_direct) return few_tokens<M>(args, rows, format, x);
    many_tokens<M>(args, rows, format, DenseTiles<M>{reinterpret_cast<const Byte*>(args.weight->data), format}, x, thread_scratch(most_tokens_at_once * M::tiles_at_once * tile_rows));
}

}  // namespace

void linear_w4_r16_2of4_avx512(const LinearArgs& args, Range rows) { linear<4>(args, rows); }
void linear_w8_r16_2of4_avx512(const LinearArgs& args, Range rows) { linear<8>(args, rows); }

}  // namespace skiff
