#include "compress/quantize/pruned_weights.h"

#include <algorithm>
#include <array>
#include <bit>

#include "compress/calibrate/walk.h"

namespace skiff {
namespace {

// Fewer zeros than this are what weights happen to have, and a form of their own is worth at least a fifth of the bytes.
constexpr double fewest_zeros = 0.2, most_bytes = 0.8;
// In the order in which they are preferred: what promises more is read faster.
constexpr std::array<SparsePattern, 3> patterns = {SparsePattern{16, 32, 0, 0}, SparsePattern{1, 1, 2, 4}, SparsePattern{1, 1, 0, 0}};

std::int64_t n_zeros(const Weight& rows) {
    std::vector<float> values(static_cast<std::size_t>(rows.n_columns()));
    std::int64_t n = 0;
    for (std::int64_t row = 0; row < rows.n_rows(); ++row) {
        rows.row(row, values.data());
        n += std::count(values.begin(), values.end(), 0.0f);
    }
    return n;
}

}  // namespace

std::vector<std::byte> kept_units(const Weight& rows, const SparsePattern& pattern) {
    if (const Sparse* sparse = rows.sparse()) return {sparse->bitmask.data.begin(), sparse->bitmask.data.end()};
    const std::int64_t n_columns = rows.n_columns(), row_bytes = pattern.mask_row_bytes(n_columns);
    std::vector<std::byte> bitmask(static_cast<std::size_t>(pattern.n_unit_rows(rows.n_rows()) * row_bytes));
    std::vector<float> values(static_cast<std::size_t>(n_columns));
    for (std::int64_t row = 0; row < rows.n_rows(); ++row) {
        rows.row(row, values.data());
        std::byte* bits = bitmask.data() + row / pattern.unit_rows * row_bytes;
        for (std::int64_t column = 0; column < n_columns; ++column) {
            const std::int64_t unit = column / pattern.unit_columns;
            if (values[static_cast<std::size_t>(column)] != 0) bits[unit / 8] |= static_cast<std::byte>(1u << (unit % 8));
        }
    }
    return bitmask;
}

std::int64_t n_kept_values(const std::vector<std::byte>& bitmask, const SparsePattern& pattern) {
    std::int64_t n = 0;
    for (const std::byte byte : bitmask) n += std::popcount(std::to_integer<unsigned>(byte));
    return n * pattern.unit_values();
}

std::optional<SparsePattern> pattern_of_zeros(const Weight& rows, const Scheme& scheme) {
    const std::int64_t n_all = element_count(rows.shape);
    if (rows.shape.size() != 2 || static_cast<double>(n_zeros(rows)) < fewest_zeros * static_cast<double>(n_all)) return std::nullopt;
    auto fewest = static_cast<std::uint64_t>(most_bytes * static_cast<double>(rows.n_rows() * packed_row_bytes(scheme.bits, rows.n_columns())));
    std::optional<SparsePattern> best;
    for (const SparsePattern& pattern : patterns) {
        const auto bitmask = kept_units(rows, pattern);
        const TensorView view{DType::u8, {pattern.n_unit_rows(rows.n_rows()), pattern.mask_row_bytes(rows.n_columns())}, bitmask};
        if (!sparse_begins(pattern, view, rows.n_rows(), rows.n_columns()).ok()) continue;  // more than n of m
        const std::uint64_t bytes = bitmask.size() + static_cast<std::uint64_t>(sparse_value_bytes(scheme, n_kept_values(bitmask, pattern)));
        if (bytes >= fewest) continue;
        fewest = bytes;
        best = pattern;
    }
    return best;
}

Result<Weight> with_kept_units(const Weight& now, const SparsePattern& pattern, const std::vector<std::byte>& bitmask, ThreadPool& pool) {
    if (now.sparse() != nullptr) return now;
    return make_sparse(now.plain() != nullptr || now.codes() != nullptr ? now : as_floats(now, pool), pattern, bitmask);
}

}  // namespace skiff
