// Micro-kernels over tiles in NEON's vectors of 128 bits, for tile_driver.h. A vector of 64 bytes of a tile is four quarters of four rows. Included by the
// linear_tiles_neon*.cpp units, and by them alone; they differ in how four products are added:
//
//   widening   Armv8-A: smull and smlal make two products of each column pair in 16 bits (2 x 128 x 127 = 32512), sadalp widens and adds them
//   dot        sdot adds four products in 32 bits; the four codes are a lane of a register that holds sixteen of them
//   matrix     smmla multiplies two rows by two tokens, eight columns deep, so blocks are expanded into pairs of rows; few tokens take sdot
//
// Products are signed: levels beyond 127 are taken less 128, which the start of the sums makes good.
// One tile times four tokens are 16 sums, two levels and four registers of codes, of 32 (widening: one token, 8 sums); 8 pairs of rows times 3 pairs of tokens
// are 24 sums, a pair of rows and three of tokens.
// The shapes follow from the number of registers: there was no arm64 machine to measure them on.
#pragma once

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd_neon.h"
#include "kernels/cpu/tile_driver.h"

namespace skiff {
namespace {

enum class Products { widening, dot, matrix };

// Calls f<0>() ... f<N - 1>(): shifts and lanes must be constants.
template <int N, int I = 0, class F>
inline __attribute__((always_inline)) void each(F f) {
    if constexpr (I < N) {
        f.template operator()<I>();
        each<N, I + 1>(f);
    }
}
// Loads stay behind it: left free, g++ 12 loads ahead and spills the sums.
#define SKIFF_IN_ORDER() asm volatile("" ::: "memory")
#define SKIFF_EACH(n, i, ...) each<n>([&]<int i>() __attribute__((always_inline)) { __VA_ARGS__ })

template <int N>
inline uint8x16_t shift_right(uint8x16_t x) {
    if constexpr (N > 0) return vshrq_n_u8(x, N);
    else if constexpr (N < 0) return vshlq_n_u8(x, -N);
    else return x;
}
// `Count` bits at `Shift` of every byte.
template <int Shift, int Count>
inline uint8x16_t field(uint8x16_t plane) {
    if constexpr (Shift + Count == 8) return shift_right<Shift>(plane);
    else return vandq_u8(shift_right<Shift>(plane), vdupq_n_u8((1 << Count) - 1));
}
// The same bits moved up to bit To, joined with a code of as many bits.
template <int Shift, int Count, int To>
inline uint8x16_t join(uint8x16_t low, uint8x16_t plane) {
    return vorrq_u8(low, vandq_u8(shift_right<Shift - To>(plane), vdupq_n_u8(((1 << Count) - 1) << To)));
}

// Quarter `quarter` of vector V of a stored block as codes.
template <int Bits, int V>
inline uint8x16_t codes_of(const Byte* block, int quarter) {
    const auto plane = [&](int byte) { return vld1q_u8(block + byte + quarter * 16); };
    if constexpr (Bits == 1) return field<V, 1>(plane(0));
    else if constexpr (Bits == 2) return field<V / 2 * 2, 2>(plane(V % 2 * 64));
    else if constexpr (Bits == 3) return join<V, 1, 2>(codes_of<2, V>(block, quarter), plane(128));
    else if constexpr (Bits == 4) return field<V / 4 * 4, 4>(plane(V % 4 * 64));
    else if constexpr (Bits == 5) return join<V, 1, 4>(codes_of<4, V>(block, quarter), plane(256));
    else if constexpr (Bits == 6) return join<V / 2 * 2, 2, 4>(codes_of<4, V>(block, quarter), plane(256 + V % 2 * 64));
    else return plane(V * 64);
}

// Codes to signed levels: less 128 where the largest is beyond 127. Table: 1 one for all rows, 2 one for each: a look-up sees the four rows of a quarter, with four levels each
// in a vector; the code's lower bits and the row are the place there, its upper bits count vectors.
template <int Bits, int Table>
struct NeonLevels {
    static constexpr int n_vectors = Table == 2 ? row_level_vectors(Bits) : 1;
    int8x16_t table;
    const Byte* row_levels;
    NeonLevels(const TileFormat& format, const Byte* levels_of_rows)
        : table(vreinterpretq_s8_u8(vsubq_u8(vld1q_u8(format.levels), vdupq_n_u8(static_cast<std::uint8_t>(base(format)))))), row_levels(levels_of_rows) {}
    static std::int32_t base(const TileFormat& format) { return (Table ? format.largest_level > 127 : Bits == 8) ? 128 : 0; }

