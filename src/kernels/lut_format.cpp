#include "kernels/lut_format.h"

namespace skiff {
namespace {

bool is_half_or_float(DType dtype) { return dtype == DType::f16 || dtype == DType::bf16 || dtype == DType::f32; }

}  // namespace

bool is_lut(const Scheme& scheme, std::int64_t n_columns) {
    if (scheme.group_size != 0 && scheme.group_size % 32 != 0 && scheme.group_size < n_columns) return false;
    if (scheme.kind == NumberKind::clusters) return scheme.scale_dtype == DType::f16;
    return scheme.kind == NumberKind::codebook && scheme.codebook->is_float8() && is_half_or_float(scheme.scale_dtype);
}

LutFormat lut_format(const PackedWeight& weight) {
    const Scheme& scheme = weight.scheme;
    LutFormat format = {};
    format.numbers = scheme.kind == NumberKind::clusters ? LutNumbers::levels : scheme.codebook == find_codebook("e4m3") ? LutNumbers::e4m3 : LutNumbers::e5m2;
    format.bits = scheme.bits;
    format.n_levels = scheme.n_levels;
    format.n_groups = scheme.one_table ? 1 : scheme.n_groups(weight.n_columns);
    format.group_size = format.n_groups == 1 ? weight.n_columns : scheme.group_size;
    const CodeRowBytes bytes = code_row_bytes(scheme, weight.n_columns);
    format.row_bytes = bytes.packed, format.table_row_bytes = bytes.scales;
    return format;
}

float lut_scale(const PackedWeight& weight, const LutFormat& format, std::int64_t row, std::int64_t group) {
    const DTypeInfo& info = dtype_info(weight.dtype);
    float scale;
    info.to_float(weight.scales + row * format.table_row_bytes + group * info.bits / 8, 1, &scale);
    return scale;
}

}  // namespace skiff
