// Where each bit of a packed weight is, and how a lane makes tensor-core operands of it. Host and device; the CPU tests run all of it.
//
// mma.m16n8k16 has the weight as its first operand: 16 rows (outputs) by 16 columns (inputs). Lane l = 4 g + t holds eight numbers: elements e = 0 .. 7 of
// rows g and g + 8:
//     row g + 8 * (e / 2 % 2), column 16 step + 2 t + e % 2 + 8 * (e / 4)
// This is the instruction's own order. Any other would do where both operands agree, but sparse products (two_of_four.h) need it: two of four neighbouring columns.
// A weight is cut into tiles of 16 rows, tiles into units of 64, 128 or 256 columns: as many as fill whole 16-byte words of each lane. A unit's words lie
// piece by piece: 32 lanes times 16 bytes, 512 bytes that a warp loads at once, and no two warps share. Decode and prefill read the same bytes.
//
// Codes are cut into planes of 4, 2 and 1 bits: a plane's word holds eight codes of a step as nibbles (2-bit planes hold two steps, 1-bit planes four).
// The order of the nibbles depends on what follows: `linear` codes become bf16 by or-ing them under the mantissa of 128 (two per instruction), so that the two of
// a pair are 16 bits apart; `table` codes are selectors of a byte permutation, so that four of one row are neighbours.
#pragma once

#include "kernels/cuda/gpu_weight.h"
#include "kernels/cuda/hd.h"

