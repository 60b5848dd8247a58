// Several tokens straight from the stored codes of two tiles at once, in vectors of 512 bits with VNNI: for batches of a few sequences and for checking guesses.
//
// By count, four tokens and one tile are 32 vpdpbusd and 52 loads a block, most of them broadcasts of four codes of a token, and two loads a cycle are the limit. With
// two tiles a broadcast serves two products: eight tokens are 128 vpdpbusd and some 110 loads for two blocks, which is 64 cycles, less than the memory takes to
// bring those 512 bytes of 4-bit codes. The sums of eight tokens and two tiles have no room in registers beside the 16 integer sums; they go through the L1 cache once a block.
#pragma once

#include "kernels/cpu/tile_512.h"

namespace skiff {
namespace {

// sums (N, 2, 16) += stored blocks of two tiles times N tokens.
template <int Bits, int Levels, int N, bool IntoL2>
void pair_blocks(const Stretch* tiles, const FetchAhead& fetch, const Tokens& x, float* sums) {
    const LevelsOfCodes<Bits, Levels> expand(*tiles[0].format, nullptr);
    const Byte* block[2] = {tiles[0].codes, tiles[1].codes};
    const float *scales[2] = {tiles[0].scales, tiles[1].scales}, *corrections[2] = {tiles[0].corrections, tiles[1].corrections};
    // Three bases and a stride reach eight tokens with few registers.
    const std::int8_t* codes[3] = {x.codes, x.codes + 3 * x.code_stride, N > 6 ? x.codes + 6 * x.code_stride : x.codes};
    const std::int64_t n_blocks = tiles[0].n_blocks;
    for (std::int64_t b = 0; b < n_blocks; ++b) {
        const std::int64_t ahead = b < fetch.n_near ? fetch.near : fetch.far;
        fetch_lines<IntoL2>(block[0] + ahead, Bits);
        fetch_lines<IntoL2>(block[1] + ahead, Bits);
        const std::int64_t at = b * x.stride;
        __m512i dot[N][2];
        SKIFF_UNROLL
        for (int t = 0; t < N; ++t) dot[t][0] = dot[t][1] = _mm512_set1_epi32(x.start[at + t]);
        SKIFF_UNROLL
        for (int v = 0; v < 8; ++v) {
            const __m512i level[2] = {expand(codes_of<Bits>(block[0], v)), expand(codes_of<Bits>(block[1], v))};
            SKIFF_UNROLL
            for (int t = 0; t < N; ++t) {
                const __m512i a = broadcast4(codes[t / 3] + t % 3 * x.code_stride + v * 4);
                dot[t][0] = _mm512_dpbusd_epi32(dot[t][0], level[0], a);
                SKIFF_KEEP(dot[t][0]);
                dot[t][1] = _mm512_dpbusd_epi32(dot[t][1], level[1], a);
                SKIFF_KEEP(dot[t][1]);
            }
        }
        SKIFF_UNROLL
        for (int r = 0; r < 2; ++r) {
            if (x.code_sums != nullptr) {
                const __m512i zero = _mm512_load_si512(corrections[r]);
                SKIFF_UNROLL
                for (int t = 0; t < N; ++t) dot[t][r] = less_zero(dot[t][r], zero, x.code_sums[at + t]);
            }
            const __m512 scale = _mm512_load_ps(scales[r]);
            SKIFF_UNROLL
            for (int t = 0; t < N; ++t) {
                float* sum = sums + t * 32 + r * 16;
                _mm512_store_ps(sum, add_unit(_mm512_load_ps(sum), dot[t][r], scale, x.scales[at + t]));
            }
            if (x.sums != nullptr) {
                const __m512 correction = _mm512_load_ps(corrections[r]);
                SKIFF_UNROLL
                for (int t = 0; t < N; ++t) {
                    float* sum = sums + t * 32 + r * 16;
                    _mm512_store_ps(sum, _mm512_fnmadd_ps(correction, _mm512_set1_ps(x.sums[at + t]), _mm512_load_ps(sum)));
                }
            }
            scales[r] += 16, corrections[r] += 16;
        }
        block[0] += 64 * Bits, block[1] += 64 * Bits;
        codes[0] += tile_block, codes[1] += tile_block, codes[2] += tile_block;
    }
}

// Avx512 with pairs of tiles for 4 to 64 tokens, where blocks have one scale: with two, half blocks' sums through the cache cost more than the loads that are saved
// (n2g16r, 8 tokens: 38 products a cycle instead of 57).
template <int Bits, int Levels>
struct Avx512Pairs : Avx512<Bits, Levels> {
    static constexpr std::int64_t min_pairs = 4, max_pairs = 64, tokens_of_pair = 8;

    template <int N>
    static void pair_tokens(const Stretch* tiles, const FetchAhead& fetch, const Tokens& x, float* sums) {
        if (fetch_into_l2) pair_blocks<Bits, Levels, N, true>(tiles, fetch, x, sums);
        else pair_blocks<Bits, Levels, N, false>(tiles, fetch, x, sums);
    }
    static void pair(const Stretch* tiles, const FetchAhead& fetch, const Tokens& x, std::int64_t n_tokens, float* sums) {
        switch (n_tokens) {
            case 4: return pair_tokens<4>(tiles, fetch, x, sums);
            case 5: return pair_tokens<5>(tiles, fetch, x, sums);
            case 6: return pair_tokens<6>(tiles, fetch, x, sums);
            case 7: return pair_tokens<7>(tiles, fetch, x, sums);
            default: return pair_tokens<8>(tiles, fetch, x, sums);
        }
    }
};

}  // namespace
}  // namespace skiff
