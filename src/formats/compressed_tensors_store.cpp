// Writing weights of codes: which tensors, and their bytes.
#include <cstring>

#include "base/checked.h"
#include "formats/compressed_tensors.h"
#include "formats/hashed_weights.h"
#include "formats/sparse_weights.h"

namespace skiff {
namespace {

// What the file holds that the weight does not: its shape, zeros down the rows, MXFP4 in bytes.
struct WrittenParts {
    std::vector<std::int64_t> shape;
    std::vector<std::byte> zeros, packed, scales;
    std::shared_ptr<const void> source;
};

std::vector<std::byte> pack_zeros_down_the_rows(const Codes& codes, std::int64_t n_rows, std::int64_t n_groups) {
    const std::int64_t n_words = packed_row_bytes(codes.scheme.bits, n_rows) / 4;
    std::vector<std::byte> packed(static_cast<std::size_t>(n_words * n_groups * 4)), column(static_cast<std::size_t>(n_words) * 4);
    std::vector<std::uint8_t> values(static_cast<std::size_t>(n_rows));
    for (std::int64_t group = 0; group < n_groups; ++group) {
        for (std::int64_t row = 0; row < n_rows; ++row)
            values[static_cast<std::size_t>(row)] = static_cast<std::uint8_t>(codes.zeros.data[static_cast<std::size_t>(row * n_groups + group)]);
        pack_codes(values.data(), codes.scheme.bits, n_rows, column.data());
        for (std::int64_t word = 0; word < n_words; ++word) std::memcpy(packed.data() + (word * n_groups + group) * 4, column.data() + word * 4, 4);
    }
    return packed;
}

// Rows without padding to words, and exponents of levels that are not doubled.
void make_public_mxfp4(const Codes& codes, std::int64_t n_rows, std::int64_t n_columns, WrittenParts& parts) {
    const std::int64_t file_bytes = ceil_div<std::int64_t>(n_columns, 2), row_bytes = packed_row_bytes(4, n_columns);
    if (file_bytes != row_bytes) {
        parts.packed.resize(static_cast<std::size_t>(n_rows * file_bytes));
        for (std::int64_t row = 0; row < n_rows; ++row)
            std::memcpy(parts.packed.data() + row * file_bytes, codes.packed.data.data() + row * row_bytes, static_cast<std::size_t>(file_bytes));
    }
    parts.scales.assign(codes.scales.data.begin(), codes.scales.data.end());
    for (std::byte& exponent : parts.scales) exponent = static_cast<std::byte>(std::to_integer<int>(exponent) + 1);
}

// Rows without padding to words.
void make_public_float8(const Codes& codes, std::int64_t n_rows, std::int64_t n_columns, WrittenParts& parts) {
    const std::int64_t row_bytes = packed_row_bytes(8, n_columns);
    if (row_bytes == n_columns) return;
    parts.packed.resize(static_cast<std::size_t>(n_rows * n_columns));
    for (std::int64_t row = 0; row < n_rows; ++row)
        std::memcpy(parts.packed.data() + row * n_columns, codes.packed.data.data() + row * row_bytes, static_cast<std::size_t>(n_columns));
}

struct SignedParts {
    std::vector<std::byte> codes;
    float input_scale = 0;
    std::shared_ptr<const void> source;
};

}  // namespace

bool can_fix_inputs(const Scheme& scheme) { return scheme.kind == NumberKind::integer && scheme.bits == 8 && scheme.symmetric && !scheme.relative_scales(); }

std::vector<TensorDeclaration> fixed_input_declarations(const std::string& module, const Scheme& scheme, const Shape& shape) {
    return {{module + ".weight", DType::i8, shape}, {module + ".weight_scale", scheme.scale_dtype, {shape[0], scheme.n_groups(shape[1])}}, {module + ".input_scale", DType::f32, {1}}};
}

std::vector<StoredTensor> fixed_input_tensors(const std::string& module, const Weight& weight, float input_scale) {
    const Codes& codes = *weight.codes();
    auto parts = std::make_shared<SignedParts>();
    parts->input_scale = input_scale;
    parts->source = weight.owner;
    const std::int64_t n_columns = weight.n_columns(), row_bytes = packed_row_bytes(8, n_columns);
    parts->codes.reserve(static_cast<std::size_t>(weight.n_rows() * n_columns));
    for (std::int64_t row = 0; row < weight.n_rows(); ++row)
        for (std::int64_t column = 0; column < n_columns; ++column) parts->codes.push_back(codes.packed.data[static_cast<std::size_t>(row * row_bytes + column)] ^ std::byte{0x80});
    return {{module + ".weight", DType::i8, weight.shape, parts->codes, parts},
            {module + ".weight_scale", codes.scales.dtype, codes.scales.shape, codes.scales.data, parts},
            {module + ".input_scale", DType::f32, {1}, std::as_bytes(std::span<const float>(&parts->input_scale, 1)), parts}};
}

std::vector<TensorDeclaration> token_input_declarations(const std::string& module, const Scheme& scheme, const Shape& shape) {
    auto declarations = fixed_input_declarations(module, scheme, shape);
    declarations.pop_back();
    return declarations;
}

std::vector<StoredTensor> token_input_tensors(const std::string& module, const Weight& codes) {
    auto tensors = fixed_input_tensors(module, codes, 0);
    tensors.pop_back();
    return tensors;
}

std::vector<TensorDeclaration> code_tensors(const std::string& module, const Scheme& scheme, const Shape& shape) {
    const std::int64_t n_rows = shape[0], n_columns = shape[1], n_groups = scheme.n_groups(n_columns), n_supers = scheme.n_supers(n_columns);
    if (scheme.scale_dtype == DType::f8_e8m0) {
        std::vector<TensorDeclaration> tensors = {{module + ".weight_packed", DType::u8, {n_rows, ceil_div<std::int64_t>(n_columns, 2)}},
                                                  {module + ".weight_scale", DType::u8, {n_rows, n_groups}}};
        if (n_columns % scheme.group_size != 0) tensors.push_back({module + ".weight_shape", DType::i64, {2}});
        return tensors;
    }
    if (scheme.kind == NumberKind::codebook && is_public_form(scheme))  // FP8
        return {{module + ".weight", DType::f8_e4m3, {n_rows, n_columns}}, {module + ".weight_scale", scheme.scale_dtype, {n_rows, n_groups}}};
    if (scheme.kind == NumberKind::clusters)
        return {{module + ".weight_packed", DType::i32, {n_rows, packed_row_bytes(scheme.bits, n_columns) / 4}},
                {module + ".weight_levels", scheme.scale_dtype, scheme.one_table ? Shape{1, scheme.n_levels} : Shape{n_rows, n_groups * scheme.n_levels}},
                {module + ".weight_shape", DType::i64, {2}}};
    std::vector<TensorDeclaration> tensors = {{module + ".weight_packed", DType::i32, {n_rows, packed_row_bytes(scheme.bits, scheme.n_codes(n_columns)) / 4}},
                                              {module + ".weight_scale", scheme.scale_dtype, {n_rows, scheme.scale_book != nullptr ? ceil_div<std::int64_t>(n_groups, 2) : n_groups}},
                                              {module + ".weight_shape", DType::i64, {2}}};
    if (scheme.kind == NumberKind::vectors) tensors.push_back({module + ".weight_books", DType::i8, {std::int64_t{scheme.n_books} * scheme.n_levels, scheme.vector}});
    if (scheme.stores_zeros()) tensors.push_back({module + ".weight_zero_point", DType::i32, {packed_row_bytes(scheme.bits, n_rows) / 4, n_groups}});
    if (scheme.relative_scales()) tensors.push_back({module + ".weight_super_scale", scheme.super_dtype, {n_rows, n_supers}});
    if (scheme.minimums) tensors.push_back({module + ".weight_minimum", scheme.minimum_dtype(), {n_rows, n_groups}});
    if (scheme.minimums && scheme.relative_scales()) tensors.push_back({module + ".weight_super_minimum", scheme.super_dtype, {n_rows, n_supers}});
    return tensors;
}

Result<std::vector<StoredTensor>> weight_tensors(const std::string& module, const Weight& weight) {
    if (const auto* view = weight.plain())
        return std::vector<StoredTensor>{{module + ".weight", view->dtype, weight.shape, view->data, weight.owner}};
    if (weight.sparse() != nullptr) return sparse_weight_tensors(module, weight);
    if (weight.outliers() != nullptr) return outlier_weight_tensors(module, weight);
    if (weight.hashed() != nullptr) return hashed_weight_tensors(module, weight);
    if (weight.blocks() != nullptr)
        return unsupported("module " + module + ": " + weight.encoding_name() + " blocks cannot be stored as compressed-tensors; quantize it to a scheme of codes");
    const Codes& codes = *weight.codes();
    auto parts = std::make_shared<WrittenParts>();
    parts->source = weight.owner;
    parts->shape = {weight.n_rows(), weight.n_columns()};
    if (codes.scheme.stores_zeros()) parts->zeros = pack_zeros_down_the_rows(codes, weight.n_rows(), codes.scheme.n_groups(weight.n_columns()));
    if (codes.scheme.kind == NumberKind::codebook && codes.scheme.codebook->is_float8() && is_public_form(codes.scheme)) make_public_float8(codes, weight.n_rows(), weight.n_columns(), *parts);
    if (codes.scheme.scale_dtype == DType::f8_e8m0) make_public_mxfp4(codes, weight.n_rows(), weight.n_columns(), *parts);
    const std::pair<std::string_view, std::span<const std::byte>> bytes[] = {
        {".weight_packed", parts->packed.empty() ? codes.packed.data : std::span<const std::byte>(parts->packed)},
        {".weight", parts->packed.empty() ? codes.packed.data : std::span<const std::byte>(parts->packed)},
        {".weight_levels", codes.scales.data},
        {".weight_scale", parts->scales.empty() ? codes.scales.data : std::span<const std::byte>(parts->scales)},
        {".weight_shape", std::as_bytes(std::span<const std::int64_t>(parts->shape))},
        {".weight_zero_point", parts->zeros},
        {".weight_super_scale", codes.super_scales.data},
        {".weight_minimum", codes.minimums.data},
        {".weight_super_minimum", codes.super_minimums.data},
        {".weight_books", codes.books.data},
    };
    std::vector<StoredTensor> tensors;
    for (TensorDeclaration& declared : code_tensors(module, codes.scheme, weight.shape))
        for (const auto& [name, data] : bytes)
            if (std::string_view(declared.name).substr(module.size()) == name) tensors.push_back({declared.name, declared.dtype, declared.shape, data, parts});
    return tensors;
}

}  // namespace skiff
