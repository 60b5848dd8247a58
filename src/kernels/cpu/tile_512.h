// Micro-kernels over tiles in vectors of 512 bits with VNNI, for tile_driver.h; included by the units for AVX-512 and AMX, and by them alone. They need nothing
// of VBMI, so that Cascade Lake runs them. vpdpbusd multiplies
// unsigned levels by signed codes and adds four neighbours into 32 bits, 64 products an instruction. One vector holds four columns of all 16 rows of a tile.
//
// Decode is bound by memory: a block of 4-bit codes is 256 bytes and takes about 30 instructions. Prefill is bound by the two vpdpbusd a cycle; two
// tiles times six tokens are 12 sums, 2 vectors of levels and a broadcast, so that a load is shared by two to six products.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/fetch.h"
#include "kernels/cpu/tile_driver.h"

#if defined(__clang__)
#define SKIFF_UNROLL _Pragma("unroll")
#else
#define SKIFF_UNROLL _Pragma("GCC unroll 16")
#endif

// Says that a vector is needed in a register here: without it g++ 12 runs all loads of an unrolled block first and spills.
#if !defined(SKIFF_KEEP)  // a stand-in for the intrinsics may have vectors that are no registers
#define SKIFF_KEEP(vector) asm("" : "+v"(vector))
#endif

namespace skiff {
namespace {

inline __m512i load64(const void* p) { return _mm512_loadu_si512(p); }
inline __m512i broadcast4(const std::int8_t* p) {
    std::int32_t four;
    __builtin_memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
}

// Vector v of a stored block as codes.
template <int Bits>
inline __m512i codes_of(const Byte* block, int v) {
    const auto field = [](__m512i plane, int shift, int mask) {
        return _mm512_and_si512(shift == 0 ? plane : _mm512_srli_epi16(plane, static_cast<unsigned>(shift)), _mm512_set1_epi8(static_cast<char>(mask)));
    };
    // The bits of a second plane, moved up to bit `to` of the code and joined with the first.
    const auto join = [](__m512i low, __m512i plane, int from, int to, int mask) {
        const __m512i moved = from == to ? plane : from > to ? _mm512_srli_epi16(plane, static_cast<unsigned>(from - to)) : _mm512_slli_epi16(plane, static_cast<unsigned>(to - from));
        return _mm512_ternarylogic_epi32(low, moved, _mm512_set1_epi8(static_cast<char>(mask)), 0xf8);  // low | (moved & mask)
    };
    if constexpr (Bits == 1) return field(load64(block), v, 1);
    if constexpr (Bits == 2) return field(load64(block + v % 2 * 64), v / 2 * 2, 3);
    if constexpr (Bits == 3) return join(codes_of<2>(block, v), load64(block + 128), v, 2, 4);
    if constexpr (Bits == 4) return field(load64(block + v % 4 * 64), v / 4 * 4, 15);
    if constexpr (Bits == 5) return join(codes_of<4>(block, v), load64(block + 256), v, 4, 16);
    if constexpr (Bits == 6) return join(codes_of<4>(block, v), load64(block + 256 + v % 2 * 64), v / 2 * 2, 4, 0x30);
    return load64(block + v * 64);
}

inline __m512i level_table(const TileFormat& format) { return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(format.levels))); }

