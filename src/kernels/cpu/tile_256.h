// Micro-kernels over tiles in vectors of 256 bits, for tile_driver.h. A vector of 64 bytes of a tile is two halves of eight rows. Included by the units for
// AVX2 and AVX-VNNI, and by them alone; they differ in how four products are added:
//
//   Depth 8, 2, 1      AVX2: vpmaddubsw adds two products of an unsigned level and a signed code in 16 bits; `Depth` of its results fit there, then vpmaddwd with ones
//                      widens them. A sum of 16 bits that begins with its start, less `offset` for every level, may overflow on the way: what it ends with is the sum of
//                      the levels that are meant, and 8 results fit if these are within 16 (2 x 16 x 127 x 8 = 32512). Of 2 and 1 the start is in the sum of 32 bits, so that
//                      the unsigned levels must fit: up to 63 (2 x 63 x 127 x 2) and 127
//   Depth halves       the same with a start for each half of a block: 4 results, for levels within 32 (2 x 32 x 127 x 4)
//   Depth 0            AVX2, levels beyond 127: |w| times the code with the sign of w, each result (at most 2 x 128 x 127) widened at once; and once blocks are expanded,
//                      levels and codes of 16 bits (tile_256_wide.h)
//   Depth -1           AVX-VNNI: vpdpbusd adds four products in 32 bits
//
// Prefill: one tile times four tokens are 8 sums in 16 bits, two vectors of levels and a broadcast; the float sums stay in memory.
#pragma once

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/fetch.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/tile_driver.h"

