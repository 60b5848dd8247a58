// Rows of codes as floats: what every scheme's sections mean.
#include <algorithm>
#include <bit>
#include <initializer_list>
#include <vector>

#include "base/checked.h"
#include "tensor/weight.h"

namespace skiff {
namespace {

// Where scales are relative: params (n_groups) times the super value of their group. // supers: (n_supers) of super_dtype
void multiply_by_supers(const Scheme& scheme, const std::byte* supers, std::int64_t n_columns, float* params) {
    thread_local std::vector<float> values;
    const std::int64_t n_supers = scheme.n_supers(n_columns), n_groups = scheme.n_groups(n_columns);
    values.resize(static_cast<std::size_t>(n_supers));
    dtype_info(scheme.super_dtype).to_float(supers, n_supers, values.data());
    for (std::int64_t group = 0; group < n_groups; ++group)
        params[group] = values[static_cast<std::size_t>(scheme.super_of(group * scheme.group_size))] * params[group];
}

// Codes of a table of scales, two to a byte.
void look_scales_up(const Codebook& book, const std::byte* codes, std::int64_t n_groups, float* scales) {
    for (std::int64_t group = 0; group < n_groups; ++group) scales[group] = book.levels[std::to_integer<std::size_t>(codes[group / 2]) >> group % 2 * 4 & 15];
}

}  // namespace

std::int64_t packed_row_bytes(int bits, std::int64_t n_columns) { return ceil_div<std::int64_t>(n_columns * bits, 32) * 4; }

CodeSections sections_of(const Codes& codes) {
    return {codes.packed.data.data(),       codes.scales.data.data(),   codes.zeros.data.data(),
            codes.super_scales.data.data(), codes.minimums.data.data(), codes.super_minimums.data.data(), codes.books.data.data()};
}

bool decodes(const Scheme& scheme) {
    const auto is_one_of = [](DType dtype, std::initializer_list<DType> list) { return std::find(list.begin(), list.end(), dtype) != list.end(); };
    const bool codebook = scheme.kind == NumberKind::codebook;
    if (scheme.kind == NumberKind::clusters) {
        const bool levels = scheme.n_levels >= 2 && scheme.n_levels <= 256 && scheme.bits == static_cast<int>(std::bit_width(static_cast<unsigned>(scheme.n_levels - 1))) && is_one_of(scheme.scale_dtype, {DType::f16, DType::bf16, DType::f32});
        return levels && scheme.group_size >= 0 && !(scheme.one_table && scheme.group_size != 0) && scheme.codebook == nullptr && scheme.scale_book == nullptr && !scheme.minimums;
    }
    if (scheme.kind == NumberKind::vectors) {
        const bool books = (scheme.vector == 2 || scheme.vector == 4 || scheme.vector == 8) && (scheme.n_books == 1 || scheme.n_books == 2) && scheme.bits >= 4 && scheme.bits <= 12 && scheme.n_levels == 1 << scheme.bits;
        if (!books || scheme.one_table || scheme.codebook != nullptr || scheme.minimums || !scheme.symmetric || scheme.group_size < 0 || scheme.group_size % scheme.vector != 0) return false;
    } else if (scheme.n_levels != 0 || scheme.one_table || scheme.vector != 0 || scheme.n_books != 0) {
        return false;
    }
    if (!scheme.is_coded() || codebook != (scheme.codebook != nullptr) || (codebook && scheme.bits != scheme.codebook->bits)) return false;
    if (scheme.bits < 1 || (scheme.bits > 8 && scheme.kind != NumberKind::vectors) || scheme.group_size < 0 || (scheme.minimums && (codebook || scheme.symmetric))) return false;
    if (scheme.scale_book != nullptr && (scheme.scale_dtype != DType::u8 || scheme.minimums)) return false;
    if (!scheme.relative_scales()) return is_one_of(scheme.scale_dtype, {DType::f16, DType::bf16, DType::f32, DType::f8_e8m0});
    return scheme.group_size > 0 && scheme.super_size >= 0 && scheme.super_size % scheme.group_size == 0 && is_one_of(scheme.super_dtype, {DType::f16, DType::bf16, DType::f32});
}

CodeRowBytes code_row_bytes(const Scheme& scheme, std::int64_t n_columns) {
    const std::int64_t n_groups = scheme.n_groups(n_columns), super_bytes = scheme.n_supers(n_columns) * dtype_info(scheme.super_dtype).bits / 8;
    CodeRowBytes bytes;
    bytes.packed = packed_row_bytes(scheme.bits, scheme.n_codes(n_columns));
    const std::int64_t n_numbers = scheme.kind != NumberKind::clusters ? n_groups : scheme.one_table ? 0 : n_groups * scheme.n_levels;
    bytes.scales = ceil_div<std::int64_t>(n_numbers * scheme.scale_bits(), 8);
    if (scheme.stores_zeros()) bytes.zeros = n_groups;
    if (scheme.relative_scales()) bytes.super_scales = super_bytes;
    if (scheme.minimums) bytes.minimums = n_groups * dtype_info(scheme.minimum_dtype()).bits / 8;
    if (scheme.minimums && scheme.relative_scales()) bytes.super_minimums = super_bytes;
    return bytes;
}

void code_row_params(const Scheme& scheme, const CodeSections& sections, std::int64_t row, std::int64_t n_columns, float* scales, float* minimums) {
    const CodeRowBytes bytes = code_row_bytes(scheme, n_columns);
    const std::int64_t n_groups = scheme.n_groups(n_columns);
    if (scheme.kind == NumberKind::clusters) {
        std::fill_n(scales, n_groups, 1.0f);
        std::fill_n(minimums, n_groups, 0.0f);
        return;
    }
    if (scheme.scale_book != nullptr) look_scales_up(*scheme.scale_book, sections.scales + row * bytes.scales, n_groups, scales);
    else dtype_info(scheme.scale_dtype).to_float(sections.scales + row * bytes.scales, n_groups, scales);
    if (scheme.relative_scales()) multiply_by_supers(scheme, sections.super_scales + row * bytes.super_scales, n_columns, scales);
    if (!scheme.minimums) {
        std::fill_n(minimums, n_groups, 0.0f);
        return;
    }
    dtype_info(scheme.minimum_dtype()).to_float(sections.minimums + row * bytes.minimums, n_groups, minimums);
    if (scheme.relative_scales()) multiply_by_supers(scheme, sections.super_minimums + row * bytes.super_minimums, n_columns, minimums);
}

namespace {

void decode_vectors_row(const Scheme& scheme, const CodeSections& sections, std::int64_t row, std::int64_t n_columns, float* target) {
    thread_local std::vector<std::uint16_t> codes;
    thread_local std::vector<float> params;
    const std::int64_t n_groups = scheme.n_groups(n_columns), n_codes = scheme.n_codes(n_columns);
    codes.resize(static_cast<std::size_t>(n_codes));
    params.resize(static_cast<std::size_t>(2 * n_groups));
    unpack_wide_codes(sections.packed + row * packed_row_bytes(scheme.bits, n_codes), scheme.bits, n_codes, codes.data());
    code_row_params(scheme, sections, row, n_columns, params.data(), params.data() + n_groups);
    const auto* books = reinterpret_cast<const std::int8_t*>(sections.books);
    const std::uint16_t* code = codes.data();
    for (std::int64_t begin = 0; begin < n_columns; begin += scheme.vector, code += scheme.n_books) {
        const float scale = params[static_cast<std::size_t>(scheme.group_of(begin))];
        const std::int8_t* first = books + std::int64_t{code[0]} * scheme.vector;
        const std::int8_t* second = scheme.n_books > 1 ? books + (scheme.n_levels + std::int64_t{code[1]}) * scheme.vector : nullptr;
        for (std::int64_t i = 0; i < std::min<std::int64_t>(scheme.vector, n_columns - begin); ++i)
            target[begin + i] = static_cast<float>(first[i] + (second != nullptr ? second[i] : 0)) * scale;
    }
}

}  // namespace

void decode_codes_row(const Scheme& scheme, const CodeSections& sections, std::int64_t row, std::int64_t n_columns, float* target) {
    if (scheme.kind == NumberKind::vectors) return decode_vectors_row(scheme, sections, row, n_columns, target);
    thread_local std::vector<std::uint8_t> codes;
    thread_local std::vector<float> params;
    const std::int64_t n_groups = scheme.n_groups(n_columns), group_size = scheme.group_size == 0 ? n_columns : scheme.group_size;
    codes.resize(static_cast<std::size_t>(n_columns));
    params.resize(static_cast<std::size_t>(2 * n_groups));
    float *scales = params.data(), *minimums = scales + n_groups;
    unpack_codes(sections.packed + row * packed_row_bytes(scheme.bits, n_columns), scheme.bits, n_columns, codes.data());
    code_row_params(scheme, sections, row, n_columns, scales, minimums);

    float levels[256];  // of the codebook or of clusters; codes beyond the table, which no checked file has, mean its last level
    const std::byte* tables = sections.scales + row * code_row_bytes(scheme, n_columns).scales;
    const std::int64_t table_bytes = std::int64_t{scheme.n_levels} * scheme.scale_bits() / 8;
    if (scheme.codebook != nullptr) {
        const auto table = scheme.codebook->levels;
        for (std::size_t code = 0; code < std::size_t{1} << scheme.bits; ++code) levels[code] = table[std::min(code, table.size() - 1)];
    }
    for (std::int64_t group = 0; group < n_groups; ++group) {
        const float scale = scales[group], minimum = minimums[group];
        const std::int64_t begin = group * group_size, end = std::min(n_columns, begin + group_size);
        const std::uint8_t* code = codes.data();
        if (scheme.kind == NumberKind::clusters) {
            dtype_info(scheme.scale_dtype).to_float(tables + group * table_bytes, scheme.n_levels, levels);
            std::fill(levels + scheme.n_levels, levels + (std::size_t{1} << scheme.bits), levels[scheme.n_levels - 1]);
            for (std::int64_t c = begin; c < end; ++c) target[c] = levels[code[c]];
        } else if (scheme.kind == NumberKind::codebook) {
            for (std::int64_t c = begin; c < end; ++c) target[c] = levels[code[c]] * scale;
        } else if (scheme.minimums) {
            for (std::int64_t c = begin; c < end; ++c) target[c] = static_cast<float>(code[c]) * scale - minimum;
        } else {
            const int zero = scheme.symmetric ? 1 << (scheme.bits - 1) : std::to_integer<int>(sections.zeros[row * n_groups + group]);
            for (std::int64_t c = begin; c < end; ++c) target[c] = static_cast<float>(static_cast<int>(code[c]) - zero) * scale;
        }
    }
}

}  // namespace skiff