// Codes to levels: as they are, by one table (Levels 1) or a table for each row (2), or twice a code of one bit.
template <int Bits, int Levels>
struct LevelsOfCodes {
    static constexpr int n_tables = Levels == 2 ? row_level_vectors(Bits) : 1;
    __m512i table[n_tables];
    LevelsOfCodes(const TileFormat& format, const Byte* row_levels) {
        if constexpr (Levels == 2) {
            for (int i = 0; i < n_tables; ++i) table[i] = load64(row_levels + i * 64);
        } else {
            table[0] = level_table(format);
        }
    }
    // A shuffle sees four rows, with four levels each in a table: the code's lower bits and the row are the place, its upper bits choose the table.
    __m512i of_rows(__m512i codes) const {
        const __m512i rows = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
        const __m512i place = _mm512_or_si512(Bits <= 2 ? codes : _mm512_and_si512(codes, _mm512_set1_epi8(3)), rows);
        const auto look_up = [&](int i) { return _mm512_shuffle_epi8(table[i], place); };
        if constexpr (n_tables == 1) return look_up(0);
        const __mmask64 third_bit = _mm512_test_epi8_mask(codes, _mm512_set1_epi8(4));
        const __m512i low = _mm512_mask_blend_epi8(third_bit, look_up(0), look_up(1 % n_tables));
        if constexpr (n_tables == 2) return low;
        return _mm512_mask_blend_epi8(_mm512_test_epi8_mask(codes, _mm512_set1_epi8(8)), low, _mm512_mask_blend_epi8(third_bit, look_up(2 % n_tables), look_up(3 % n_tables)));
    }
    __m512i operator()(__m512i codes) const {
        if constexpr (Levels == 1) return _mm512_shuffle_epi8(table[0], codes);
        if constexpr (Levels == 2) return of_rows(codes);
        return codes;
    }
    // Of vector v of a stored block.
    __m512i level(const Byte* block, int v) const {
        if constexpr (Levels != twice) return (*this)(codes_of<Bits>(block, v));
        const __m512i plane = load64(block);
        return _mm512_and_si512(v == 0 ? _mm512_slli_epi16(plane, 1) : v == 1 ? plane : _mm512_srli_epi16(plane, static_cast<unsigned>(v - 1)), _mm512_set1_epi8(2));
    }
};

// One unit's integer sums to the 16 sums of a token.
inline __m512 add_unit(__m512 sum, __m512i dot, __m512 scale, float activation_scale) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(scale, _mm512_set1_ps(activation_scale)), sum);
}

// zero: 16-bit numbers in 32 bits, upper halves zero; sum: of 32 codes at most, so 16 bits too
inline __m512i less_zero(__m512i dot, __m512i zero, std::int32_t sum) { return _mm512_sub_epi32(dot, _mm512_madd_epi16(zero, _mm512_set1_epi32(sum))); }

// sums (N, 16) += stored blocks times N tokens. Units: of a block, 1 or 2. Placed: the stretch says which blocks of the row they are.
template <int Bits, int Levels, int Units, int N, bool Placed, bool IntoL2>
void direct_blocks(const Stretch& stretch, const Tokens& tokens, float* sums) {
    const Tokens x = tokens;
    const LevelsOfCodes<Bits, Levels> expand(*stretch.format, stretch.row_levels);
    const bool with_minimums = x.sums != nullptr;
    const float *scales = stretch.scales, *corrections = stretch.corrections;
    const Byte* block = stretch.codes;
    __m512 sum[N];
    SKIFF_UNROLL
    for (int t = 0; t < N; ++t) sum[t] = _mm512_load_ps(sums + t * 16);
    const std::int64_t n_blocks = stretch.n_blocks;
    for (std::int64_t b = 0; b < n_blocks; ++b, block += 64 * Bits) {
        fetch_lines<IntoL2>(block + fetch_ahead_bytes, Bits);
        const std::int64_t place = Placed ? stretch.places[b] : b;
        const auto add = [&](int unit) __attribute__((always_inline)) {
            const std::int64_t unit_at = place * Units + unit;
            __m512i dot[N];
            SKIFF_UNROLL
            for (int t = 0; t < N; ++t) dot[t] = _mm512_set1_epi32(x.start[unit_at * x.stride + t]);
            SKIFF_UNROLL
            for (int v = unit * 8 / Units; v < (unit + 1) * 8 / Units; ++v) {
                const __m512i level = expand.level(block, v);
                SKIFF_UNROLL
                for (int t = 0; t < N; ++t) dot[t] = _mm512_dpbusd_epi32(dot[t], level, broadcast4(x.codes + t * x.code_stride + place * tile_block + v * 4));
            }
            const std::int64_t u = (b * Units + unit + stretch.scale_phase) >> stretch.scale_shift;
            if (x.code_sums != nullptr) {
                const __m512i zero = _mm512_load_si512(corrections + u * 16);
                SKIFF_UNROLL
                for (int t = 0; t < N; ++t) dot[t] = less_zero(dot[t], zero, x.code_sums[unit_at * x.stride + t]);
            }
            const __m512 scale = _mm512_load_ps(scales + u * 16);
            SKIFF_UNROLL
            for (int t = 0; t < N; ++t) sum[t] = add_unit(sum[t], dot[t], scale, x.scales[place * x.stride + t]);
            if (with_minimums) {
                const __m512 correction = _mm512_load_ps(corrections + u * 16);
                SKIFF_UNROLL
                for (int t = 0; t < N; ++t) sum[t] = _mm512_fnmadd_ps(correction, _mm512_set1_ps(x.sums[unit_at * x.stride + t]), sum[t]);
            }
        };
        add(0);
        if constexpr (Units == 2) add(1);
    }
    SKIFF_UNROLL
    for (int t = 0; t < N; ++t) _mm512_store_ps(sums + t * 16, sum[t]);
}

