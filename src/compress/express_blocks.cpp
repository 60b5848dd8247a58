#include "compress/express_blocks.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tensor/block_format.h"
#include "tensor/codebook.h"

namespace skiff {
namespace {

constexpr std::int64_t block_size = 32;

// What a block type of 32 weights can hold. value = d * (q - zero), or d * q + m, or d * level[q].
struct Target {
    BlockType type;
    int bits;
    int zero;                    // of the stored code; -1: the type has an offset instead
    std::string_view book = {};  // of levels
    bool has_offset() const { return zero < 0; }
};
constexpr Target targets[] = {{BlockType::q4_0, 4, 8},  {BlockType::iq4_nl, 4, 0, "iq4nl"}, {BlockType::q4_1, 4, -1},
                              {BlockType::q5_0, 5, 16}, {BlockType::q5_1, 5, -1},           {BlockType::q8_0, 8, 128}};
// By their bits for each weight.
constexpr BlockType by_size[] = {BlockType::q4_0, BlockType::iq4_nl, BlockType::q4_1, BlockType::q5_0, BlockType::q5_1, BlockType::q6_k, BlockType::q8_0};

const Target* target_of(BlockType type) {
    for (const Target& target : targets)
        if (target.type == type) return &target;
    return nullptr;
}

float number_at(const TensorView& numbers, std::int64_t index) {
    const DTypeInfo& info = dtype_info(numbers.dtype);
    float number = 0;
    info.to_float(numbers.data.data() + index * (info.bits / 8), 1, &number);
    return number;
}

// The code that stands for zero in a group of integers.
int zero_of(const Codes& codes, std::int64_t group) {
    if (codes.scheme.minimums) return 0;
    return codes.scheme.symmetric ? 1 << (codes.scheme.bits - 1) : static_cast<int>(codes.zeros.data[static_cast<std::size_t>(group)]);
}

// Scale and what is added of each group of a row: value = scale * code + offset, or scale * level.
struct RowNumbers {
    std::vector<float> scales, offsets;  // (n_groups)
};
RowNumbers row_numbers(const Weight& weight, std::int64_t row) {
    const Codes& codes = *weight.codes();
    const auto n_groups = static_cast<std::size_t>(codes.scheme.n_groups(weight.n_columns()));
    RowNumbers numbers = {std::vector<float>(n_groups), std::vector<float>(n_groups)};
    code_row_params(codes.scheme, sections_of(codes), row, weight.n_columns(), numbers.scales.data(), numbers.offsets.data());
    for (std::size_t i = 0; i < n_groups; ++i) {
        const std::int64_t group = row * static_cast<std::int64_t>(n_groups) + static_cast<std::int64_t>(i);
        numbers.offsets[i] = codes.scheme.kind == NumberKind::integer && !codes.scheme.minimums ? -static_cast<float>(zero_of(codes, group)) * numbers.scales[i] : -numbers.offsets[i];
    }
    return numbers;
}

std::vector<std::uint8_t> row_codes(const Weight& weight, std::int64_t row) {
    const Codes& codes = *weight.codes();
    std::vector<std::uint8_t> q(static_cast<std::size_t>(weight.n_columns()));
    unpack_codes(codes.packed.data.data() + row * packed_row_bytes(codes.scheme.bits, weight.n_columns()), codes.scheme.bits, weight.n_columns(), q.data());
    return q;
}

bool is_half(float value) { return f16_to_float(float_to_f16(value)) == value; }
// Whether half precision can stand for it: not too large, and not so small that it changes by more than a 64th.
bool nears_half(float value) { return std::abs(value) <= 65504 && std::abs(f16_to_float(float_to_f16(value)) - value) <= std::abs(value) / 64; }

// Whether a codebook's levels are integers from lowest to highest.
bool has_integral_levels(const Scheme& scheme, int lowest, int highest) {
    const Codebook& book = *scheme.codebook;
    return !book.is_float8() && book.integral() && std::all_of(book.levels.begin(), book.levels.end(), [&](float level) { return level >= lowest && level <= highest; });
}

// A code's level as an integer.
int level_of(const Scheme& scheme, int code) {
    if (scheme.kind == NumberKind::integer) return code - (1 << (scheme.bits - 1));
    return static_cast<int>(scheme.codebook->levels[static_cast<std::size_t>(code)]);
}

bool codes_fit(const Scheme& scheme, const Target& target) {
    if (!target.book.empty()) return scheme.kind == NumberKind::codebook && scheme.codebook->name == target.book;
    if (scheme.kind == NumberKind::codebook) return !target.has_offset() && has_integral_levels(scheme, -std::min(target.zero, 127), target.zero - 1);
    if (scheme.kind != NumberKind::integer) return false;
    if (target.has_offset()) return scheme.bits <= target.bits;
    if (scheme.minimums) return false;
    return scheme.bits + (scheme.symmetric ? 0 : 1) <= target.bits;  // code - zero needs one bit more where zero is anywhere
}

// The 32 codes of a block in the type's own packing, behind its half-precision numbers.
void put_codes(const Target& target, const std::uint8_t* q, std::uint8_t* out) {
    if (target.bits == 8) {
        for (int i = 0; i < 32; ++i) out[i] = static_cast<std::uint8_t>(std::max<int>(q[i], 1) - 128);
        return;
    }
    if (target.bits == 5) {
        std::uint32_t fifth = 0;
        for (int i = 0; i < 32; ++i) fifth |= static_cast<std::uint32_t>(q[i] >> 4) << i;
        std::memcpy(out, &fifth, 4);
        out += 4;
    }
    for (int i = 0; i < 16; ++i) out[i] = static_cast<std::uint8_t>((q[i] & 15) | (q[i + 16] & 15) << 4);
}

// ---- Q6_K: 256 weights, d in half precision, sixteen scales of 8 bits, codes of 6 bits about 32

constexpr std::int64_t k_size = 256, k_group = 16;

// d and the scale's code of a group, or of all groups under one scale.
struct KScale {
    float d = 0;
    int code = 1;
};
KScale k_scale(const Codes& codes, std::int64_t row, std::int64_t column, std::int64_t n_columns) {
    const Scheme& scheme = codes.scheme;
    const std::int64_t n_groups = scheme.n_groups(n_columns), group = scheme.group_of(column);
    if (!scheme.relative_scales()) return {number_at(codes.scales, row * n_groups + group), 1};
    const float super = number_at(codes.super_scales, row * scheme.n_supers(n_columns) + scheme.super_of(column));
    if (scheme.scale_book == nullptr) return {super, static_cast<std::int8_t>(codes.scales.data[static_cast<std::size_t>(row * n_groups + group)])};
    const auto pair = static_cast<std::uint8_t>(codes.scales.data[static_cast<std::size_t>(row * ((n_groups + 1) / 2) + group / 2)]);
    return {super / 128, static_cast<int>(scheme.scale_book->levels[pair >> (group % 2 * 4) & 15] * 128)};
}

bool scheme_fits_q6_k(const Scheme& scheme, std::int64_t n_columns) {
    const bool integers = scheme.kind == NumberKind::integer && scheme.symmetric && scheme.bits <= 6;
    const bool levels = scheme.kind == NumberKind::codebook && has_integral_levels(scheme, -32, 31);
    if ((!integers && !levels) || scheme.minimums || n_columns % k_size != 0) return false;
    if (!scheme.relative_scales()) return (scheme.scale_dtype == DType::f16 || scheme.scale_dtype == DType::bf16 || scheme.scale_dtype == DType::f32) && scheme.group_size % k_size == 0;
    if (scheme.scale_book != nullptr) {
        for (const float scale : scheme.scale_book->levels)
            if (scale * 128 != std::nearbyint(scale * 128) || std::abs(scale) >= 1) return false;
    } else if (scheme.scale_dtype != DType::i8) {
        return false;
    }
    return scheme.group_size % k_group == 0 && scheme.group_size > 0 && scheme.super_size % k_size == 0;
}

Fit fit_of_q6_k(const Weight& weight) {
    const Codes& codes = *weight.codes();
    const std::int64_t n_columns = weight.n_columns();
    if (!scheme_fits_q6_k(codes.scheme, n_columns)) return Fit::none;
    Fit fit = Fit::exact;
    for (std::int64_t row = 0; row < weight.n_rows(); ++row)
        for (std::int64_t column = 0; column < n_columns; column += k_size) {
            const float d = k_scale(codes, row, column, n_columns).d;
            if (!nears_half(d)) return Fit::none;
            if (!is_half(d)) fit = Fit::rounded;
        }
    return fit;
}

void row_to_q6_k(const Weight& weight, std::int64_t row, std::byte* out) {
    const Codes& codes = *weight.codes();
    const std::int64_t n_columns = weight.n_columns();
    const std::vector<std::uint8_t> q = row_codes(weight, row);
    for (std::int64_t begin = 0; begin < n_columns; begin += k_size, out += 210) {
        auto* block = reinterpret_cast<std::uint8_t*>(out);
        std::memset(block, 0, 210);
        const std::uint16_t d = float_to_f16(k_scale(codes, row, begin, n_columns).d);
        std::memcpy(block + 208, &d, 2);
        for (std::int64_t group = 0; group < k_size / k_group; ++group) block[192 + group] = static_cast<std::uint8_t>(k_scale(codes, row, begin + group * k_group, n_columns).code);
        for (int i = 0; i < k_size; ++i) {  // of each half of 128: low nibbles of quarters 0 and 1, then 2 and 3 above them; two high bits for each quarter
            const int code = level_of(codes.scheme, q[static_cast<std::size_t>(begin + i)]) + 32, half = i / 128, quarter = i % 128 / 32, at = i % 32;
            block[half * 64 + quarter % 2 * 32 + at] |= static_cast<std::uint8_t>((code & 15) << (quarter / 2 * 4));
            block[128 + half * 32 + at] |= static_cast<std::uint8_t>(code >> 4 << (quarter * 2));
        }
    }
}

}  // namespace

Fit fit_of_codes(const Weight& weight, BlockType type) {
    if (weight.codes() == nullptr) return Fit::none;
    if (type == BlockType::q6_k) return fit_of_q6_k(weight);
    const Target* target = target_of(type);
    const Codes& codes = *weight.codes();
    if (target == nullptr || !codes_fit(codes.scheme, *target)) return Fit::none;
    if (weight.n_columns() % block_size != 0 || codes.scheme.group_size % block_size != 0) return Fit::none;
    Fit fit = Fit::exact;
    for (std::int64_t row = 0; row < weight.n_rows(); ++row) {
        const RowNumbers numbers = row_numbers(weight, row);
        for (std::size_t i = 0; i < numbers.scales.size(); ++i) {
            const float offset = target->has_offset() ? numbers.offsets[i] : 0;
            if (!nears_half(numbers.scales[i]) || !(std::abs(offset) <= 65504)) return Fit::none;
            if (!is_half(numbers.scales[i]) || !is_half(offset)) fit = std::min(fit, Fit::rounded);
        }
        if (target->bits == 8 && codes.scheme.bits == 8 && fit != Fit::lowered) {
            const std::vector<std::uint8_t> q = row_codes(weight, row);
            if (std::find(q.begin(), q.end(), 0) != q.end()) fit = Fit::lowered;
        }
    }
    return fit;
}

std::optional<BlockType> smallest_block_of(const Weight& codes) {
    for (const BlockType type : by_size)
        if (fit_of_codes(codes, type) != Fit::none) return type;
    return std::nullopt;
}

void codes_row_to_blocks(const Weight& weight, BlockType type, std::int64_t row, std::byte* out) {
    if (type == BlockType::q6_k) return row_to_q6_k(weight, row, out);
    const Target& target = *target_of(type);
    const Codes& codes = *weight.codes();
    const std::int64_t n_columns = weight.n_columns(), n_groups = codes.scheme.n_groups(n_columns);
    const std::vector<std::uint8_t> q = row_codes(weight, row);
    const RowNumbers numbers = row_numbers(weight, row);
    const int block_bytes = block_format(type).block_bytes;
    for (std::int64_t begin = 0; begin < n_columns; begin += block_size, out += block_bytes) {
        const std::int64_t group = codes.scheme.group_of(begin);
        const std::uint16_t d = float_to_f16(numbers.scales[static_cast<std::size_t>(group)]), m = float_to_f16(numbers.offsets[static_cast<std::size_t>(group)]);
        auto* bytes = reinterpret_cast<std::uint8_t*>(out);
        std::memcpy(bytes, &d, 2);
        if (target.has_offset()) std::memcpy(bytes + 2, &m, 2);
        const bool as_levels = codes.scheme.kind == NumberKind::codebook && target.book.empty();
        const int shift = as_levels ? target.zero : target.has_offset() || !target.book.empty() ? 0 : target.zero - zero_of(codes, row * n_groups + group);
        std::uint8_t block[block_size];
        for (int i = 0; i < block_size; ++i) {
            const int code = q[static_cast<std::size_t>(begin + i)];
            block[i] = static_cast<std::uint8_t>((as_levels ? level_of(codes.scheme, code) : code) + shift);
        }
        put_codes(target, block, bytes + (target.has_offset() ? 4 : 2));
    }
}

}  // namespace skiff