namespace skiff::cuda {

constexpr int tile_rows = 16, slab_columns = 64, lanes = 32;

constexpr bool is_table(CodeForm form) { return form >= CodeForm::table8; }
constexpr bool is_linear(CodeForm form) { return form >= CodeForm::linear8 && form <= CodeForm::linear1; }
constexpr int code_bits(CodeForm form) {
    switch (form) {
        case CodeForm::f32: return 32;
        case CodeForm::f16:
        case CodeForm::bf16: return 16;
        case CodeForm::linear6: return 6;
        case CodeForm::linear5: return 5;
        case CodeForm::linear4:
        case CodeForm::table4: return 4;
        case CodeForm::linear3:
        case CodeForm::table3: return 3;
        case CodeForm::linear2:
        case CodeForm::table2: return 2;
        case CodeForm::linear1:
        case CodeForm::table1: return 1;
        default: return 8;
    }
}
// Columns for whole 16-byte words of the smallest plane.
constexpr int unit_columns(CodeForm form) {
    const int bits = code_bits(form);
    return bits % 2 == 1 ? 256 : bits == 2 || bits == 6 ? 128 : 64;
}
constexpr int unit_pieces(CodeForm form) { return code_bits(form) * unit_columns(form) * tile_rows / 4096; }
constexpr int unit_words(CodeForm form) { return unit_pieces(form) * 4; }  // of a lane

// ---- elements of a lane
constexpr int element_row(int lane, int e) { return lane / 4 + 8 * (e / 2 % 2); }
constexpr int element_column(int lane, int step, int e) { return 16 * step + 2 * (lane % 4) + e % 2 + 8 * (e / 4); }
constexpr int linear_nibble(int e) { return e / 2 + 4 * (e % 2); }
constexpr int table_nibble(int e) { return 4 * (e / 2 % 2) + e % 2 + 2 * (e / 4); }

// Planes of a form, largest first: bits of each, and the unit's word where each begins.
struct Planes {
    int n = 0;
    int bits[3] = {}, first_word[3] = {}, low_bit[3] = {};  // low_bit: of the code, where the plane's bits come from
};
constexpr Planes planes_of(CodeForm form) {
    Planes planes;
    int bits = code_bits(form), word = 0, low = 0;
    const int n_steps = unit_columns(form) / 16;
    for (int plane : {4, 2, 1}) {
        if (bits < plane) continue;
        planes.bits[planes.n] = plane;
        planes.first_word[planes.n] = word;
        planes.low_bit[planes.n++] = low;
        word += n_steps * plane / 4;
        low += plane;
        bits -= plane;
    }
    return planes;
}

// Of codes of 8 bits: the two of a pair are 16 bits apart.
struct BytePlace {
    int word, byte;
};
constexpr BytePlace byte_place(int step, int e) { return {step * 2 + e / 4, e / 2 % 2 + 2 * (e % 2)}; }

// Puts a code (up to 8 bits) of a step and element into the words of a lane's unit, which were zero. Forms of at most 8 bits.
inline void put_code(CodeForm form, std::uint32_t* words, int step, int e, std::uint32_t code) {  // words: (unit_words)
    if (code_bits(form) == 8) {
        const BytePlace place = byte_place(step, e);
        words[place.word] |= code << 8 * place.byte;
        return;
    }
    const Planes planes = planes_of(form);
    const int nibble = is_table(form) ? table_nibble(e) : linear_nibble(e);
    for (int i = 0; i < planes.n; ++i) {
        const int bits = planes.bits[i], steps_in_word = 4 / bits;
        const std::uint32_t part = code >> planes.low_bit[i] & ((1u << bits) - 1);
        words[planes.first_word[i] + step / steps_in_word] |= part << (4 * nibble + step % steps_in_word * bits);
    }
}

// ---- tables: levels as byte planes in registers, so that a lookup of four codes is one or three byte permutations
template <int n_levels>  // 8 (also for fewer) or 16
struct BytePlanes {
    std::uint32_t low[n_levels / 4], high[n_levels / 4];
};
// levels: (n) u32, of which `part` (0 or 1) is taken; n <= n_levels, the rest means the last.
template <int n_levels>
SKIFF_HD void make_planes(const std::uint32_t* levels, int n, int part, BytePlanes<n_levels>& planes) {
    for (int word = 0; word < n_levels / 4; ++word) {
        std::uint32_t low = 0, high = 0;
        for (int i = 0; i < 4; ++i) {
            const int code = word * 4 + i < n ? word * 4 + i : n - 1;
            const std::uint32_t level = levels[code] >> 16 * part & 0xffffu;
            low |= (level & 255u) << 8 * i;
            high |= level >> 8 << 8 * i;
        }
        planes.low[word] = low;
        planes.high[word] = high;
    }
}
// Four codes in the low nibbles of `codes` become two pairs of bf16.
SKIFF_HD void look_up(const BytePlanes<8>& planes, std::uint32_t codes, std::uint32_t& first, std::uint32_t& second) {
    const std::uint32_t selector = codes & 0x7777u;
    const std::uint32_t low = permute_bytes(planes.low[0], planes.low[1], selector), high = permute_bytes(planes.high[0], planes.high[1], selector);
    first = permute_bytes(low, high, 0x5140u);
    second = permute_bytes(low, high, 0x7362u);
}
SKIFF_HD void look_up(const BytePlanes<16>& planes, std::uint32_t codes, std::uint32_t& first, std::uint32_t& second) {
    const std::uint32_t selector = codes & 0x7777u, upper = (codes & 0x8888u) >> 1 | 0x3210u;
    const std::uint32_t low = permute_bytes(permute_bytes(planes.low[0], planes.low[1], selector), permute_bytes(planes.low[2], planes.low[3], selector), upper);
    const std::uint32_t high = permute_bytes(permute_bytes(planes.high[0], planes.high[1], selector), permute_bytes(planes.high[2], planes.high[3], selector), upper);
    first = permute_bytes(low, high, 0x5140u);
    second = permute_bytes(low, high, 0x7362u);
}

// `x` moved so that bit `from` becomes bit `to`.
template <int from, int to>
SKIFF_HD std::uint32_t moved(std::uint32_t x) {
    if constexpr (from >= to) return x >> (from - to);
    else return x << (to - from);
}

// ---- decoders: the operands of one step. `a[part][j]` is the mma's register j: j = 0 row g, 1 row g + 8 (first columns), 2 and 3 the same (last columns).
// A decoder's `step<s>` takes the words of a lane's unit.
template <CodeForm form_>
struct PlainDecoder {  // f32, f16, bf16
    static constexpr CodeForm form = form_;
    static constexpr int n_parts = form == CodeForm::bf16 ? 1 : 2;
    static constexpr bool per_tile_tables = false;
    static constexpr bool two_of_four = false;
    SKIFF_HD void load_tables(const GpuWeight&, int, int) {}
    template <int s>
    SKIFF_HD void step(const std::uint32_t* words, std::uint32_t (&a)[n_parts][4]) const {
        if constexpr (form == CodeForm::bf16) {
            for (int j = 0; j < 4; ++j) a[0][j] = words[4 * s + j];
        } else {
            for (int j = 0; j < 4; ++j) {
                float x, y;
                if constexpr (form == CodeForm::f16) {
                    const std::uint32_t pair = words[4 * s + j];
                    x = f16_float(pair & 0xffffu), y = f16_float(pair >> 16);
                } else {
                    x = bits_float(words[8 * s + 2 * j]), y = bits_float(words[8 * s + 2 * j + 1]);
                }
                const std::uint32_t first = split_bf16(x), second = split_bf16(y);
                a[0][j] = permute_bytes(first, second, 0x5410u);
                a[1][j] = permute_bytes(first, second, 0x7632u);
            }
        }
    }
};

template <CodeForm form_>
struct ByteDecoder {  // e4m3, e5m2, linear8
    static constexpr CodeForm form = form_;
    static constexpr int n_parts = 1;
    static constexpr bool per_tile_tables = false;
    static constexpr bool two_of_four = false;
    SKIFF_HD void load_tables(const GpuWeight&, int, int) {}
    // Bytes 0 and 2 of a word.
    static SKIFF_HD std::uint32_t pair(std::uint32_t word) {
        if constexpr (form == CodeForm::linear8) {
            // Two's complement: 128 + low seven bits, less 128 or (sign) 256, both by or-ing under the mantissa of 128.
            const std::uint32_t low = and_or(word, 0x007f007fu, 0x43004300u), high = and_or(word, 0x00800080u, 0xc300c300u);
            return fma_bf16x2(low, one_bf16x2, high);
        } else {
            // The bits of an FP8 number, moved into those of a bf16, are the number times a power of two (of subnormal ones, too).
            constexpr int up = form == CodeForm::e4m3 ? 4 : 5;
            constexpr std::uint32_t factor = form == CodeForm::e4m3 ? 0x7b807b80u : 0x77807780u;  // 2^120, 2^112
            return fma_bf16x2((word & 0x00800080u) << 8 | (word & 0x007f007fu) << up, factor, minus_zero_bf16x2);
        }
    }
    template <int s>
    SKIFF_HD void step(const std::uint32_t* words, std::uint32_t (&a)[1][4]) const {
        for (int i = 0; i < 2; ++i) {
            a[0][2 * i] = pair(words[2 * s + i]);
            a[0][2 * i + 1] = pair(words[2 * s + i] >> 8);
        }
    }
};
// And codes of 8 bits as they are: four columns of row g and of row g + 8.
struct Linear8Decoder : ByteDecoder<CodeForm::linear8> {
    static constexpr bool bytes_in_order = false;
    SKIFF_HD float byte_unit() const { return 1; }
    template <int s>
    SKIFF_HD void bytes(const std::uint32_t* words, std::uint32_t& low, std::uint32_t& high) const {
        low = permute_bytes(words[2 * s], words[2 * s + 1], 0x6240u);
        high = permute_bytes(words[2 * s], words[2 * s + 1], 0x7351u);
    }
};

template <CodeForm form_>
struct LinearDecoder {  // linear6 .. linear1
    static constexpr CodeForm form = form_;
    static constexpr int n_parts = 1, bits = code_bits(form);
    static constexpr bool per_tile_tables = false;
    static constexpr bool two_of_four = false;
    SKIFF_HD void load_tables(const GpuWeight&, int, int) {}
    // The bits of plane `i` for pair j, over what is there: the mantissa of 128.
    template <int s, int i, int j>
    static SKIFF_HD std::uint32_t plane(const std::uint32_t* words, std::uint32_t under) {
        constexpr Planes planes = planes_of(form);
        constexpr int plane_bits = planes.bits[i], steps_in_word = 4 / plane_bits, to = planes.low_bit[i];
        constexpr std::uint32_t mask = ((1u << plane_bits) - 1) << to;
        return and_or(moved<4 * j + s % steps_in_word * plane_bits, to>(words[planes.first_word[i] + s / steps_in_word]), mask | mask << 16, under);
    }
    // 128 + codes, which `raw_bias` makes the numbers; a multiply-add less for each pair where the sum of what they are multiplied with is known.
    static constexpr float raw_bias = 128 + (1 << (bits - 1));
    template <int s, int j>
    static SKIFF_HD std::uint32_t raw_pair(const std::uint32_t* words) {
        std::uint32_t x = plane<s, 0, j>(words, 0x43004300u);
        if constexpr (planes_of(form).n > 1) x = plane<s, 1, j>(words, x);
        return x;
    }
    template <int s, int j>
    static SKIFF_HD std::uint32_t pair(const std::uint32_t* words) {
        constexpr std::uint32_t middle = 0xc300u | 1u << (bits - 1);  // -(128 + 2^(bits-1)) of bf16
        return fma_bf16x2(raw_pair<s, j>(words), one_bf16x2, middle | middle << 16);
    }
    template <int s>
    SKIFF_HD void step(const std::uint32_t* words, std::uint32_t (&a)[1][4]) const {
        a[0][0] = pair<s, 0>(words);
        a[0][1] = pair<s, 1>(words);
        a[0][2] = pair<s, 2>(words);
        a[0][3] = pair<s, 3>(words);
    }
    // Codes at the top of bytes, as numbers with a sign, whose 1 is `byte_unit`: low nibbles are row g, high ones row g + 8; four columns of a step, in the order 0, 2, 1, 3.
    static constexpr bool bytes_in_order = false;
    SKIFF_HD float byte_unit() const { return 1.0f / (1 << (8 - bits)); }
    template <int s, int row>
    static SKIFF_HD std::uint32_t row_bytes(const std::uint32_t* words) {
        constexpr Planes planes = planes_of(form);
        std::uint32_t result = 0x80808080u;
        add_plane<s, row, 0>(words, result);
        if constexpr (planes.n > 1) add_plane<s, row, 1>(words, result);
        return result;
    }
    template <int s, int row, int i>
    static SKIFF_HD void add_plane(const std::uint32_t* words, std::uint32_t& result) {
        constexpr Planes planes = planes_of(form);
        constexpr int plane_bits = planes.bits[i], steps_in_word = 4 / plane_bits, from = 4 * row + s % steps_in_word * plane_bits, to = 8 - bits + planes.low_bit[i];
        constexpr std::uint32_t mask = (((1u << plane_bits) - 1) << to) * 0x01010101u;
        result = and_xor(moved<from, to>(words[planes.first_word[i] + s / steps_in_word]), mask, result);
    }
    template <int s>
    SKIFF_HD void bytes(const std::uint32_t* words, std::uint32_t& low, std::uint32_t& high) const {
        low = row_bytes<s, 0>(words);
        high = row_bytes<s, 1>(words);
    }
    template <int s>
    SKIFF_HD void raw_step(const std::uint32_t* words, std::uint32_t (&a)[1][4]) const {
        a[0][0] = raw_pair<s, 0>(words);
        a[0][1] = raw_pair<s, 1>(words);
        a[0][2] = raw_pair<s, 2>(words);
        a[0][3] = raw_pair<s, 3>(words);
    }
};

// The eight codes of a step as nibbles, of up to 4 bits.
template <CodeForm form, int s>
SKIFF_HD std::uint32_t nibbles(const std::uint32_t* words) {
    constexpr Planes planes = planes_of(form);
    std::uint32_t result = 0;
    if constexpr (planes.bits[0] == 4) return words[s];
    if constexpr (planes.bits[0] == 2) result = words[planes.first_word[0] + s / 2] >> s % 2 * 2 & 0x33333333u;
    if constexpr (planes.bits[0] == 1) result = words[planes.first_word[0] + s / 4] >> s % 4 & 0x11111111u;
    if constexpr (planes.n > 1) result |= moved<s % 4, 2>(words[planes.first_word[1] + s / 4]) & 0x44444444u;  // 3 bits: 2 + 1
    return result;
}

// Every level is a bf16, and all rows share the table: codebooks of small integers.
template <CodeForm form_>
struct TableDecoder {
    static constexpr CodeForm form = form_;
    static constexpr int n_parts = 1, n_levels = code_bits(form) == 4 ? 16 : 8;
    static constexpr bool per_tile_tables = false;
    static constexpr bool two_of_four = false;
    BytePlanes<n_levels> planes;
    SKIFF_HD void load_tables(const GpuWeight& weight, int, int) { make_planes(weight.table, 1 << code_bits(form), 0, planes); }
    template <int s>
    SKIFF_HD void step(const std::uint32_t* words, std::uint32_t (&a)[1][4]) const {
        const std::uint32_t codes = nibbles<form, s>(words);
        look_up(planes, codes, a[0][0], a[0][2]);
        look_up(planes, codes >> 16, a[0][1], a[0][3]);
    }
};

// Every level is a whole number of a byte times `byte_unit`.
template <CodeForm form_>
struct ByteTableDecoder : TableDecoder<form_> {
    static constexpr bool bytes_in_order = true;
    using TableDecoder<form_>::n_levels;
    std::uint32_t levels[n_levels / 4];
    float unit;
    SKIFF_HD float byte_unit() const { return unit; }
    SKIFF_HD void load_bytes(const GpuWeight& weight) {
        constexpr int n = 1 << code_bits(form_);
        unit = weight.table_step;
        for (int word = 0; word < n_levels / 4; ++word) {
            levels[word] = 0;
            for (int i = 0; i < 4; ++i) levels[word] |= (static_cast<std::uint32_t>(static_cast<int>(bf16_float(weight.table[word * 4 + i < n ? word * 4 + i : n - 1] & 0xffffu) / unit)) & 255u) << 8 * i;
        }
    }
    // Four codes in the low nibbles.
    SKIFF_HD std::uint32_t look_up_bytes(std::uint32_t codes) const {
        const std::uint32_t selector = codes & 0x7777u;
        if constexpr (n_levels == 8) return permute_bytes(levels[0], levels[1], selector);
        else return permute_bytes(permute_bytes(levels[0], levels[1], selector), permute_bytes(levels[2], levels[3], selector), (codes & 0x8888u) >> 1 | 0x3210u);
    }
    template <int s>
    SKIFF_HD void bytes(const std::uint32_t* words, std::uint32_t& low, std::uint32_t& high) const {
        const std::uint32_t codes = nibbles<form_, s>(words);
        low = look_up_bytes(codes);
        high = look_up_bytes(codes >> 16);
    }
};

// Any levels, as two bf16 parts; a table for each row, or one.
template <CodeForm form_>
struct WideTableDecoder {
    static constexpr CodeForm form = form_;
    static constexpr int n_parts = 2, n_levels = code_bits(form) == 4 ? 16 : 8;
    static constexpr bool per_tile_tables = true;
    static constexpr bool two_of_four = false;
    BytePlanes<n_levels> planes[2][2];  // (row g and g + 8, part)
    SKIFF_HD void load_tables(const GpuWeight& weight, int tile, int lane) {
        constexpr int n = 1 << code_bits(form);
        for (int i = 0; i < 2; ++i) {
            const std::uint32_t* levels = weight.table + (weight.table_per_row ? (static_cast<std::int64_t>(tile) * tile_rows + lane / 4 + 8 * i) * n : 0);
            for (int part = 0; part < 2; ++part) make_planes(levels, n, part, planes[i][part]);
        }
    }
    template <int s>
    SKIFF_HD void step(const std::uint32_t* words, std::uint32_t (&a)[2][4]) const {
        const std::uint32_t codes = nibbles<form, s>(words);
        for (int part = 0; part < 2; ++part) {
            look_up(planes[0][part], codes, a[part][0], a[part][2]);
            look_up(planes[1][part], codes >> 16, a[part][1], a[part][3]);
        }
    }
};

// 256 levels or fewer of the whole weight, in memory that is near (shared memory on the device).
struct Table8Decoder {
    static constexpr CodeForm form = CodeForm::table8;
    static constexpr int n_parts = 2;
    static constexpr bool per_tile_tables = false;
    static constexpr bool two_of_four = false;
    const std::uint32_t* levels = nullptr;
    SKIFF_HD void load_tables(const GpuWeight& weight, int, int) { levels = weight.table; }
    template <int s>
    SKIFF_HD void step(const std::uint32_t* words, std::uint32_t (&a)[2][4]) const {
        for (int j = 0; j < 4; ++j) {
            const std::uint32_t bytes = words[2 * s + j / 2] >> 8 * (j % 2);
            const std::uint32_t first = levels[bytes & 255u], second = levels[bytes >> 16 & 255u];
            a[0][j] = permute_bytes(first, second, 0x5410u);
            a[1][j] = permute_bytes(first, second, 0x7632u);
        }
    }
};

// ---- parameters of groups
constexpr int record_bytes(ParamForm form) { return static_cast<int>(0x884214420ull >> 4 * static_cast<int>(form) & 15u); }  // in the order of the forms
constexpr bool has_offset(ParamForm form) {
    return form == ParamForm::s16z16 || form == ParamForm::s16m16 || form == ParamForm::r8m8 || form == ParamForm::s32z32 || form == ParamForm::s32m32;
}
constexpr bool has_supers(ParamForm form) { return form == ParamForm::r8 || form == ParamForm::r8m8; }

// How a weight's records lie: a unit has `in_unit` of them for each row, or (groups of a unit's width and more) one that several units share.
struct ParamLayout {
    int in_unit = 1, unit_log2 = 6, group_log2 = 31;
    SKIFF_HD std::int64_t index(int unit) const { return in_unit > 1 ? unit : group_log2 >= 31 ? 0 : (static_cast<std::int64_t>(unit) << unit_log2) >> group_log2; }
    SKIFF_HD int in(int column_of_unit) const { return in_unit > 1 ? column_of_unit >> group_log2 : 0; }
};
SKIFF_HD ParamLayout param_layout(const GpuWeight& weight, int unit) {
    ParamLayout layout;
    layout.unit_log2 = unit == 64 ? 6 : unit == 128 ? 7 : 8;
    layout.group_log2 = weight.group_log2;
    layout.in_unit = weight.group_log2 < layout.unit_log2 ? 1 << (layout.unit_log2 - weight.group_log2) : 1;
    return layout;
}
SKIFF_HD std::int64_t n_param_units(const GpuWeight& weight, const ParamLayout& layout) { return weight.n_units == 0 ? 0 : layout.index(weight.n_units - 1) + 1; }
SKIFF_HD int param_unit_bytes(ParamForm form, const ParamLayout& layout) { return 16 * layout.in_unit * record_bytes(form); }
// Of row `row` (0 .. 15) of the tile, group `i` of the unit, in the param unit's bytes: rows g and g + 8 are neighbours.
SKIFF_HD int record_offset(ParamForm form, const ParamLayout& layout, int row, int i) { return ((row % 8 * layout.in_unit + i) * 2 + row / 8) * record_bytes(form); }

struct GroupScale {
    float scale, offset;  // value = decoded * scale - offset
};
struct Supers {
    float scale, minimum;
};
SKIFF_HD std::uint32_t record_word16(const unsigned char* record, int i) {
#if defined(__CUDA_ARCH__)
    return reinterpret_cast<const unsigned short*>(record)[i];
#else
    return static_cast<std::uint32_t>(record[2 * i]) | static_cast<std::uint32_t>(record[2 * i + 1]) << 8;
#endif
}
SKIFF_HD float record_number32(const unsigned char* record, int i) {
#if defined(__CUDA_ARCH__)
    return reinterpret_cast<const float*>(record)[i];
#else
    return bits_float(record_word16(record, 2 * i) | record_word16(record, 2 * i + 1) << 16);
#endif
}
SKIFF_HD float record_number16(Float16Form form, const unsigned char* record, int i) {
    const std::uint32_t word = record_word16(record, i);
    return form == Float16Form::f16 ? f16_float(word) : bf16_float(word);
}
// One record; it is aligned to its size.
SKIFF_HD GroupScale read_record(const GpuWeight& weight, const unsigned char* record, Supers supers) {
    const float half = weight.half;
    GroupScale result = {1, 0};
    switch (weight.params) {
        case ParamForm::none: break;
        case ParamForm::s16: result.scale = record_number16(weight.param_float, record, 0); break;
        case ParamForm::s16z16:
            result.scale = record_number16(weight.param_float, record, 0);
            result.offset = result.scale * bf16_float(record_word16(record, 1));
            break;
        case ParamForm::s16m16:
            result.scale = record_number16(weight.param_float, record, 0);
            result.offset = record_number16(weight.param_float, record, 1) - half * result.scale;
            break;
        case ParamForm::r8:
        case ParamForm::r8m8: {
            const int code = weight.relative_unsigned ? static_cast<int>(record[0]) : static_cast<int>(static_cast<signed char>(record[0]));
            result.scale = supers.scale * static_cast<float>(code);
            if (weight.params == ParamForm::r8m8) result.offset = supers.minimum * static_cast<float>(record[1]) - half * result.scale;
            break;
        }
        case ParamForm::s32: result.scale = record_number32(record, 0); break;
        case ParamForm::s32z32:
            result.scale = record_number32(record, 0);
            result.offset = result.scale * record_number32(record, 1);
            break;
        case ParamForm::s32m32:
            result.scale = record_number32(record, 0);
            result.offset = record_number32(record, 1) - half * result.scale;
            break;
    }
    return result;
}

// ---- operands on the other side
SKIFF_HD std::int64_t operand_slabs(std::int64_t n_columns) { return (n_columns + 255) / 256 * 4; }
// Byte of (token, column) in the form of fragments (n = token % 8 of block token / 8) or split (n = 2 * (token % 4) + part of block token / 4): a slab of 64 columns is
// 1024 bytes, two halves of 32 lanes times 16 bytes, so that a lane has the registers of two steps in one load.
SKIFF_HD std::int64_t fragment_byte(std::int64_t block, int n, std::int64_t column, std::int64_t n_slabs) {
    const int step = static_cast<int>(column >> 4 & 3), t = static_cast<int>(column >> 1 & 3), e = static_cast<int>(column & 1) + 2 * static_cast<int>(column >> 3 & 1);
    return (block * n_slabs + (column >> 6)) * 1024 + (step >> 1) * 512 + (n * 4 + t) * 16 + (step & 1) * 8 + e * 2;
}

}  // namespace skiff::cuda