    int8x16_t of_rows(uint8x16_t codes, int quarter) const {
        const uint8x16_t rows = vreinterpretq_u8_u32(uint32x4_t{0, 0x04040404, 0x08080808, 0x0c0c0c0c});
        const auto vector = [&](int i) { return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(row_levels + i * 64 + quarter * 16), vdupq_n_u8(128))); };
        if constexpr (n_vectors == 1) return vqtbl1q_s8(vector(0), vorrq_u8(codes, rows));
        const uint8x16_t place = vorrq_u8(vorrq_u8(vandq_u8(codes, vdupq_n_u8(3)), rows), vshlq_n_u8(vandq_u8(codes, vdupq_n_u8(12)), 2));
        if constexpr (n_vectors == 2) return vqtbl2q_s8({vector(0), vector(1)}, place);
        return vqtbl4q_s8({vector(0), vector(1), vector(2), vector(3)}, place);
    }

    template <int V>
    int8x16_t level(const Byte* block, int quarter) const {
        const uint8x16_t codes = codes_of<Bits, V>(block, quarter);
        if constexpr (Table == 2) return of_rows(codes, quarter);
        else if constexpr (Table == 1) return vqtbl1q_s8(table, codes);
        else if constexpr (Bits == 8) return vreinterpretq_s8_u8(veorq_u8(codes, vdupq_n_u8(128)));
        else return vreinterpretq_s8_u8(codes);
    }
};

// Sums of products of four rows with one token.
template <Products how>
struct NeonSum {
    std::int32_t start;
    int32x4_t low, high;  // rows 0, 0, 1, 1 and 2, 2, 3, 3: two sums each

    void begin(const std::int32_t* first) { start = *first, low = high = vdupq_n_s32(0); }
    // Vectors 2P and 2P + 1 of a block with lanes of the sixteen codes around them.
    template <int P>
    void add(int8x16_t first, int8x16_t second, int8x16_t codes) {
        const int8x16_t a = vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(codes), P % 2 * 2));
        const int8x16_t b = vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(codes), P % 2 * 2 + 1));
        low = vpadalq_s16(low, vmlal_s8(vmull_s8(vget_low_s8(first), vget_low_s8(a)), vget_low_s8(second), vget_low_s8(b)));
        high = vpadalq_s16(high, vmlal_high_s8(vmull_high_s8(first, a), second, b));
    }
    int32x4_t total() const { return vaddq_s32(vpaddq_s32(low, high), vdupq_n_s32(start)); }
};

#if defined(__ARM_FEATURE_DOTPROD)
template <>
struct NeonSum<Products::dot> {
    int32x4_t sum;

    void begin(const std::int32_t* first) { sum = vld1q_dup_s32(first); }
    template <int P>
    void add(int8x16_t first, int8x16_t second, int8x16_t codes) {
        sum = vdotq_laneq_s32(sum, first, codes, P % 2 * 2);
        sum = vdotq_laneq_s32(sum, second, codes, P % 2 * 2 + 1);
    }
    int32x4_t total() const { return sum; }
};
#endif

// sum += dot * scale * activation scale: one unit's integer sum becomes part of the float sum.
inline float32x4_t add_unit(float32x4_t sum, int32x4_t dot, float32x4_t scale, float activation_scale) {
    return vfmaq_f32(sum, vcvtq_f32_s32(dot), vmulq_n_f32(scale, activation_scale));
}

// The four sums of a quarter and token, in memory, += what a unit adds; block and unit are the activation's, weight_unit the stretch's.
inline void finish_unit(const Stretch& stretch, std::int64_t weight_unit, const Tokens& x, std::int64_t block, std::int64_t unit, int quarter, std::int64_t token, int32x4_t dot, float* sums) {
    const std::int64_t at = weight_unit * tile_rows + quarter * 4;
    if (x.code_sums != nullptr) dot = vmlsq_n_s32(dot, vld1q_s32(reinterpret_cast<const std::int32_t*>(stretch.corrections + at)), x.code_sums[unit * x.stride + token]);
    float32x4_t sum = add_unit(vld1q_f32(sums), dot, vld1q_f32(stretch.scales + at), x.scales[block * x.stride + token]);
    if (x.sums != nullptr) sum = vfmsq_f32(sum, vld1q_f32(stretch.corrections + at), vdupq_n_f32(x.sums[unit * x.stride + token]));
    vst1q_f32(sums, sum);
}

