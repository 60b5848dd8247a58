#include "formats/sparse_weights.h"

#include <cstring>

#include "base/checked.h"
#include "formats/packed_inputs.h"

namespace skiff {
namespace {

struct Owners {
    std::vector<std::shared_ptr<const void>> files;
    std::vector<std::int64_t> begins;
};

Error wrong(const std::string& module, const std::string& what) { return corrupt("module " + module + ": " + what); }

Result<FoundTensor> required(const std::string& module, const char* name, const TensorLookup& lookup, Owners& owners) {
    SKIFF_TRY(auto found, lookup(module + name));
    if (!found) return wrong(module, std::string("there is no tensor ") + (name + 1));
    owners.files.push_back(found->owner);
    return std::move(*found);
}

Result<std::vector<std::int64_t>> integers(const std::string& module, const char* name, const TensorView& view, std::int64_t n) {
    if (view.dtype != DType::i64 || view.shape != Shape{n})
        return wrong(module, std::string(name + 1) + " is " + std::string(dtype_info(view.dtype).name) + " " + shape_text(view.shape) + ", expected " + std::to_string(n) + " integers in I64");
    std::vector<std::int64_t> values(static_cast<std::size_t>(n));
    std::memcpy(values.data(), view.data.data(), view.data.size());
    return values;
}

Result<Shape> read_shape(const std::string& module, const char* name, const TensorLookup& lookup, Owners& owners) {
    SKIFF_TRY(const auto found, required(module, name, lookup, owners));
    SKIFF_TRY(auto shape, integers(module, name, found.view, 2));
    for (std::int64_t size : shape)
        if (size < 0 || size > (std::int64_t{1} << 30)) return wrong(module, std::string(name + 1) + " holds " + std::to_string(size));
    return shape;
}

Result<TensorView> exactly(const std::string& module, const char* name, const FoundTensor& found, DType dtype, const Shape& shape) {
    if (found.view.dtype == dtype && found.view.shape == shape) return TensorView{dtype, shape, found.view.data};
    return wrong(module, std::string(name + 1) + " is " + std::string(dtype_info(found.view.dtype).name) + " " + shape_text(found.view.shape) + ", expected " + std::string(dtype_info(dtype).name) + " " +
                             shape_text(shape));
}

Status read_scales(const std::string& module, const TensorLookup& lookup, std::int64_t n_rows, std::int64_t n_columns, Sparse& sparse, Owners& owners) {
    Scheme& scheme = sparse.scheme;
    SKIFF_TRY(const auto scale, required(module, ".weight_scale", lookup, owners));
    const DType found = scale.view.dtype;
    if (scheme.relative_scales()) scheme.scale_dtype = DType::i8;
    else if (found == DType::f16 || found == DType::bf16 || found == DType::f32) scheme.scale_dtype = found;
    SKIFF_TRY(sparse.scales, exactly(module, ".weight_scale", scale, scheme.scale_dtype, {n_rows, scheme.n_groups(n_columns)}));
    if (!scheme.relative_scales()) return check_finite(module, "weight_scale", sparse.scales);
    SKIFF_TRY(const auto super, required(module, ".weight_super_scale", lookup, owners));
    scheme.super_dtype = super.view.dtype == DType::f16 ? DType::f16 : DType::f32;
    SKIFF_TRY(sparse.super_scales, exactly(module, ".weight_super_scale", super, scheme.super_dtype, {n_rows, scheme.n_supers(n_columns)}));
    return check_finite(module, "weight_super_scale", sparse.super_scales);
}

// A codebook with fewer levels than codes: no code may lie behind the last level.
Status check_codes(const std::string& module, const Sparse& sparse, std::int64_t n_rows, std::int64_t n_columns) {
    if (sparse.scheme.kind != NumberKind::codebook || sparse.scheme.codebook->levels.size() == std::size_t{1} << sparse.scheme.bits) return {};
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(n_columns));
    for (std::int64_t row = 0; row < n_rows; ++row) {
        sparse_row_codes(sparse, row, n_columns, codes.data(), nullptr);
        for (std::uint8_t code : codes)
            if (code >= sparse.scheme.codebook->levels.size()) return wrong(module, "row " + std::to_string(row) + " holds the code " + std::to_string(code) + ", behind the last level of its codebook");
    }
    return {};
}

struct Written {
    std::vector<std::int64_t> pattern, shape;
    std::shared_ptr<const void> source;
};

// The declared tensors with the bytes that go by their names.
using NamedBytes = std::pair<std::string_view, std::span<const std::byte>>;
std::vector<StoredTensor> with_bytes(const std::string& module, const std::vector<TensorDeclaration>& declared, std::span<const NamedBytes> all, const std::shared_ptr<const void>& owner) {
    std::vector<StoredTensor> tensors;
    for (const TensorDeclaration& each : declared)
        for (const auto& [name, bytes] : all)
            if (std::string_view(each.name).substr(module.size()) == name) tensors.push_back({each.name, each.dtype, each.shape, bytes, owner});
    return tensors;
}

std::span<const std::byte> bytes_of(const std::vector<std::int64_t>& values) { return std::as_bytes(std::span(values)); }

}  // namespace