// sums (N, stride) += expanded blocks of R tiles times N tokens. Of two tiles the stride is known: as a variable it takes registers that the addresses of twelve sums then
// lack, which was a tenth of the speed.
template <int R, int N, int Units, Corrections kind, bool Placed>
void multiply_blocks(const Stretch* tiles, const Tokens& tokens, float* sums, std::int64_t stride_of_one) {
    Tokens x = tokens;
    const std::int64_t stride = R == 2 ? 2 * tile_rows : stride_of_one;
    constexpr bool with_minimums = kind == Corrections::minimums, with_zeros = kind == Corrections::zeros;
    // Two bases and a stride reach six tokens with few registers.
    const std::int8_t *codes[2] = {x.codes, x.codes + 3 * x.code_stride}, *const end = x.codes + tiles[0].n_blocks * tile_block;
    const Byte* block[R];
    const float *scales[R], *corrections[R];
    SKIFF_UNROLL
    for (int r = 0; r < R; ++r) block[r] = tiles[r].codes, scales[r] = tiles[r].scales, corrections[r] = tiles[r].corrections;
    const std::uint16_t *place = tiles[0].places, *const last = place + (Placed ? tiles[0].n_blocks : 0);
    while (Placed ? place != last : codes[0] != end) {
        if constexpr (Placed) {
            x = from(tokens, 0, *place++, Units);
            codes[0] = x.codes, codes[1] = x.codes + 3 * x.code_stride;
        }
        const auto add = [&](int unit) __attribute__((always_inline)) {
            __m512i dot[N][R];
            SKIFF_UNROLL
            for (int t = 0; t < N; ++t) {
                SKIFF_UNROLL
                for (int r = 0; r < R; ++r) dot[t][r] = _mm512_set1_epi32(x.start[t]);
            }
            SKIFF_UNROLL
            for (int v = unit * 8 / Units; v < (unit + 1) * 8 / Units; ++v) {
                __m512i level[R];
                SKIFF_UNROLL
                for (int r = 0; r < R; ++r) level[r] = _mm512_load_si512(block[r] + v * 64);
                SKIFF_UNROLL
                for (int t = 0; t < N; ++t) {
                    const __m512i a = broadcast4(codes[t / 3] + t % 3 * x.code_stride + v * 4);
                    SKIFF_UNROLL
                    for (int r = 0; r < R; ++r) {
                        dot[t][r] = _mm512_dpbusd_epi32(dot[t][r], level[r], a);
                        SKIFF_KEEP(dot[t][r]);
                    }
                }
            }
            SKIFF_UNROLL
            for (int r = 0; r < R; ++r) {
                const __m512 scale = _mm512_load_ps(scales[r]), correction = kind == Corrections::none ? scale : _mm512_load_ps(corrections[r]);
                SKIFF_UNROLL
                for (int t = 0; t < N; ++t) {
                    if (with_zeros) dot[t][r] = less_zero(dot[t][r], _mm512_castps_si512(correction), x.code_sums[t]);
                    float* at = sums + t * stride + r * 16;
                    __m512 sum = add_unit(_mm512_load_ps(at), dot[t][r], scale, x.scales[t]);
                    if (with_minimums) sum = _mm512_fnmadd_ps(correction, _mm512_set1_ps(x.sums[t]), sum);
                    _mm512_store_ps(at, sum);
                }
                scales[r] += 16, corrections[r] += 16;
            }
            x.start += x.stride;
            if (with_minimums) x.sums += x.stride;
            if (with_zeros) x.code_sums += x.stride;
        };
        add(0);
        if constexpr (Units == 2) add(1);
        if constexpr (!Placed) {
            x.scales += x.stride;
            codes[0] += tile_block, codes[1] += tile_block;
        }
        SKIFF_UNROLL
        for (int r = 0; r < R; ++r) block[r] += expanded_block_bytes;
    }
}

