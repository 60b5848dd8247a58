// What pruning leaves of a matrix: a bit for every unit (a weight, or a block of weights) and the values of the units that are kept.
// To the bit: docs/formats/sparse.md.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "tensor/scheme.h"
#include "tensor/tensor.h"

namespace skiff {

struct Weight;

// What is kept or dropped together, and what is promised of every row.
struct SparsePattern {
    std::int64_t unit_rows = 1, unit_columns = 1;
    std::int64_t n = 0, m = 0;  // at most n of every m neighbouring units of a row are kept; 0: any

    bool operator==(const SparsePattern&) const = default;
    std::string name() const;  // "single weights", "2:4", "4x1", "block16x32"
    std::int64_t n_unit_rows(std::int64_t n_rows) const { return (n_rows + unit_rows - 1) / unit_rows; }
    std::int64_t n_unit_columns(std::int64_t n_columns) const { return (n_columns + unit_columns - 1) / unit_columns; }
    std::int64_t unit_values() const { return unit_rows * unit_columns; }
    std::int64_t mask_row_bytes(std::int64_t n_columns) const { return (n_unit_columns(n_columns) + 7) / 8; }
};

// Kept units in order of rows of units, then of columns; each whole and row-major (what lies beyond the matrix is zero).
struct Sparse {
    SparsePattern pattern;
    Scheme scheme;           // floating, or codes of a scheme that has a code for zero (zero_code)
    TensorView bitmask;      // (n_unit_rows, ceil(n_unit_columns / 8)) u8, first unit in the lowest bit; bits behind the last are 0
    TensorView values;       // floating: (n_values) of scheme.dtype; codes: (ceil(n_values * bits / 8)) u8, one stream, first in the lowest bits
    TensorView scales = {};        // codes: (n_rows, n_groups), as Codes has them
    TensorView super_scales = {};  // relative scales: (n_rows, n_supers)
    std::span<const std::int64_t> begins;  // (n_unit_rows + 1): values in front of each row of units; follows from the bitmask

    bool keeps(std::int64_t unit_row, std::int64_t unit_column) const {
        return (std::to_integer<unsigned>(bitmask.data[static_cast<std::size_t>(unit_row * bitmask.shape[1] + unit_column / 8)]) >> (unit_column % 8) & 1) != 0;
    }
    std::int64_t n_values() const { return begins.empty() ? 0 : begins.back(); }
    std::uint64_t stored_bytes() const { return bitmask.data.size() + values.data.size() + scales.data.size() + super_scales.data.size(); }
};

// Few values that stand beside a quantized weight, listed by row: what a sparse term adds.
struct Outliers {
    TensorView values;   // (n) f32, f16 or bf16
    TensorView columns;  // (n) i32, ascending in each row
    TensorView rows;     // (n_rows + 1) i64: values in front of each row
};

// The code that stands for zero, or nothing where a scheme has none or it differs from group to group.
std::optional<int> zero_code(const Scheme& scheme);
Status sparse_defined_on(const Scheme& scheme);  // an error that says why weights of a scheme cannot be sparse

// Bytes of `values`.
std::int64_t sparse_value_bytes(const Scheme& scheme, std::int64_t n_values);

// Checks a bitmask against its pattern and shape, and counts: begins of a Sparse. For what comes from a file. Errors name the row.
Result<std::vector<std::int64_t>> sparse_begins(const SparsePattern& pattern, const TensorView& bitmask, std::int64_t n_rows, std::int64_t n_columns);
// Unit sizes, n and m are sensible.
Status check_pattern(const SparsePattern& pattern);
// Rows ascend, columns are within the matrix and ascend.
Status check_outliers(const Outliers& outliers, std::int64_t n_rows, std::int64_t n_columns);

// One row as floats. // target: (n_columns) f32
void decode_sparse_row(const Sparse& sparse, std::int64_t row, std::int64_t n_columns, float* target);
void decode_outlier_row(const Outliers& outliers, std::int64_t row, std::int64_t n_columns, float* target);
// The codes of a row with the code for zero where nothing is kept, and 1 where something is. `kept` may be null. // (n_columns) u8 each
void sparse_row_codes(const Sparse& sparse, std::int64_t row, std::int64_t n_columns, std::uint8_t* codes, std::uint8_t* kept);

// Keeps of a matrix (plain numbers, or codes of a scheme with a zero) what `bitmask` says, and forgets the rest. // bitmask as in Sparse
Result<Weight> make_sparse(const Weight& dense, const SparsePattern& pattern, std::vector<std::byte> bitmask);
// The same numbers with the zeros written out: plain, or codes.
Weight densified(const Weight& sparse);
// The bitmask of a weight's pattern with all units kept: identity.
std::vector<std::byte> full_bitmask(const SparsePattern& pattern, std::int64_t n_rows, std::int64_t n_columns);
// Makes a weight of these rows. // (n_rows + 1) begins
Weight make_outliers(Shape shape, DType dtype, const std::vector<float>& values, std::vector<std::int32_t> columns, std::vector<std::int64_t> rows);

}  // namespace skiff