std::vector<TensorDeclaration> sparse_tensors(const std::string& module, const SparsePattern& pattern, const Scheme& scheme, const Shape& shape, std::int64_t n_values) {
    const bool coded = scheme.is_coded();
    std::vector<TensorDeclaration> tensors = {
        {module + ".weight_bitmask", DType::u8, {pattern.n_unit_rows(shape[0]), pattern.mask_row_bytes(shape[1])}},
        {module + ".weight_values", coded ? DType::u8 : scheme.dtype, {coded ? sparse_value_bytes(scheme, n_values) : n_values}},
        {module + ".weight_pattern", DType::i64, {4}},
        {module + ".weight_shape", DType::i64, {2}},
    };
    if (coded) tensors.push_back({module + ".weight_scale", scheme.scale_dtype, {shape[0], scheme.n_groups(shape[1])}});
    if (scheme.relative_scales()) tensors.push_back({module + ".weight_super_scale", scheme.super_dtype, {shape[0], scheme.n_supers(shape[1])}});
    return tensors;
}

std::vector<StoredTensor> sparse_weight_tensors(const std::string& module, const Weight& weight) {
    const Sparse& sparse = *weight.sparse();
    const SparsePattern& pattern = sparse.pattern;
    const auto written = std::make_shared<Written>(Written{{pattern.unit_rows, pattern.unit_columns, pattern.n, pattern.m}, weight.shape, weight.owner});
    const NamedBytes bytes[] = {{".weight_bitmask", sparse.bitmask.data}, {".weight_values", sparse.values.data},   {".weight_pattern", bytes_of(written->pattern)},
                                {".weight_shape", bytes_of(written->shape)}, {".weight_scale", sparse.scales.data}, {".weight_super_scale", sparse.super_scales.data}};
    return with_bytes(module, sparse_tensors(module, pattern, sparse.scheme, weight.shape, sparse.n_values()), bytes, written);
}

Result<Weight> read_sparse_weight(const std::string& module, const TensorLookup& lookup, const Scheme* scheme) {
    auto owners = std::make_shared<Owners>();
    SKIFF_TRY(const auto shape, read_shape(module, ".weight_shape", lookup, *owners));
    SKIFF_TRY(const auto pattern, required(module, ".weight_pattern", lookup, *owners));
    SKIFF_TRY(const auto numbers, integers(module, ".weight_pattern", pattern.view, 4));
    SKIFF_TRY(const auto bitmask, required(module, ".weight_bitmask", lookup, *owners));
    SKIFF_TRY(const auto values, required(module, ".weight_values", lookup, *owners));
    Sparse sparse;
    sparse.pattern = {numbers[0], numbers[1], numbers[2], numbers[3]};
    sparse.bitmask = bitmask.view;
    auto begins = sparse_begins(sparse.pattern, sparse.bitmask, shape[0], shape[1]);
    if (!begins.ok()) return begins.take_error().with_context("module " + module);
    owners->begins = std::move(*begins);
    sparse.begins = owners->begins;
    if (scheme != nullptr) sparse.scheme = *scheme;
    else sparse.scheme = {NumberKind::floating, values.view.dtype, dtype_info(values.view.dtype).bits};
    if (Status status = sparse_defined_on(sparse.scheme); !status.ok()) return status.take_error().with_context("module " + module);
    const bool coded = sparse.scheme.is_coded();
    // What the bitmask counts must be what the file holds, so that it bounds all that is read later.
    const auto n_bits = checked_mul<std::int64_t>(sparse.n_values(), coded ? sparse.scheme.bits : 1);
    if (!n_bits) return wrong(module, "the bitmask keeps more values than can be counted");
    SKIFF_TRY(sparse.values, exactly(module, ".weight_values", values, coded ? DType::u8 : sparse.scheme.dtype, {coded ? ceil_div<std::int64_t>(*n_bits, 8) : *n_bits}));
    if (coded) {
        SKIFF_CHECK(read_scales(module, lookup, shape[0], shape[1], sparse, *owners));
        SKIFF_CHECK(check_codes(module, sparse, shape[0], shape[1]));
    }
    return Weight{shape, std::move(sparse), std::move(owners)};
}

std::vector<TensorDeclaration> outlier_tensors(const std::string& module, DType dtype, const Shape& shape, std::int64_t n) {
    return {{module + ".outliers_values", dtype, {n}}, {module + ".outliers_columns", DType::i32, {n}}, {module + ".outliers_rows", DType::i64, {shape[0] + 1}}, {module + ".outliers_shape", DType::i64, {2}}};
}

std::vector<StoredTensor> outlier_weight_tensors(const std::string& module, const Weight& weight) {
    const Outliers& outliers = *weight.outliers();
    const auto written = std::make_shared<Written>(Written{{}, weight.shape, weight.owner});
    const NamedBytes bytes[] = {
        {".outliers_values", outliers.values.data}, {".outliers_columns", outliers.columns.data}, {".outliers_rows", outliers.rows.data}, {".outliers_shape", bytes_of(written->shape)}};
    return with_bytes(module, outlier_tensors(module, outliers.values.dtype, weight.shape, outliers.values.n_elements()), bytes, written);
}

Result<Weight> read_outliers(const std::string& module, const TensorLookup& lookup) {
    auto owners = std::make_shared<Owners>();
    SKIFF_TRY(const auto shape, read_shape(module, ".outliers_shape", lookup, *owners));
    SKIFF_TRY(const auto values, required(module, ".outliers_values", lookup, *owners));
    SKIFF_TRY(const auto columns, required(module, ".outliers_columns", lookup, *owners));
    SKIFF_TRY(const auto rows, required(module, ".outliers_rows", lookup, *owners));
    Outliers outliers{values.view, columns.view, rows.view};
    if (Status status = check_outliers(outliers, shape[0], shape[1]); !status.ok()) return status.take_error().with_context("module " + module);
    return Weight{shape, std::move(outliers), std::move(owners)};
}

}  // namespace skiff
