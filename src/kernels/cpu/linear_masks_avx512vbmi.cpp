// Linear kernels over tiles of pruned weights with masks (sparse_tiles.h) and int8 activations (i8_b32) for AVX-512 with VNNI and VBMI2, whose vpexpandb puts kept
// codes where a mask has bits. Without it (Cascade Lake) masks are AVX2's, which are slower than zeros written out.
#include "kernels/cpu/tile_512.h"

namespace skiff {
namespace {

// The levels of vector v of a block out of its mask and codes, which move on: vpexpandb puts the codes where bits are set, the level for
// zero elsewhere. Its form with a memory operand takes many times as long on Zen 4 and 5, so the codes are loaded before.
template <int Bits, int MaskRows>
inline __m512i masked_levels(const Byte* masks, int v, const Byte*& codes, __m512i zero) {
    std::uint64_t mask;
#if defined(__BMI2__)
    std::uint16_t nibbles;
    __builtin_memcpy(&nibbles, masks + v * 2, 2);
    if constexpr (MaskRows == 4) mask = _pdep_u64(nibbles, 0x000f000f000f000f) * 0x1111;
    else
#endif
        mask = mask_of(masks, v, MaskRows);
    const auto n = static_cast<std::uint64_t>(__builtin_popcountll(mask));
    __m512i packed;
    if constexpr (Bits == 8) {
        packed = load64(codes);
        codes += n;
    } else {  // b to (b & 15, b >> 4)
        const __m512i pairs = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
        packed = _mm512_ternarylogic_epi32(pairs, _mm512_slli_epi16(pairs, 4), _mm512_set1_epi8(15), 0xa8);  // (a | b) & c
        codes += (n + 1) / 2;
    }
    SKIFF_KEEP(packed);
    return _mm512_mask_expand_epi8(zero, mask, packed);
}

// Fetches ahead of a stretch, whose masks and codes are one stream, from its beginning to its end in equal steps for each block. Two fetches that run ahead
// of masks and of codes ask for the same lines and reach 0.73 of the speed.
template <bool IntoL2>
class FetchMasked {
public:
    explicit FetchMasked(const MaskedBlocks& blocks) : next_(blocks.masks + fetch_ahead_bytes), lines_(blocks.lines) {}
    void operator()() {
        fetch_lines<IntoL2>(next_, lines_);
        next_ += lines_ * 64;
    }

private:
    const Byte* next_;
    std::int64_t lines_;
};

template <int Bits, int MaskRows>
void expand_masked_blocks(const TileFormat& format, const MaskedBlocks& blocks, Byte* target) {
    const __m512i zero = _mm512_set1_epi8(static_cast<char>(format.offset));
    const Byte *masks = blocks.masks, *codes = blocks.codes;
    FetchMasked<false> fetch(blocks);
    for (std::int64_t b = 0; b < blocks.n_blocks; ++b, masks += mask_block_bytes(MaskRows), target += expanded_block_bytes) {
        fetch();
        SKIFF_UNROLL
        for (int v = 0; v < 8; ++v) {
            const __m512i levels = masked_levels<Bits, MaskRows>(masks, v, codes, zero);
            _mm512_store_si512(target + v * 64, levels);
        }
    }
}

// sums (N, 16) += masked blocks times N tokens, straight from masks and codes. Pruned weights are symmetric.
template <int Bits, int MaskRows, int Units, int N, bool IntoL2>
void direct_masked_blocks(const Stretch& stretch, const MaskedBlocks& blocks, const Tokens& x, float* sums) {
    constexpr int chains = N == 1 ? 2 : 1;  // of products: one token's eight would wait for each other
    const Byte *masks = blocks.masks, *codes = blocks.codes;
    FetchMasked<IntoL2> fetch(blocks);
    const __m512i zero = _mm512_set1_epi8(static_cast<char>(stretch.format->offset));
    const float* scales = stretch.scales;
    __m512 sum[N];
    SKIFF_UNROLL
    for (int t = 0; t < N; ++t) sum[t] = _mm512_load_ps(sums + t * 16);
    for (std::int64_t b = 0; b < blocks.n_blocks; ++b, masks += mask_block_bytes(MaskRows)) {
        fetch();
        const auto add = [&](int unit) __attribute__((always_inline)) {
            __m512i dot[N * chains];
            SKIFF_UNROLL
            for (int t = 0; t < N; ++t) dot[t] = _mm512_set1_epi32(x.start[(b * Units + unit) * x.stride + t]);
            if constexpr (chains == 2) dot[N] = _mm512_setzero_si512();
            SKIFF_UNROLL
            for (int v = unit * 8 / Units; v < (unit + 1) * 8 / Units; ++v) {
                const __m512i level = masked_levels<Bits, MaskRows>(masks, v, codes, zero);
                SKIFF_UNROLL
                for (int t = 0; t < N; ++t) {
                    __m512i& chain = dot[v % chains * N + t];
                    chain = _mm512_dpbusd_epi32(chain, level, broadcast4(x.codes + t * x.code_stride + b * tile_block + v * 4));
                }
            }
            if constexpr (chains == 2) dot[0] = _mm512_add_epi32(dot[0], dot[N]);
            const __m512 scale = _mm512_load_ps(scales);
            scales += 16;
            SKIFF_UNROLL
            for (int t = 0; t < N; ++t) sum[t] = add_unit(sum[t], dot[t], scale, x.scales[b * x.stride + t]);
        };
        add(0);
        if constexpr (Units == 2) add(1);
    }
    SKIFF_UNROLL
    for (int t = 0; t < N; ++t) _mm512_store_ps(sums + t * 16, sum[t]);
}

template <int Bits>
struct Masked512 : Avx512<Bits, 0, false> {
    template <int MaskRows>
    static void expand_masked(const TileFormat& format, const MaskedBlocks& blocks, Byte* target) {
        expand_masked_blocks<Bits, MaskRows>(format, blocks, target);
    }