// sums (N, stride) += N tokens times blocks: stored ones, or expanded ones. Placed: the stretch says which blocks of the row they are.
template <Products how, int Bits, int Table, int Units, int N, bool Placed>
__attribute__((noinline)) void multiply_blocks(const Stretch& stretch, const Tokens& tokens, float* sums, std::int64_t stride) {
    Tokens x = tokens;
    constexpr bool stored = Bits > 0;
    const NeonLevels<Bits, Table> expand(*stretch.format, stretch.row_levels);
    const Byte* block = stretch.codes;
    for (std::int64_t b = 0; b < stretch.n_blocks; ++b, block += stored ? 64 * Bits : expanded_block_bytes) {
        const std::int64_t place = Placed ? stretch.places[b] : b;
        const std::int8_t* block_codes = x.codes + place * tile_block;
        NeonSum<how> dot[N][4];
        const auto begin = [&](std::int64_t unit) {
            SKIFF_UNROLL
            for (int t = 0; t < N; ++t) {
                SKIFF_UNROLL
                for (int q = 0; q < 4; ++q) dot[t][q].begin(x.start + (place * Units + unit) * x.stride + t);
            }
        };
        const auto finish = [&](std::int64_t unit) {
            SKIFF_UNROLL
            for (int q = 0; q < 4; ++q) {
                SKIFF_UNROLL
                for (int t = 0; t < N; ++t) finish_unit(stretch, b * Units + unit, x, place, place * Units + unit, q, t, dot[t][q].total(), sums + t * stride + q * 4);
            }
        };
        begin(0);
        SKIFF_EACH(2, half, {
            if (Units == 2 && half == 1) finish(0), begin(1);
            int8x16_t codes[N];
            SKIFF_UNROLL
            for (int t = 0; t < N; ++t) codes[t] = vld1q_s8(block_codes + t * x.code_stride + half * 16);
            SKIFF_EACH(2, pair, {
                constexpr int p = half * 2 + pair;
                SKIFF_UNROLL
                for (int q = 0; q < 4; ++q) {
                    int8x16_t first, second;
                    if constexpr (stored) {
                        first = expand.template level<2 * p>(block, q), second = expand.template level<2 * p + 1>(block, q);
                    } else {
                        const auto* level = reinterpret_cast<const std::int8_t*>(block) + p * 128 + q * 16;
                        first = vld1q_s8(level), second = vld1q_s8(level + 64);
                    }
                    SKIFF_UNROLL
                    for (int t = 0; t < N; ++t) dot[t][q].template add<p>(first, second, codes[t]);
                }
            });
        });
        finish(Units - 1);
    }
}

#if defined(__ARM_FEATURE_MATMUL_INT8)
// sums (2 P, stride) += blocks expanded into pairs of rows, times P pairs of tokens; of the last pair the second token may be missing.
template <int P, int Units>
__attribute__((noinline)) void multiply_pairs(const Stretch& stretch, const Tokens& tokens, std::int64_t n_tokens, float* sums, std::int64_t stride) {
    Tokens x = tokens;
    constexpr int octets = 4 / Units;
    const Byte* block = stretch.codes;
    const std::int64_t last = n_tokens - 1;
    for (std::int64_t b = 0; b < stretch.n_blocks; ++b, x.codes += tile_block) {
        for (int unit = 0; unit < Units; ++unit) {
            int32x4_t dot[8][P];  // (row 0, token 0), (0, 1), (1, 0), (1, 1)
            SKIFF_UNROLL
            for (int p = 0; p < P; ++p) {
                const std::int32_t* start = x.start + (b * Units + unit) * x.stride;
                const int32x2_t both = {start[2 * p], start[p == P - 1 ? last : 2 * p + 1]};
                SKIFF_UNROLL
                for (int i = 0; i < 8; ++i) dot[i][p] = vcombine_s32(both, both);
            }
            for (int octet = 0; octet < octets; ++octet, block += 128) {
                int8x16_t codes[P];
                SKIFF_UNROLL
                for (int p = 0; p < P; ++p) {
                    const std::int8_t* from = x.codes + (unit * octets + octet) * 8;
                    codes[p] = vcombine_s8(vld1_s8(from + 2 * p * x.code_stride), vld1_s8(from + (p == P - 1 ? last : 2 * p + 1) * x.code_stride));
                }
                SKIFF_UNROLL
                for (int i = 0; i < 8; ++i) {
                    const int8x16_t level = vld1q_s8(reinterpret_cast<const std::int8_t*>(block) + i * 16);
                    SKIFF_UNROLL
                    for (int p = 0; p < P; ++p) dot[i][p] = vmmlaq_s32(dot[i][p], level, codes[p]);
                    SKIFF_IN_ORDER();
                }
            }
            SKIFF_UNROLL
            for (int p = 0; p < P; ++p) {
                SKIFF_UNROLL
                for (int q = 0; q < 4; ++q) {
                    float* at = sums + 2 * p * stride + q * 4;
                    finish_unit(stretch, b * Units + unit, x, b, b * Units + unit, q, 2 * p, vuzp1q_s32(dot[2 * q][p], dot[2 * q + 1][p]), at);
                    if (p < P - 1 || last == 2 * p + 1)
                        finish_unit(stretch, b * Units + unit, x, b, b * Units + unit, q, 2 * p + 1, vuzp2q_s32(dot[2 * q][p], dot[2 * q + 1][p]), at + stride);
                }
            }
        }
    }
}
#endif