template <int Bits, int Levels>
void expand_blocks(const TileFormat& format, const Byte* row_levels, const Byte* block, std::int64_t n_blocks, Byte* target) {
    const LevelsOfCodes<Bits, Levels> levels(format, row_levels);
    for (std::int64_t b = 0; b < n_blocks; ++b, block += 64 * Bits, target += expanded_block_bytes) {
        fetch_lines<false>(block + 4096, Bits);
        SKIFF_UNROLL
        for (int v = 0; v < 8; ++v) {
            _mm512_store_si512(target + v * 64, levels.level(block, v));
        }
    }
}

template <int R, int Units, Corrections kind, bool Placed>
void multiply_tokens(const Stretch* tiles, Tokens x, std::int64_t n_tokens, float* sums, std::int64_t stride) {
    while (n_tokens > 0) {
        // the rest in equal parts: 7 = 4 + 3, not 6 + 1
        const std::int64_t n = n_tokens >= 12 || n_tokens == 6 ? 6 : n_tokens > 6 ? (n_tokens + 1) / 2 : n_tokens;
        switch (n) {
            case 1: multiply_blocks<R, 1, Units, kind, Placed>(tiles, x, sums, stride); break;
            case 2: multiply_blocks<R, 2, Units, kind, Placed>(tiles, x, sums, stride); break;
            case 3: multiply_blocks<R, 3, Units, kind, Placed>(tiles, x, sums, stride); break;
            case 4: multiply_blocks<R, 4, Units, kind, Placed>(tiles, x, sums, stride); break;
            case 5: multiply_blocks<R, 5, Units, kind, Placed>(tiles, x, sums, stride); break;
            default: multiply_blocks<R, 6, Units, kind, Placed>(tiles, x, sums, stride);
        }
        x = from(x, n, 0, Units);
        n_tokens -= n;
        sums += n * stride;
    }
}

template <int R>
void multiply_tiles(const Stretch* tiles, const Tokens& x, std::int64_t n_tokens, float* sums, std::int64_t stride) {
    const bool halves = tiles[0].format->units_per_block() == 2;
    switch (corrections_of(x)) {
        case Corrections::zeros: return halves ? multiply_tokens<R, 2, Corrections::zeros, false>(tiles, x, n_tokens, sums, stride) : multiply_tokens<R, 1, Corrections::zeros, false>(tiles, x, n_tokens, sums, stride);
        case Corrections::minimums:
            return halves ? multiply_tokens<R, 2, Corrections::minimums, false>(tiles, x, n_tokens, sums, stride) : multiply_tokens<R, 1, Corrections::minimums, false>(tiles, x, n_tokens, sums, stride);
        default: return halves ? multiply_tokens<R, 2, Corrections::none, false>(tiles, x, n_tokens, sums, stride) : multiply_tokens<R, 1, Corrections::none, false>(tiles, x, n_tokens, sums, stride);
    }
}
// Pruned weights are symmetric.
[[maybe_unused]] inline void multiply_placed(const Stretch* tile, const Tokens& x, std::int64_t n_tokens, float* sums, std::int64_t stride) {
    if (tile->format->units_per_block() == 2) multiply_tokens<1, 2, Corrections::none, true>(tile, x, n_tokens, sums, stride);
    else multiply_tokens<1, 1, Corrections::none, true>(tile, x, n_tokens, sums, stride);
}

// Pruned: whether there are rows of the table for pruned weights.
template <int Bits, int Levels, bool Pruned = true>
struct Avx512 {
    static constexpr std::int64_t max_direct = 8, tiles_at_once = 2;
    static constexpr bool finds_scales = true;