namespace skiff {
namespace {

constexpr int signed_levels = 0, vnni = -1, halves = -2;

inline __m256i load32(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
// Four activation bytes in every lane; a plain load with broadcast.
inline __m256i broadcast4(const void* p) { return _mm256_castps_si256(_mm256_broadcast_ss(static_cast<const float*>(p))); }

// Half `half` of vector v of a stored block as codes.
template <int Bits>
inline __m256i codes_of(const Byte* block, int v, int half) {
    const auto field = [](__m256i plane, int shift, int mask) {
        return _mm256_and_si256(shift == 0 ? plane : _mm256_srli_epi16(plane, shift), _mm256_set1_epi8(static_cast<char>(mask)));
    };
    // The bits of a second plane, moved up to bit `to` of the code and joined with the first.
    const auto join = [](__m256i low, __m256i plane, int shift, int to, int mask) {
        const __m256i moved = shift == to ? plane : shift > to ? _mm256_srli_epi16(plane, shift - to) : _mm256_slli_epi16(plane, to - shift);
        return _mm256_or_si256(low, _mm256_and_si256(moved, _mm256_set1_epi8(static_cast<char>(mask))));
    };
    const Byte* at = block + half * 32;
    if constexpr (Bits == 1) return field(load32(at), v, 1);
    if constexpr (Bits == 2) return field(load32(at + v % 2 * 64), v / 2 * 2, 3);
    if constexpr (Bits == 3) return join(codes_of<2>(block, v, half), load32(at + 128), v, 2, 4);
    if constexpr (Bits == 4) return field(load32(at + v % 4 * 64), v / 4 * 4, 15);
    if constexpr (Bits == 5) return join(codes_of<4>(block, v, half), load32(at + 256), v, 4, 16);
    if constexpr (Bits == 6) return join(codes_of<4>(block, v, half), load32(at + 256 + v % 2 * 64), v / 2 * 2, 4, 0x30);
    return load32(at + v * 64);
}

// Codes to what the products take: levels, or with signed_levels what they stand for. Levels: 1 one table, 2 a table for each row, or twice a code. `half`: eight rows.
template <int Bits, int Depth, int Levels>
struct Expander {
    static constexpr int n_tables = Levels == 2 ? row_level_vectors(Bits) : 1;
    __m256i table[n_tables][2], offset;
    Expander(const TileFormat& format, const Byte* row_levels) : offset(_mm256_set1_epi8(static_cast<char>(format.offset))) {
        if constexpr (Levels == 2) {
            for (int i = 0; i < n_tables; ++i)
                for (int half = 0; half < 2; ++half) table[i][half] = load32(row_levels + i * 64 + half * 32);
        } else {
            table[0][0] = table[0][1] = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(format.levels)));
            if constexpr (pairs) {
                const __m256i places = _mm256_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
                table[0][1] = _mm256_shuffle_epi8(table[0][0], places);
                table[0][0] = _mm256_shuffle_epi8(table[0][0], _mm256_set1_epi32(0x03020100));
            }
        }
    }
    // Two codes of two bits are a nibble, and a table of sixteen levels finds either: a shift and two masks for four codes instead of three and four.
    static constexpr bool pairs = Bits == 2 && Levels == 1;
    __m256i of_pairs(const Byte* block, int v, int half) const {
        const __m256i stored = load32(block + half * 32 + v % 2 * 64);
        const __m256i nibbles = _mm256_and_si256(v < 4 ? stored : _mm256_srli_epi16(stored, 4), _mm256_set1_epi8(15));
        const __m256i levels = _mm256_shuffle_epi8(table[0][v / 2 % 2], nibbles);
        return Depth == signed_levels ? _mm256_sub_epi8(levels, offset) : levels;
    }
    // A shuffle sees four rows, with four levels each in a table: the code's lower bits and the row are the place, its upper bits choose the table.
    __m256i of_rows(__m256i codes, int half) const {
        const __m256i rows = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
        const __m256i place = _mm256_or_si256(Bits <= 2 ? codes : _mm256_and_si256(codes, _mm256_set1_epi8(3)), rows);
        const auto look_up = [&](int i) { return _mm256_shuffle_epi8(table[i][half], place); };
        if constexpr (n_tables == 1) return look_up(0);
        const __m256i third_bit = _mm256_slli_epi16(codes, 5);  // as the sign
        const __m256i low = _mm256_blendv_epi8(look_up(0), look_up(1 % n_tables), third_bit);
        if constexpr (n_tables == 2) return low;
        return _mm256_blendv_epi8(low, _mm256_blendv_epi8(look_up(2 % n_tables), look_up(3 % n_tables), third_bit), _mm256_slli_epi16(codes, 4));
    }
    __m256i operator()(__m256i codes, int half) const {
        if constexpr (Levels == 1) codes = _mm256_shuffle_epi8(table[0][0], codes);
        if constexpr (Levels == 2) codes = of_rows(codes, half);
        if constexpr (Depth == signed_levels) codes = _mm256_sub_epi8(codes, offset);
        return codes;
    }
    // Of half `half` of vector v of a stored block.
    __m256i level(const Byte* block, int v, int half) const {
        if constexpr (pairs) return of_pairs(block, v, half);
        if constexpr (Levels != twice) return (*this)(codes_of<Bits>(block, v, half), half);
        const __m256i plane = load32(block + half * 32);
        return _mm256_and_si256(v == 0 ? _mm256_slli_epi16(plane, 1) : v == 1 ? plane : _mm256_srli_epi16(plane, v - 1), _mm256_set1_epi8(2));
    }
};

// A running sum of products, of as many steps as a start is for: in 16 bits what has not been widened yet, in 32 bits the rest.
template <int Depth, int Steps>
struct Sum {
    static constexpr bool in_16_bits = Depth == halves || Depth >= Steps;  // all steps, with their start
    __m256i narrow, wide;

    void begin(const std::int32_t* start) { (in_16_bits ? narrow : wide) = broadcast4(start); }
    void add(int step, __m256i level, __m256i a) {
#if defined(__AVXVNNI__)
        if constexpr (Depth == vnni) {
            wide = _mm256_dpbusd_avx_epi32(wide, level, a);
            return;
        }
#endif
        if constexpr (Depth == signed_levels) {
            wide = _mm256_add_epi32(wide, _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(level), _mm256_sign_epi8(a, level)), _mm256_set1_epi16(1)));
        } else {
            const __m256i products = _mm256_maddubs_epi16(level, a);
            narrow = in_16_bits || step % Depth != 0 ? _mm256_add_epi16(narrow, products) : products;
            if (!in_16_bits && step % Depth == Depth - 1) wide = _mm256_add_epi32(wide, _mm256_madd_epi16(narrow, _mm256_set1_epi16(1)));
        }
    }
    void keep() {
        if constexpr (Depth > 1 || Depth == halves) SKIFF_KEEP(narrow);
        if constexpr (!in_16_bits) SKIFF_KEEP(wide);
    }
    __m256i total() const { return in_16_bits ? _mm256_madd_epi16(narrow, _mm256_set1_epi16(1)) : wide; }
};

