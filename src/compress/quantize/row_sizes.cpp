#include "compress/quantize/row_sizes.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>

#include "compress/algebra/algebra.h"
#include "tensor/grid_parts.h"
#include "tensor/sparse.h"

namespace skiff {
namespace {

constexpr double least_factor = 0.5, most_factor = 2.0;  // of a row

// a . b of each row. // (n_rows)
std::vector<double> row_products(const std::vector<float>& a, const std::vector<float>& b, std::int64_t n_columns) {
    std::vector<double> sums(a.size() / static_cast<std::size_t>(n_columns));
    for (std::size_t i = 0; i < a.size(); ++i) sums[i / static_cast<std::size_t>(n_columns)] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    return sums;
}

std::vector<float> times_gram(const std::vector<float>& rows, const InputStatistics& inputs, ThreadPool& pool) {
    const auto n = static_cast<std::int64_t>(inputs.mean.size());
    std::vector<float> product(rows.size());
    multiply({.m = static_cast<std::int64_t>(rows.size()) / n, .n = n, .k = n, .a = rows.data(), .a_stride = n, .b = inputs.gram.data(), .b_stride = n, .c = product.data(), .c_stride = n}, pool);
    return product;
}

// E[y^2] of each row of y = W x, and what E[y y'] is beside it.
class RowSizes {
public:
    RowSizes(const Weight& original, const InputStatistics& inputs, ThreadPool& pool) : n_columns_(original.n_columns()) {
        const auto w = row_floats(original);
        moments_ = times_gram(w, inputs, pool);
        own_ = row_products(w, moments_, n_columns_);
    }
    std::vector<double> beside(const Weight& other) const { return row_products(row_floats(other), moments_, n_columns_); }  // (n_rows)
    // What a row is to be multiplied with, within bounds; 1 for one that says nothing, or the opposite.
    float factor(std::int64_t row, const std::vector<double>& beside) const {
        const auto at = static_cast<std::size_t>(row);
        return own_[at] > 0 && beside[at] > 0 ? static_cast<float>(std::clamp(own_[at] / beside[at], least_factor, most_factor)) : 1.0f;
    }
    bool nearer(std::int64_t row, const std::vector<double>& a, const std::vector<double>& b) const {
        const auto at = static_cast<std::size_t>(row);
        return std::fabs(own_[at] - a[at]) < std::fabs(own_[at] - b[at]);
    }

private:
    std::int64_t n_columns_;
    std::vector<float> moments_;  // W E[x x']
    std::vector<double> own_;
};

Weight with_float_rows_kept(const Weight& original, const Weight& rows, const InputStatistics& inputs, ThreadPool& pool) {
    const RowSizes sizes(original, inputs, pool);
    const auto before = sizes.beside(rows);
    auto values = row_floats(rows);
    const std::int64_t n = rows.n_columns();
    for (std::int64_t row = 0; row < rows.n_rows(); ++row) {
        const float factor = sizes.factor(row, before);
        for (std::int64_t i = 0; i < n; ++i) values[static_cast<std::size_t>(row * n + i)] *= factor;
    }
    const Weight kept = make_float_weight(rows.shape, std::move(values));
    return rows.plain()->dtype == DType::f32 ? kept : *encode_nearest(kept, floating_scheme(rows.plain()->dtype), ScaleRule::min_max, {}, &pool);
}

bool is_float(const TensorView& numbers) { return numbers.dtype == DType::f16 || numbers.dtype == DType::bf16 || numbers.dtype == DType::f32; }

// Numbers that each row has equally many of, as bytes that can change.
class RowNumbers {
public:
    RowNumbers(const TensorView& numbers, std::int64_t n_rows) : numbers_(numbers), row_bytes_(static_cast<std::int64_t>(numbers.data.size()) / n_rows), bytes_(numbers.data.begin(), numbers.data.end()) {}
    void multiply(std::int64_t row, float factor) {
        const DTypeInfo& type = dtype_info(numbers_.dtype);
        std::vector<float> values(static_cast<std::size_t>(row_bytes_ * 8 / type.bits));
        type.to_float(own(row), static_cast<std::int64_t>(values.size()), values.data());
        for (float& value : values) value = grids::round_to(numbers_.dtype, value * factor);
        type.from_float(values.data(), static_cast<std::int64_t>(values.size()), own(row));
    }
    void restore(std::int64_t row) { std::copy_n(numbers_.data.begin() + row * row_bytes_, row_bytes_, own(row)); }
    std::span<const std::byte> bytes() const { return bytes_; }

private:
    std::byte* own(std::int64_t row) { return bytes_.data() + row * row_bytes_; }

    TensorView numbers_;
    std::int64_t row_bytes_;
    std::vector<std::byte> bytes_;
};

Weight with_coded_rows_kept(const Weight& original, const Weight& coded, const InputStatistics& inputs, ThreadPool& pool) {
    Codes codes = *coded.codes();
    const bool relative = codes.scheme.relative_scales();
    std::vector<TensorView*> multiplied = {relative ? &codes.super_scales : &codes.scales};
    if (codes.scheme.minimums) multiplied.push_back(relative ? &codes.super_minimums : &codes.minimums);
    if (codes.scheme.kind == NumberKind::clusters || !std::all_of(multiplied.begin(), multiplied.end(), [](const TensorView* numbers) { return is_float(*numbers); })) return coded;
    struct Owned {
        std::vector<RowNumbers> numbers;
        std::shared_ptr<const void> rest;
    };
    auto owned = std::make_shared<Owned>();
    owned->rest = coded.owner;
    for (const TensorView* numbers : multiplied) owned->numbers.emplace_back(*numbers, coded.n_rows());
    const RowSizes sizes(original, inputs, pool);
    const auto before = sizes.beside(coded);
    for (RowNumbers& numbers : owned->numbers)
        for (std::int64_t row = 0; row < coded.n_rows(); ++row) numbers.multiply(row, sizes.factor(row, before));
    for (std::size_t i = 0; i < multiplied.size(); ++i) multiplied[i]->data = owned->numbers[i].bytes();
    Weight result = coded;
    result.store = codes;
    result.owner = owned;
    result.file_backed = false;
    // Scales are rounded to their type: a row keeps its old ones where that took it no nearer.
    const auto after = sizes.beside(result);
    for (RowNumbers& numbers : owned->numbers)
        for (std::int64_t row = 0; row < coded.n_rows(); ++row)
            if (!sizes.nearer(row, after, before)) numbers.restore(row);
    return result;
}

}  // namespace

std::vector<float> row_floats(const Weight& weight) {
    std::vector<float> values(static_cast<std::size_t>(element_count(weight.shape)));
    for (std::int64_t row = 0; row < weight.n_rows(); ++row) weight.row(row, values.data() + row * weight.n_columns());
    return values;
}

Weight with_row_sizes_kept(const Weight& original, const Weight& reduced, const InputStatistics& inputs, ThreadPool& pool) {
    if (inputs.gram.empty()) return reduced;
    if (reduced.plain() != nullptr) return with_float_rows_kept(original, reduced, inputs, pool);
    if (reduced.codes() != nullptr) return with_coded_rows_kept(original, reduced, inputs, pool);
    const Sparse& sparse = *reduced.sparse();
    const Weight kept = with_row_sizes_kept(original, densified(reduced), inputs, pool);
    return *make_sparse(kept, sparse.pattern, {sparse.bitmask.data.begin(), sparse.bitmask.data.end()});
}

}  // namespace skiff