    static void numbers16(TileNumber type, const Byte* p, float* target) {
        __m512 numbers;
        switch (type) {
            case TileNumber::f16: numbers = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); break;
            case TileNumber::i8: numbers = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))); break;
            case TileNumber::u8: numbers = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))); break;
            case TileNumber::e8m0: {  // 2^(byte - 127); byte 0 is 2^-127, a subnormal
                const __m512i byte = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
                const __m512i usual = _mm512_slli_epi32(byte, 23);
                const __m512i bits = _mm512_mask_mov_epi32(usual, _mm512_cmpeq_epi32_mask(byte, _mm512_setzero_si512()), _mm512_set1_epi32(0x00400000));
                numbers = _mm512_castsi512_ps(_mm512_mask_mov_epi32(bits, _mm512_cmpeq_epi32_mask(byte, _mm512_set1_epi32(255)), _mm512_set1_epi32(0x7fc00000)));
                break;
            }
            default: numbers = _mm512_loadu_ps(p);
        }
        _mm512_store_ps(target, numbers);
    }
    // 16 codes of 4 bits, the first eight in the low halves.
    static void table16(const std::int8_t* levels, const Byte* p, float* target) {
        const __m128i codes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)), both = _mm_unpacklo_epi64(codes, _mm_srli_epi16(codes, 4));
        const __m128i found = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(levels)), _mm_and_si128(both, _mm_set1_epi8(15)));
        _mm512_store_ps(target, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(found)));
    }
    static void copy16(const float* source, float* target) { _mm512_store_ps(target, _mm512_load_ps(source)); }

    // Stored numbers to what the sums take: levels count from the offset, so a minimum or a zero does too.
    static void finish_scales(const TileFormat& format, const float* super_scale, const float* super_minimum, float* scale, float* correction) {
        __m512 s = _mm512_load_ps(scale);
        if (format.relative_scales) s = _mm512_mul_ps(s, _mm512_load_ps(super_scale));
        s = _mm512_mul_ps(s, _mm512_set1_ps(format.level_scale));
        _mm512_store_ps(scale, s);
        if (!format.has_corrections()) return;
        __m512 c = _mm512_load_ps(correction);
        if (format.zeros != TileNumber::none) return store_zeros(format, _mm512_cvtps_epi32(c), correction);
        if (format.relative_minimums) c = _mm512_mul_ps(c, _mm512_load_ps(super_minimum));
        _mm512_store_ps(correction, less_offset(format, s, c));
    }
    static void store_zeros(const TileFormat& format, __m512i zeros, float* correction) {
        _mm512_store_si512(correction, _mm512_and_si512(_mm512_sub_epi32(zeros, _mm512_set1_epi32(format.offset)), _mm512_set1_epi32(0xffff)));
    }
    static __m512 less_offset(const TileFormat& format, __m512 scale, __m512 minimum) { return _mm512_fnmadd_ps(_mm512_set1_ps(static_cast<float>(format.offset)), scale, minimum); }
    // Corrections that need no super scale, of units whose scales are finished: the bits that numbers16 and finish_scales give.
    static void correct_blocks(const TileFormat& format, const Byte* corrections, std::int64_t n_blocks, const float* scales, float* target) {
        if (format.zeros == TileNumber::u8) {
            for (std::int64_t b = 0; b < n_blocks; ++b) store_zeros(format, _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(corrections) + b)), target + b * 16);
            return;
        }
        for (std::int64_t b = 0; b < n_blocks; ++b) {
            numbers16(format.minimums, corrections + b * tile_numbers_bytes(format.minimums), target + b * 16);
            _mm512_store_ps(target + b * 16, less_offset(format, _mm512_load_ps(scales + b * 16), _mm512_load_ps(target + b * 16)));
        }
    }

    // The bits that numbers16 and finish_scales give.
    static void scale_blocks(const TileFormat& format, const Byte* super, const Byte* scales, std::int64_t n_blocks, float* target) {
        const __m512 level_scale = _mm512_set1_ps(format.level_scale);
        alignas(64) float super_scale[16] = {}, none[16] = {};
        if (super != nullptr) numbers16(format.supers, super, super_scale);
        const __m512 times = super != nullptr ? _mm512_load_ps(super_scale) : _mm512_setzero_ps();
        switch (format.scales) {
            case TileNumber::f16:
                for (std::int64_t b = 0; b < n_blocks; ++b) {
                    const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales) + b));
                    _mm512_store_ps(target + b * 16, _mm512_mul_ps(scale, level_scale));
                }
                return;
            case TileNumber::i8:
                for (std::int64_t b = 0; b < n_blocks; ++b) {
                    const __m512 scale = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales) + b)));
                    _mm512_store_ps(target + b * 16, _mm512_mul_ps(_mm512_mul_ps(scale, times), level_scale));
                }
                return;
            default:
                for (std::int64_t b = 0; b < n_blocks; ++b) {
                    numbers16(format.scales, scales + b * tile_numbers_bytes(format.scales), target + b * 16);
                    finish_scales(format, super_scale, none, target + b * 16, none);
                }
        }
    }

    static Start start(const TileFormat& format) { return {format.offset, false}; }

    static void write16(const float* sums, const float* bias, std::int64_t n_rows, bool add, float* y) {
        const auto mask = static_cast<__mmask16>((1u << n_rows) - 1);
        __m512 value = _mm512_load_ps(sums);
        if (bias != nullptr) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, bias));
        if (add) value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), value);
        _mm512_mask_storeu_ps(y, mask, value);
    }

    static constexpr bool skips = Pruned && Levels == 0, masked = false;
    template <int Units, int N, bool Placed>
    static void direct_tokens(const Stretch& stretch, const Tokens& x, float* sums) {
        if (tile_into_l2(*stretch.format, N)) direct_blocks<Bits, Levels, Units, N, Placed, true>(stretch, x, sums);
        else direct_blocks<Bits, Levels, Units, N, Placed, false>(stretch, x, sums);
    }
    template <int Units, bool Placed>
    static void direct_units(const Stretch& stretch, const Tokens& x, std::int64_t n_tokens, float* sums) {
        switch (n_tokens) {
            case 1: return direct_tokens<Units, 1, Placed>(stretch, x, sums);
            case 2: return direct_tokens<Units, 2, Placed>(stretch, x, sums);
            case 3: return direct_tokens<Units, 3, Placed>(stretch, x, sums);
            case 4: return direct_tokens<Units, 4, Placed>(stretch, x, sums);
            default:  // 5 to 8 in two parts of nearly the same size
                direct_units<Units, Placed>(stretch, x, (n_tokens + 1) / 2, sums);
                direct_units<Units, Placed>(stretch, from(x, (n_tokens + 1) / 2, 0, Units), n_tokens / 2, sums + (n_tokens + 1) / 2 * tile_rows);
        }
    }
    static void direct(const Stretch& stretch, const Tokens& x, std::int64_t n_tokens, float* sums) {
        const bool halves = stretch.format->units_per_block() == 2;
        if constexpr (skips)
            if (stretch.places != nullptr) return halves ? direct_units<2, true>(stretch, x, n_tokens, sums) : direct_units<1, true>(stretch, x, n_tokens, sums);
        if (halves) direct_units<2, false>(stretch, x, n_tokens, sums);
        else direct_units<1, false>(stretch, x, n_tokens, sums);
    }
    static void expand(const TileFormat& format, const Byte* row_levels, const Byte* blocks, std::int64_t n_blocks, Byte* target) { expand_blocks<Bits, Levels>(format, row_levels, blocks, n_blocks, target); }
    static void multiply(const Stretch* tiles, std::int64_t n_tiles, const Tokens& x, std::int64_t n_tokens, float* sums, std::int64_t stride) {
        if constexpr (skips)
            if (tiles->places != nullptr) return multiply_placed(tiles, x, n_tokens, sums, stride);
        if (n_tiles == 2) multiply_tiles<2>(tiles, x, n_tokens, sums, stride);
        else multiply_tiles<1>(tiles, x, n_tokens, sums, stride);
    }
};

}  // namespace
}  // namespace skiff