inline __m256 add_unit(__m256 sum, __m256i dot, __m256 scale, const float* activation_scale) {
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_mul_ps(scale, _mm256_broadcast_ss(activation_scale)), sum);
}

// sums (N, stride) += a unit's products, which its scales and corrections turn into floats. Block and unit: of the activation. first: what was summed of the unit before, (N, 2), or null.
template <int N, Corrections kind, class SumType>
inline void add_units(const float* scales, const float* corrections, const Tokens& x, std::int64_t block, std::int64_t unit, const SumType (&dot)[N][2], const __m256i* first, float* sums, std::int64_t stride) {
    SKIFF_UNROLL
    for (int half = 0; half < 2; ++half) {
        const __m256 scale = _mm256_load_ps(scales + half * 8);
        SKIFF_UNROLL
        for (int t = 0; t < N; ++t) {
            float* at = sums + t * stride + half * 8;
            __m256i total = dot[t][half].total();
            if (first != nullptr) total = _mm256_add_epi32(total, first[2 * t + half]);
            if (kind == Corrections::zeros || (kind == Corrections::look && x.code_sums != nullptr)) {  // zeros are 16-bit numbers in 32 bits, upper halves zero; the sum of 32 codes fits 16 bits too
                const __m256i zero = _mm256_load_si256(reinterpret_cast<const __m256i*>(corrections + half * 8));
                total = _mm256_sub_epi32(total, _mm256_madd_epi16(zero, broadcast4(x.code_sums + unit * x.stride + t)));
            }
            _mm256_store_ps(at, add_unit(_mm256_load_ps(at), total, scale, x.scales + block * x.stride + t));
        }
        if (kind == Corrections::none || kind == Corrections::zeros || x.sums == nullptr) continue;
        const __m256 correction = _mm256_load_ps(corrections + half * 8);
        SKIFF_UNROLL
        for (int t = 0; t < N; ++t) {
            float* at = sums + t * stride + half * 8;
            _mm256_store_ps(at, _mm256_fnmadd_ps(correction, _mm256_broadcast_ss(x.sums + unit * x.stride + t), _mm256_load_ps(at)));
        }
    }
}