template <Products how, int Bits, int Table>
struct MicroNeon {
    static constexpr std::int64_t max_direct = 4, tiles_at_once = 1;
    static constexpr bool finds_scales = false;
    static constexpr Products few = how == Products::matrix ? Products::dot : how;

    static float32x4_t numbers4(TileNumber type, const Byte* p, int quarter) {
        const auto bytes = [&] { return vld1_u8(p + quarter / 2 * 8); };
        const auto half = [&](auto words) { return quarter % 2 == 0 ? vget_low_u16(words) : vget_high_u16(words); };
        switch (type) {
            case TileNumber::f16: return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const std::uint16_t*>(p) + quarter * 4)));
            case TileNumber::i8: return vcvtq_f32_s32(vmovl_s16(vreinterpret_s16_u16(half(vreinterpretq_u16_s16(vmovl_s8(vreinterpret_s8_u8(bytes())))))));
            case TileNumber::u8: return vcvtq_f32_u32(vmovl_u16(half(vmovl_u8(bytes()))));
            case TileNumber::e8m0: {  // 2^(byte - 127); byte 0 is 2^-127, a subnormal, and 255 is NaN
                const uint32x4_t byte = vmovl_u16(half(vmovl_u8(bytes())));
                const auto pick = [&](uint32x4_t otherwise, std::uint32_t key, std::uint32_t bits) { return vbslq_u32(vceqq_u32(byte, vdupq_n_u32(key)), vdupq_n_u32(bits), otherwise); };
                return vreinterpretq_f32_u32(pick(pick(vshlq_n_u32(byte, 23), 0, 0x00400000), 255, 0x7fc00000));
            }
            default: return vld1q_f32(reinterpret_cast<const float*>(p) + quarter * 4);
        }
    }
    static void numbers16(TileNumber type, const Byte* p, float* target) {
        for (int q = 0; q < 4; ++q) vst1q_f32(target + q * 4, numbers4(type, p, q));
    }
    // 16 codes of 4 bits, the first eight in the low halves.
    static void table16(const std::int8_t* levels, const Byte* p, float* target) {
        const uint8x8_t codes = vld1_u8(p);
        const int8x16_t found = vqtbl1q_s8(vld1q_s8(levels), vcombine_u8(vand_u8(codes, vdup_n_u8(15)), vshr_n_u8(codes, 4)));
        std::int8_t bytes[16];
        vst1q_s8(bytes, found);
        numbers16(TileNumber::i8, reinterpret_cast<const Byte*>(bytes), target);
    }
    static void copy16(const float* source, float* target) {
        for (int q = 0; q < 16; q += 4) vst1q_f32(target + q, vld1q_f32(source + q));
    }

    // Stored numbers to what finish_unit takes: levels count from the offset, so a minimum or a zero does too.
    static void finish_scales(const TileFormat& format, const float* super_scale, const float* super_minimum, float* scale, float* correction) {
        for (int i = 0; i < 16; i += 4) {
            float32x4_t s = vld1q_f32(scale + i);
            if (format.relative_scales) s = vmulq_f32(s, vld1q_f32(super_scale + i));
            s = vmulq_n_f32(s, format.level_scale);
            vst1q_f32(scale + i, s);
            if (!format.has_corrections()) continue;
            if (format.relative_minimums) vst1q_f32(correction + i, vmulq_f32(vld1q_f32(correction + i), vld1q_f32(super_minimum + i)));
            correct4(format, s, correction + i);
        }
    }
    // A zero, or a minimum, as a float to what the sums take.
    static void correct4(const TileFormat& format, float32x4_t scale, float* correction) {
        const float32x4_t c = vld1q_f32(correction);
        if (format.zeros != TileNumber::none) vst1q_s32(reinterpret_cast<std::int32_t*>(correction), vsubq_s32(vcvtnq_s32_f32(c), vdupq_n_s32(format.offset)));
        else vst1q_f32(correction, vfmsq_f32(c, vdupq_n_f32(static_cast<float>(format.offset)), scale));
    }
    static void correct_blocks(const TileFormat& format, const Byte* corrections, std::int64_t n_blocks, const float* scales, float* target) {
        const TileNumber type = format.minimums != TileNumber::none ? format.minimums : format.zeros;
        for (std::int64_t b = 0; b < n_blocks; ++b) {
            numbers16(type, corrections + b * tile_numbers_bytes(type), target + b * 16);
            for (std::int64_t at = b * 16; at < b * 16 + 16; at += 4) correct4(format, vld1q_f32(scales + at), target + at);
        }
    }

    static void scale_blocks(const TileFormat& format, const Byte* super, const Byte* scales, std::int64_t n_blocks, float* target) {
        alignas(64) float super_scale[16] = {}, none[16] = {};
        if (super != nullptr) numbers16(format.supers, super, super_scale);
        for (std::int64_t b = 0; b < n_blocks; ++b) {
            numbers16(format.scales, scales + b * tile_numbers_bytes(format.scales), target + b * 16);
            finish_scales(format, super_scale, none, target + b * 16, none);
        }
    }

    static Start start(const TileFormat& format) { return {format.offset - NeonLevels<Bits, Table>::base(format), false}; }

    static void write16(const float* sums, const float* bias, std::int64_t n_rows, bool add_to, float* y) {
        for (std::int64_t r = 0; r < n_rows; r += 8) {
            const std::int64_t n = n_rows - r;
            F8 value = load(sums + r);
            if (bias != nullptr) value = add(value, load_tail(bias + r, n));
            if (add_to) value = add(load_tail(y + r, n), value);
            store_tail(y + r, n, value);
        }
    }

    template <int StoredBits, int Units, bool Placed>
    static void tokens(const Stretch& stretch, Tokens x, std::int64_t n_tokens, float* sums, std::int64_t stride) {
        constexpr int table = StoredBits == 0 ? 0 : Table;
        constexpr int most = few == Products::dot ? 4 : 1;  // widening needs twice the sums, and two tokens would spill them
        while (n_tokens > 0) {
            const std::int64_t n = n_tokens < most ? n_tokens : most;
            switch (n) {
                case 1: multiply_blocks<few, StoredBits, table, Units, 1, Placed>(stretch, x, sums, stride); break;
                case 2: multiply_blocks<few, StoredBits, table, Units, most == 1 ? 1 : 2, Placed>(stretch, x, sums, stride); break;
                case 3: multiply_blocks<few, StoredBits, table, Units, most == 1 ? 1 : 3, Placed>(stretch, x, sums, stride); break;
                default: multiply_blocks<few, StoredBits, table, Units, most, Placed>(stretch, x, sums, stride);
            }
            x = from(x, n, 0, Units);
            n_tokens -= n;
            sums += n * stride;
        }
    }
    static void direct(const Stretch& stretch, const Tokens& x, std::int64_t n_tokens, float* sums) {
        const bool halves = stretch.format->units_per_block() == 2;
        if constexpr (skips)
            if (stretch.places != nullptr) return halves ? tokens<Bits, 2, true>(stretch, x, n_tokens, sums, tile_rows) : tokens<Bits, 1, true>(stretch, x, n_tokens, sums, tile_rows);
        if (halves) tokens<Bits, 2, false>(stretch, x, n_tokens, sums, tile_rows);
        else tokens<Bits, 1, false>(stretch, x, n_tokens, sums, tile_rows);
    }

    static void expand(const TileFormat& format, const Byte* row_levels, const Byte* block, std::int64_t n_blocks, Byte* target) {
        const NeonLevels<Bits, Table> levels(format, row_levels);
        for (std::int64_t b = 0; b < n_blocks; ++b, block += 64 * Bits, target += expanded_block_bytes) {
            SKIFF_EACH(4, pair, {
                for (int q = 0; q < 4; ++q) {
                    const int32x4_t first = vreinterpretq_s32_s8(levels.template level<2 * pair>(block, q)), second = vreinterpretq_s32_s8(levels.template level<2 * pair + 1>(block, q));
                    auto* at = reinterpret_cast<std::int32_t*>(target + pair * 128);
                    if constexpr (how == Products::matrix) {  // eight columns of a row side by side
                        vst1q_s32(at + q * 8, vzip1q_s32(first, second)), vst1q_s32(at + q * 8 + 4, vzip2q_s32(first, second));
                    } else {
                        vst1q_s32(at + q * 4, first), vst1q_s32(at + 16 + q * 4, second);
                    }
                }
            });
        }
    }

    static constexpr std::int64_t max_direct_masked = 0;
    static constexpr bool skips = how != Products::matrix && Table == 0;
    static constexpr bool masked = skips && (Bits == 4 || Bits == 8);
    // Eight codes at a time go where a byte of the mask says, through a table of shuffles; codes count from the offset meanwhile, so that nothing is zero.
    template <int MaskRows>
    static void expand_masked(const TileFormat& format, const MaskedBlocks& blocks, Byte* target) {
        const Byte *masks = blocks.masks, *codes = blocks.codes;
        const uint8x8_t flip = vdup_n_u8(static_cast<Byte>(format.offset)), back = vdup_n_u8(static_cast<Byte>(format.offset ^ NeonLevels<Bits, Table>::base(format)));
        alignas(16) Byte bytes[64 + 8];
        for (std::int64_t b = 0; b < blocks.n_blocks; ++b, masks += mask_block_bytes(MaskRows), target += expanded_block_bytes) {
            for (int v = 0; v < 8; ++v) {
                std::uint64_t mask = mask_of(masks, v, MaskRows);
                const Byte* from = codes;
                const auto n = static_cast<std::int64_t>(__builtin_popcountll(mask));
                if constexpr (Bits == 4) {
                    for (int half = 0; half < 2; ++half) {
                        const uint8x16_t pairs = vld1q_u8(codes + half * 16), low = vandq_u8(pairs, vdupq_n_u8(15)), high = vshrq_n_u8(pairs, 4);
                        vst1q_u8(bytes + half * 32, vzip1q_u8(low, high)), vst1q_u8(bytes + half * 32 + 16, vzip2q_u8(low, high));
                    }
                    from = bytes;
                    codes += (n + 1) / 2;
                } else {
                    codes += n;
                }
                for (int i = 0; i < 8; ++i, mask >>= 8) {
                    const uint8x8_t placed = vtbl1_u8(veor_u8(vld1_u8(from), flip), vld1_u8(expand_table.of[mask & 255]));
                    vst1_u8(target + v * 64 + i * 8, veor_u8(placed, back));
                    from += __builtin_popcountll(mask & 255);
                }
            }
        }
    }

    template <int Units>
    static void multiply_units(const Stretch& stretch, Tokens x, std::int64_t n_tokens, float* sums, std::int64_t stride) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
        if constexpr (how == Products::matrix) {
            while (n_tokens > 0) {
                const std::int64_t n = n_tokens < 6 ? n_tokens : 6;
                switch ((n + 1) / 2) {
                    case 1: multiply_pairs<1, Units>(stretch, x, n, sums, stride); break;
                    case 2: multiply_pairs<2, Units>(stretch, x, n, sums, stride); break;
                    default: multiply_pairs<3, Units>(stretch, x, n, sums, stride);
                }
                x = from(x, n, 0, Units);
                n_tokens -= n;
                sums += n * stride;
            }
            return;
        }
#endif
        if constexpr (skips)
            if (stretch.places != nullptr) return tokens<0, Units, true>(stretch, x, n_tokens, sums, stride);
        tokens<0, Units, false>(stretch, x, n_tokens, sums, stride);
    }
    static void multiply(const Stretch* tiles, std::int64_t, const Tokens& x, std::int64_t n_tokens, float* sums, std::int64_t stride) {
        if (tiles[0].format->units_per_block() == 2) multiply_units<2>(tiles[0], x, n_tokens, sums, stride);
        else multiply_units<1>(tiles[0], x, n_tokens, sums, stride);
    }
};

template <Products how, int Bits>
void linear_neon(const LinearArgs& args, Range rows) {
    if constexpr (Bits <= 4) {
        const TileFormat format = tile_format(*args.weight);
        if (format.row_levels) return linear_tiles<MicroNeon<how, Bits, 2>>(args, rows);
        if (format.has_levels) return linear_tiles<MicroNeon<how, Bits, 1>>(args, rows);
    }
    linear_tiles<MicroNeon<how, Bits, 0>>(args, rows);
}

}  // namespace
}  // namespace skiff