    static constexpr std::int64_t max_direct_masked = 4;
    template <int MaskRows, int Units, int N>
    static void direct_masked_tokens(const Stretch& stretch, const MaskedBlocks& blocks, const Tokens& x, float* sums) {
        if (fetch_into_l2) direct_masked_blocks<Bits, MaskRows, Units, N, true>(stretch, blocks, x, sums);
        else direct_masked_blocks<Bits, MaskRows, Units, N, false>(stretch, blocks, x, sums);
    }
    template <int MaskRows, int Units>
    static void direct_masked_units(const Stretch& stretch, const MaskedBlocks& blocks, const Tokens& x, std::int64_t n_tokens, float* sums) {
        switch (n_tokens) {
            case 1: return direct_masked_tokens<MaskRows, Units, 1>(stretch, blocks, x, sums);
            case 2: return direct_masked_tokens<MaskRows, Units, 2>(stretch, blocks, x, sums);
            case 3: return direct_masked_tokens<MaskRows, Units, 3>(stretch, blocks, x, sums);
            default: return direct_masked_tokens<MaskRows, Units, 4>(stretch, blocks, x, sums);
        }
    }
    template <int MaskRows>
    static void direct_masked(const Stretch& stretch, const MaskedBlocks& blocks, const Tokens& x, std::int64_t n_tokens, float* sums) {
        if (stretch.format->units_per_block() == 2) direct_masked_units<MaskRows, 2>(stretch, blocks, x, n_tokens, sums);
        else direct_masked_units<MaskRows, 1>(stretch, blocks, x, n_tokens, sums);
    }
};

template <int Bits>
void linear(const LinearArgs& args, Range rows) {
    using M = Masked512<Bits>;
    const TileFormat format = tile_format(*args.weight);
    masked_tokens<M>(args, rows, format, prepare_tokens<M>(args, format), thread_scratch(most_tokens_at_once * M::tiles_at_once * tile_rows));
}

}  // namespace

void linear_w4_r16_mask_avx512vbmi(const LinearArgs& args, Range rows) { linear<4>(args, rows); }
void linear_w8_r16_mask_avx512vbmi(const LinearArgs& args, Range rows) { linear<8>(args, rows); }

}  // namespace skiff