// sums (N, stride) += N tokens times blocks: stored ones (Bits 1 to 8), or expanded ones (Bits 0).
// Placed: the stretch says which blocks of the row they are.
template <int Bits, int Depth, int Levels, int Units, int N, Corrections kind, bool Placed, bool IntoL2>
void multiply_blocks(const Stretch& stretch, const Tokens& tokens, float* sums, std::int64_t stride) {
    Tokens x = tokens;
    // Of four tokens whose sums in 16 bits take two products, two steps go together: such a sum then lives for one token alone, and the eight in 32 bits stay in registers.
    constexpr int starts = Depth == halves && Units == 1 ? 2 : 1, steps = 8 / Units / starts, together = Depth == 2 && N == 4 ? 2 : 1;
    const Expander<Bits, Depth, Levels> expand(*stretch.format, stretch.row_levels);
    const float *scales = stretch.scales, *corrections = stretch.corrections;
    const Byte* block = stretch.codes;
    const std::int64_t n_blocks = stretch.n_blocks;
    __m256i first_half[2 * N];
    for (std::int64_t b = 0; b < n_blocks; ++b, block += Bits == 0 ? expanded_block_bytes : 64 * Bits) {
        fetch_lines<IntoL2>(block + fetch_ahead_bytes, Bits);
        const std::int64_t place = Placed ? stretch.places[b] : b;
        const std::int8_t* codes = Placed ? x.codes + place * tile_block : x.codes;
        // The part of a block that a start is for. Of halves the first one's sums wait in memory for the second's.
        const auto add = [&](int part) __attribute__((always_inline)) {
            Sum<Depth, steps> dot[N][2];
            SKIFF_UNROLL
            for (int t = 0; t < N; ++t) {
                dot[t][0].begin(x.start + place * x.start_stride + part * x.stride + t);
                dot[t][1].begin(x.start + place * x.start_stride + part * x.stride + t);
            }
            SKIFF_UNROLL
            for (int step = 0; step < steps; step += together) {
                const int first = part * steps + step;
                __m256i level[together][2];
                SKIFF_UNROLL
                for (int i = 0; i < 2 * together; ++i) {
                    const int v = first + i / 2, half = i % 2;
                    if constexpr (Bits == 0) level[i / 2][half] = _mm256_load_si256(reinterpret_cast<const __m256i*>(block + v * 64 + half * 32));
                    else level[i / 2][half] = expand.level(block, v, half);
                }
                SKIFF_UNROLL
                for (int t = 0; t < N; ++t) {
                    __m256i a[together];
                    SKIFF_UNROLL
                    for (int i = 0; i < together; ++i) a[i] = broadcast4(codes + t * x.code_stride + (first + i) * 4);
                    SKIFF_UNROLL
                    for (int half = 0; half < 2; ++half) {
                        SKIFF_UNROLL
                        for (int i = 0; i < together; ++i) dot[t][half].add(step + i, level[i][half], a[i]);
                        if (together == 2) SKIFF_KEEP(dot[t][half].wide);
                    }
                }
                if (together == 2) continue;
                SKIFF_UNROLL
                for (int t = 0; t < N; ++t) dot[t][0].keep(), dot[t][1].keep();
            }
            if (part + 1 < starts) {
                SKIFF_UNROLL
                for (int i = 0; i < 2 * N; ++i) _mm256_store_si256(&first_half[i], dot[i / 2][i % 2].total());
                return;
            }
            const int unit = part / starts;
            const std::int64_t scale = Bits == 0 ? b * Units + unit : (b * Units + unit + stretch.scale_phase) >> stretch.scale_shift;
            add_units<N, kind>(scales + scale * 16, corrections + scale * 16, x, place, place * Units + unit, dot, starts == 2 ? first_half : nullptr, sums, stride);
        };
        add(0);
        if constexpr (Units * starts == 2) add(1);
        if constexpr (!Placed) x.codes += tile_block;
    }
}

}  // namespace
}  // namespace skiff

#include "kernels/cpu/tile_256_wide.h"

namespace skiff {
namespace {

template <int Bits, int Depth, int Levels>
struct Micro256 {
    static constexpr bool finds_scales = true, wide_codes = Depth == signed_levels;
    static constexpr std::int64_t max_direct = 12, tiles_at_once = 1;

    static void widen(const std::int8_t* codes, std::int64_t n, std::int16_t* target) { widen_codes(codes, n, target); }
    // Half `half` of vector v of an expanded block.
    static void store_levels(Byte* block, int v, int half, __m256i levels) {
        if constexpr (wide_codes) store_wide_levels(block, v, half, levels);
        else _mm256_store_si256(reinterpret_cast<__m256i*>(block + v * 64 + half * 32), levels);
    }

