// How much of a weight is to go and in which pattern, as users write it, and the choice of what stays by a score for every weight.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "tensor/sparse.h"

namespace skiff {

struct PruneTarget {
    SparsePattern pattern;  // unit sizes of 0: all rows, or all columns
    double sparsity = 0.5;  // share of units that go; of N:M: 1 - n/m
    // Where units compete: in their row of units (so that all rows keep as many, and threads have equal work), or in the whole matrix.
    enum class Scope : std::uint8_t { row, layer } scope = Scope::row;

    bool operator==(const PruneTarget&) const = default;
    std::string name() const;  // as parse_prune_target reads it: "50%", "2:4", "4x1:50%", "block16x32:75%"
    // With the unit sizes of a matrix. A row of one unit competes with the other rows.
    PruneTarget resolved(std::int64_t n_rows, std::int64_t n_columns) const;
    PruneTarget with_sparsity(double share) const;
    // Units that stay in a matrix: what choose_units() keeps, whatever the scores.
    std::int64_t n_kept_units(std::int64_t n_rows, std::int64_t n_columns) const;
};

// "50%" (single weights), "2:4" (2 of 4 inputs stay), "4x1:50%" or "block16x32:50%" (units of rows x columns that stay or go together), and
// Neural Compressor's "1xchannel" and "channelx1" (whole rows, whole columns). Without a share: 50 %.
Result<PruneTarget> parse_prune_target(std::string_view text);

// The mean score of each unit, over what of it lies in the matrix. // scores: (n_rows, n_columns) f32; (n_unit_rows, n_unit_columns) f32
std::vector<float> unit_means(const SparsePattern& pattern, std::span<const float> scores, std::int64_t n_rows, std::int64_t n_columns, ThreadPool* pool = nullptr);

// The bitmask of the units with the largest mean score; of equal ones the first. // scores: (n_rows, n_columns) f32
std::vector<std::byte> choose_units(const PruneTarget& target, std::span<const float> scores, std::int64_t n_rows, std::int64_t n_columns, ThreadPool* pool = nullptr);

}  // namespace skiff
