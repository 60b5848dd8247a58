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

// Rows of a weight as floats. // (rows.end - rows.begin, n_columns)
std::vector<float> some_rows(const Weight& weight, Range rows) {
    std::vector<float> values(static_cast<std::size_t>((rows.end - rows.begin) * weight.n_columns()));
    for (std::int64_t row = rows.begin; row < rows.end; ++row) weight.row(row, values.data() + (row - rows.begin) * weight.n_columns());
    return values;
}

// a . b of each row. // (n_rows)
std::vector<double> row_products(const std::vector<float>& a, const std::vector<float>& b, std::int64_t n_columns) {
    std::vector<double> sums(a.size() / static_cast<std::size_t>(n_columns));
    for (std::size_t i = 0; i < a.size(); ++i) sums[i / static_cast<std::size_t>(n_columns)] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    return sums;
}

// E[y x'] of rows y = w x, or Cov[y, x]. // (n_rows, n_columns)
std::vector<float> moments_of(const std::vector<float>& rows, const InputStatistics& inputs, SizeAbout about, ThreadPool& pool) {
    const auto n = static_cast<std::int64_t>(inputs.mean.size()), n_rows = static_cast<std::int64_t>(rows.size()) / n;
    std::vector<float> moments(rows.size());
    multiply({.m = n_rows, .n = n, .k = n, .a = rows.data(), .a_stride = n, .b = inputs.gram.data(), .b_stride = n, .c = moments.data(), .c_stride = n}, pool);
    for (std::int64_t row = 0; about == SizeAbout::mean && row < n_rows; ++row) {
        const float* w = rows.data() + row * n;
        double mean = 0;
        for (std::int64_t i = 0; i < n; ++i) mean += static_cast<double>(w[i]) * static_cast<double>(inputs.mean[static_cast<std::size_t>(i)]);
        for (std::int64_t i = 0; i < n; ++i) moments[static_cast<std::size_t>(row * n + i)] -= static_cast<float>(mean * static_cast<double>(inputs.mean[static_cast<std::size_t>(i)]));
    }
    return moments;
}

// E[y^2] of some rows of y = W x, and what E[y y'] is beside it.
class RowSizes {
public:
    RowSizes(const Weight& original, Range rows, const InputStatistics& inputs, SizeAbout about, ThreadPool& pool) : n_columns_(original.n_columns()), rows_(rows) {
        const auto w = some_rows(original, rows);
        moments_ = moments_of(w, inputs, about, pool);
        own_ = row_products(w, moments_, n_columns_);
    }
    std::vector<double> beside(const Weight& other) const { return row_products(some_rows(other, rows_), moments_, n_columns_); }
    // What a row is to be multiplied with, within bounds; 1 for one that says nothing, or the opposite.
    float factor(std::int64_t row, const std::vector<double>& beside) const {
        const std::size_t at = place(row);
        return own_[at] > 0 && beside[at] > 0 ? static_cast<float>(std::clamp(own_[at] / beside[at], least_factor, most_factor)) : 1.0f;
    }
    bool nearer(std::int64_t row, const std::vector<double>& a, const std::vector<double>& b) const { return std::fabs(own_[place(row)] - a[place(row)]) < std::fabs(own_[place(row)] - b[place(row)]); }

private:
    std::size_t place(std::int64_t row) const { return static_cast<std::size_t>(row - rows_.begin); }

    std::int64_t n_columns_;
    Range rows_;
    std::vector<float> moments_;
    std::vector<double> own_;
};

// visit(rows, sizes) for all rows, as many at a time as their floats fit what row_sizes_memory_bytes promises: the rows, their moments, and the others' rows.
template <class Visit>
void for_some_rows(const Weight& original, const InputStatistics& inputs, SizeAbout about, ThreadPool& pool, Visit visit) {
    const std::int64_t n_rows = original.n_rows(), at_once = std::max<std::int64_t>(128, static_cast<std::int64_t>(row_sizes_memory_bytes / 3 / sizeof(float)) / original.n_columns());
    for (std::int64_t begin = 0; begin < n_rows; begin += at_once) {
        const Range rows{begin, std::min(n_rows, begin + at_once)};
        visit(rows, RowSizes(original, rows, inputs, about, pool));
    }
}

Weight with_float_rows_kept(const Weight& original, const Weight& rows, const InputStatistics& inputs, SizeAbout about, ThreadPool& pool) {
    auto values = row_floats(rows);
    const std::int64_t n = rows.n_columns();
    for_some_rows(original, inputs, about, pool, [&](Range some, const RowSizes& sizes) {
        const auto before = sizes.beside(rows);
        for (std::int64_t row = some.begin; row < some.end; ++row) {
            const float factor = sizes.factor(row, before);
            for (std::int64_t i = 0; i < n; ++i) values[static_cast<std::size_t>(row * n + i)] *= factor;
        }
    });
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

Weight with_coded_rows_kept(const Weight& original, const Weight& coded, const InputStatistics& inputs, SizeAbout about, ThreadPool& pool) {
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
    for (std::size_t i = 0; i < multiplied.size(); ++i) multiplied[i]->data = owned->numbers[i].bytes();
    Weight result = coded;
    result.store = codes;
    result.owner = owned;
    result.file_backed = false;
    for_some_rows(original, inputs, about, pool, [&](Range some, const RowSizes& sizes) {
        const auto before = sizes.beside(coded);
        for (RowNumbers& numbers : owned->numbers)
            for (std::int64_t row = some.begin; row < some.end; ++row) numbers.multiply(row, sizes.factor(row, before));
        // Scales are rounded to their type: a row keeps its old ones where that took it no nearer.
        const auto after = sizes.beside(result);
        for (RowNumbers& numbers : owned->numbers)
            for (std::int64_t row = some.begin; row < some.end; ++row)
                if (!sizes.nearer(row, after, before)) numbers.restore(row);
    });
    return result;
}

}  // namespace

std::vector<float> row_floats(const Weight& weight) { return some_rows(weight, {0, weight.n_rows()}); }

Weight with_row_sizes_kept(const Weight& original, const Weight& reduced, const InputStatistics& inputs, ThreadPool& pool, SizeAbout about) {
    if (inputs.gram.empty()) return reduced;
    if (reduced.plain() != nullptr) return with_float_rows_kept(original, reduced, inputs, about, pool);
    if (reduced.codes() != nullptr) return with_coded_rows_kept(original, reduced, inputs, about, pool);
    const Sparse& sparse = *reduced.sparse();
    const Weight kept = with_row_sizes_kept(original, densified(reduced), inputs, pool, about);
    return *make_sparse(kept, sparse.pattern, {sparse.bitmask.data.begin(), sparse.bitmask.data.end()});
}

}  // namespace skiff