    static void numbers16(TileNumber type, const Byte* p, float* target) {
        for (int half = 0; half < 2; ++half) {
            __m256 numbers;
            switch (type) {
                case TileNumber::f16: numbers = f16_to_f32(p + half * 16); break;
                case TileNumber::i8: numbers = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + half * 8)))); break;
                case TileNumber::u8: numbers = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + half * 8)))); break;
                case TileNumber::e8m0: {  // 2^(byte - 127); byte 0 is 2^-127, a subnormal, and 255 is NaN
                    const __m256i byte = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + half * 8)));
                    const auto pick = [&](__m256i otherwise, int key, int bits) {
                        return _mm256_blendv_epi8(otherwise, _mm256_set1_epi32(bits), _mm256_cmpeq_epi32(byte, _mm256_set1_epi32(key)));
                    };
                    numbers = _mm256_castsi256_ps(pick(pick(_mm256_slli_epi32(byte, 23), 0, 0x00400000), 255, 0x7fc00000));
                    break;
                }
                default: numbers = _mm256_loadu_ps(reinterpret_cast<const float*>(p) + half * 8);
            }
            _mm256_store_ps(target + half * 8, numbers);
        }
    }
    // 16 codes of 4 bits, the first eight in the low halves.
    static void table16(const std::int8_t* levels, const Byte* p, float* target) {
        const __m128i codes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)), both = _mm_unpacklo_epi64(codes, _mm_srli_epi16(codes, 4));
        const __m128i found = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(levels)), _mm_and_si128(both, _mm_set1_epi8(15)));
        _mm256_store_ps(target, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(found)));
        _mm256_store_ps(target + 8, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(found, found))));
    }
    static void copy16(const float* source, float* target) {
        _mm256_store_ps(target, _mm256_load_ps(source));
        _mm256_store_ps(target + 8, _mm256_load_ps(source + 8));
    }

    // Stored numbers to what the sums take: levels count from the offset, so a minimum or a zero does too.
    static void finish_scales(const TileFormat& format, const float* super_scale, const float* super_minimum, float* scale, float* correction) {
        for (int i = 0; i < 16; i += 8) {
            __m256 s = _mm256_load_ps(scale + i);
            if (format.relative_scales) s = _mm256_mul_ps(s, _mm256_load_ps(super_scale + i));
            s = _mm256_mul_ps(s, _mm256_set1_ps(format.level_scale));
            _mm256_store_ps(scale + i, s);
            if (!format.has_corrections()) continue;
            __m256 c = _mm256_load_ps(correction + i);
            if (format.zeros != TileNumber::none) {
                store_zeros(format, _mm256_cvtps_epi32(c), correction + i);
                continue;
            }
            if (format.relative_minimums) c = _mm256_mul_ps(c, _mm256_load_ps(super_minimum + i));
            _mm256_store_ps(correction + i, less_offset(format, s, c));
        }
    }
    static void store_zeros(const TileFormat& format, __m256i zeros, float* correction) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(correction), _mm256_and_si256(_mm256_sub_epi32(zeros, _mm256_set1_epi32(format.offset)), _mm256_set1_epi32(0xffff)));
    }
    static __m256 less_offset(const TileFormat& format, __m256 scale, __m256 minimum) { return _mm256_fnmadd_ps(_mm256_set1_ps(static_cast<float>(format.offset)), scale, minimum); }
    // Corrections that need no super scale, of units whose scales are finished: the bits that numbers16 and finish_scales give.
    static void correct_blocks(const TileFormat& format, const Byte* corrections, std::int64_t n_blocks, const float* scales, float* target) {
        if (format.zeros == TileNumber::u8) {
            for (std::int64_t i = 0; i < 2 * n_blocks; ++i) store_zeros(format, _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(corrections + i * 8))), target + i * 8);
            return;
        }
        for (std::int64_t b = 0; b < n_blocks; ++b) {
            numbers16(format.minimums, corrections + b * tile_numbers_bytes(format.minimums), target + b * 16);
            for (std::int64_t at = b * 16; at < b * 16 + 16; at += 8) _mm256_store_ps(target + at, less_offset(format, _mm256_load_ps(scales + at), _mm256_load_ps(target + at)));
        }
    }

    // The bits that numbers16 and finish_scales give.
    static void scale_blocks(const TileFormat& format, const Byte* super, const Byte* scales, std::int64_t n_blocks, float* target) {
        alignas(64) float super_scale[16] = {}, none[16] = {};
        const __m256 level_scale = _mm256_set1_ps(format.level_scale);
        if (format.scales == TileNumber::f16) {
            for (std::int64_t i = 0; i < 2 * n_blocks; ++i) _mm256_store_ps(target + i * 8, _mm256_mul_ps(f16_to_f32(scales + i * 16), level_scale));
            return;
        }
        if (super != nullptr) numbers16(format.supers, super, super_scale);
        if (format.scales == TileNumber::i8 && super != nullptr) {
            const __m256 low = _mm256_load_ps(super_scale), high = _mm256_load_ps(super_scale + 8);
            for (std::int64_t b = 0; b < n_blocks; ++b) {
                const auto eight = [&](int half) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(scales + b * 16 + half * 8)))); };
                _mm256_store_ps(target + b * 16, _mm256_mul_ps(_mm256_mul_ps(eight(0), low), level_scale));
                _mm256_store_ps(target + b * 16 + 8, _mm256_mul_ps(_mm256_mul_ps(eight(1), high), level_scale));
            }
            return;
        }
        for (std::int64_t b = 0; b < n_blocks; ++b) {
            numbers16(format.scales, scales + b * tile_numbers_bytes(format.scales), target + b * 16);
            finish_scales(format, super_scale, none, target + b * 16, none);
        }
    }

    static Start start(const TileFormat& format) {
        if (Depth == halves) return {format.offset, true, 2};
        return {Depth == signed_levels ? 0 : format.offset, Depth >= 8 / format.units_per_block()};
    }

    static void write16(const float* sums, const float* bias, std::int64_t n_rows, bool add, float* y) {
        for (std::int64_t r = 0; r < n_rows; r += 8) {
            const std::int64_t n = n_rows - r < 8 ? n_rows - r : 8;
            __m256 value = _mm256_load_ps(sums + r);
            if (bias != nullptr) value = _mm256_add_ps(value, load_tail(bias + r, n));
            if (add) value = _mm256_add_ps(load_tail(y + r, n), value);
            store_tail(y + r, n, value);
        }
    }

    // Four tokens are bound by instructions, and gain nothing from the L2 cache.
    template <int StoredBits, int Units, int N, Corrections kind, bool Placed>
    static void tokens_at_once(const Stretch& stretch, const Tokens& x, float* sums, std::int64_t stride) {
        if constexpr (StoredBits == 0 && wide_codes) return multiply_wide_blocks<Units, N, kind, Placed>(stretch, x, sums, stride);
        constexpr int look_up = StoredBits == 0 ? 0 : Levels;
        if constexpr (StoredBits > 0 && N < 4)
            if (tile_into_l2(*stretch.format, N)) return multiply_blocks<StoredBits, Depth, look_up, Units, N, kind, Placed, true>(stretch, x, sums, stride);
        multiply_blocks<StoredBits, Depth, look_up, Units, N, kind, Placed, false>(stretch, x, sums, stride);
    }
    template <int StoredBits, int Units, Corrections kind, bool Placed>
    static void tokens(const Stretch& stretch, Tokens x, std::int64_t n_tokens, float* sums, std::int64_t stride) {
        while (n_tokens > 0) {
            const std::int64_t n = n_tokens < 4 ? n_tokens : 4;
            switch (n) {
                case 1: tokens_at_once<StoredBits, Units, 1, kind, Placed>(stretch, x, sums, stride); break;
                case 2: tokens_at_once<StoredBits, Units, 2, kind, Placed>(stretch, x, sums, stride); break;
                case 3: tokens_at_once<StoredBits, Units, 3, kind, Placed>(stretch, x, sums, stride); break;
                default: tokens_at_once<StoredBits, Units, 4, kind, Placed>(stretch, x, sums, stride);
            }
            x = from(x, n, 0, Units);
            n_tokens -= n;
            sums += n * stride;
        }
    }
    static void direct(const Stretch& stretch, const Tokens& x, std::int64_t n_tokens, float* sums) {
        const bool two_units = stretch.format->units_per_block() == 2;
        if constexpr (skips)
            if (stretch.places != nullptr) return two_units ? tokens<Bits, 2, Corrections::none, true>(stretch, x, n_tokens, sums, tile_rows) : tokens<Bits, 1, Corrections::none, true>(stretch, x, n_tokens, sums, tile_rows);
        if (two_units) tokens<Bits, 2, Corrections::look, false>(stretch, x, n_tokens, sums, tile_rows);
        else tokens<Bits, 1, Corrections::look, false>(stretch, x, n_tokens, sums, tile_rows);
    }
    static void expand(const TileFormat& format, const Byte* row_levels, const Byte* block, std::int64_t n_blocks, Byte* target) {
        const Expander<Bits, Depth, Levels> levels(format, row_levels);
        for (std::int64_t b = 0; b < n_blocks; ++b, block += 64 * Bits, target += expanded_bytes<Micro256>) {
            fetch_lines<false>(block + 4096, Bits);
            SKIFF_UNROLL
            for (int i = 0; i < 16; ++i) store_levels(target, i / 2, i % 2, levels.level(block, i / 2, i % 2));
        }
    }
    static constexpr std::int64_t max_direct_masked = 0;
    static constexpr bool skips = Levels == 0, masked = skips && (Bits == 4 || Bits == 8);
    // Eight codes at a time go where a byte of the mask says, through a table of shuffles; codes count from the offset meanwhile, so that nothing is zero.
    template <int MaskRows>
    static void expand_masked(const TileFormat& format, const MaskedBlocks& blocks, Byte* target) {
        const Byte *masks = blocks.masks, *codes = blocks.codes;
        const auto zero = static_cast<long long>(0x0101010101010101u * static_cast<std::uint64_t>(format.offset));
        const __m128i flip = _mm_set1_epi64x(zero), less = Depth == signed_levels ? flip : _mm_setzero_si128();
        alignas(32) Byte bytes[64 + 8], vector[64];
        for (std::int64_t b = 0; b < blocks.n_blocks; ++b, masks += mask_block_bytes(MaskRows), target += expanded_bytes<Micro256>) {
            for (int v = 0; v < 8; ++v) {
                std::uint64_t mask = mask_of(masks, v, MaskRows);
                const Byte* from = codes;
                const auto n = static_cast<std::int64_t>(__builtin_popcountll(mask));
                if constexpr (Bits == 4) {  // b to (b & 15, b >> 4)
                    for (int half = 0; half < 2; ++half) {
                        const __m256i pairs = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + half * 16)));
                        const __m256i unpacked = _mm256_and_si256(_mm256_or_si256(pairs, _mm256_slli_epi16(pairs, 4)), _mm256_set1_epi8(15));
                        _mm256_store_si256(reinterpret_cast<__m256i*>(bytes) + half, unpacked);
                    }
                    from = bytes;
                    codes += (n + 1) / 2;
                } else {
                    codes += n;
                }
                fetch_lines<false>(codes + 4096, 1);
                SKIFF_UNROLL
                for (int i = 0; i < 8; ++i, mask >>= 8) {
                    const __m128i eight = _mm_xor_si128(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)), flip);
                    const __m128i placed = _mm_shuffle_epi8(eight, _mm_loadl_epi64(reinterpret_cast<const __m128i*>(expand_table.of[mask & 255])));
                    _mm_storel_epi64(reinterpret_cast<__m128i*>((wide_codes ? vector : target + v * 64) + i * 8), _mm_sub_epi8(_mm_xor_si128(placed, flip), less));
                    from += __builtin_popcountll(mask & 255);
                }
                if constexpr (wide_codes)
                    for (int half = 0; half < 2; ++half) store_levels(target, v, half, load32(vector + half * 32));
            }
        }
    }
    template <Corrections kind, bool Placed>
    static void multiply_units(const Stretch& tile, const Tokens& x, std::int64_t n_tokens, float* sums, std::int64_t stride) {
        if (tile.format->units_per_block() == 2) tokens<0, 2, kind, Placed>(tile, x, n_tokens, sums, stride);
        else tokens<0, 1, kind, Placed>(tile, x, n_tokens, sums, stride);
    }
    static void multiply(const Stretch* tiles, std::int64_t, const Tokens& x, std::int64_t n_tokens, float* sums, std::int64_t stride) {
        if constexpr (skips)
            if (tiles->places != nullptr) return multiply_units<Corrections::none, true>(tiles[0], x, n_tokens, sums, stride);  // pruned weights are symmetric
        if (corrections_of(x) == Corrections::none) multiply_units<Corrections::none, false>(tiles[0], x, n_tokens, sums, stride);
        else multiply_units<Corrections::look, false>(tiles[0], x, n_tokens, sums, stride);
    }
};

}  // namespace
}  // namespace skiff
