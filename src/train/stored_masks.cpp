#include "train/stored_masks.h"

#include <algorithm>
#include <optional>

namespace skiff::train {
namespace {

// Bits of the units of which anything is kept; nothing where a unit is kept in part, or a row keeps more than the pattern allows.
std::optional<std::vector<std::byte>> bitmask_of(const at::Tensor& mask, const SparsePattern& pattern) {
    const std::int64_t n_rows = mask.size(0), n_columns = mask.size(1), row_bytes = pattern.mask_row_bytes(n_columns);
    const float* keeps = mask.data_ptr<float>();
    std::vector<std::byte> bits(static_cast<std::size_t>(pattern.n_unit_rows(n_rows) * row_bytes));
    for (std::int64_t unit_row = 0; unit_row < pattern.n_unit_rows(n_rows); ++unit_row)
        for (std::int64_t unit = 0; unit < pattern.n_unit_columns(n_columns); ++unit) {
            const std::int64_t last_row = std::min(n_rows, (unit_row + 1) * pattern.unit_rows), last_column = std::min(n_columns, (unit + 1) * pattern.unit_columns);
            std::int64_t n = 0, n_kept = 0;
            for (std::int64_t row = unit_row * pattern.unit_rows; row < last_row; ++row)
                for (std::int64_t column = unit * pattern.unit_columns; column < last_column; ++column, ++n) n_kept += keeps[row * n_columns + column] != 0;
            if (n_kept != 0 && n_kept != n) return std::nullopt;
            if (n_kept != 0) bits[static_cast<std::size_t>(unit_row * row_bytes + unit / 8)] |= static_cast<std::byte>(1u << (unit % 8));
        }
    if (pattern.m > 0 && !sparse_begins(pattern, {DType::u8, {pattern.n_unit_rows(n_rows), row_bytes}, bits}, n_rows, n_columns).ok()) return std::nullopt;
    return bits;
}

}  // namespace

at::Tensor kept_in(const Weight& weight) {
    const Sparse& sparse = *weight.sparse();
    const std::int64_t n_rows = weight.n_rows(), n_columns = weight.n_columns();
    at::Tensor kept = at::empty({n_rows, n_columns}, at::kFloat);
    for (std::int64_t row = 0; row < n_rows; ++row)
        for (std::int64_t column = 0; column < n_columns; ++column)
            kept.data_ptr<float>()[row * n_columns + column] = sparse.keeps(row / sparse.pattern.unit_rows, column / sparse.pattern.unit_columns) ? 1.0f : 0.0f;
    return kept;
}

Result<Weight> with_mask(const Weight& dense, const at::Tensor& mask, const MaskForm& form) {
    if (form.kind == MaskForm::Kind::written_out) return dense;
    SparsePattern pattern = form.pattern;
    auto bits = bitmask_of(mask, pattern);
    if (!bits) {
        pattern = {};
        bits = bitmask_of(mask, pattern);
    }
    const bool must = form.kind == MaskForm::Kind::sparse;
    if (const Codes* codes = dense.codes(); codes != nullptr && !must && !sparse_defined_on(codes->scheme).ok()) return dense;
    SKIFF_TRY(auto sparse, make_sparse(dense, pattern, std::move(*bits)));
    return must || sparse.stored_bytes() < dense.stored_bytes() ? std::move(sparse) : dense;
}

}  // namespace skiff::train
