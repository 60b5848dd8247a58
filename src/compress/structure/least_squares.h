// Making up for inputs that go: the columns that stay of a linear operator's weight W are solved anew, so that E ||W x - W' x'||^2 is least. With the second
// moments H of its inputs, W' = W H[:, kept] H[kept, kept]^-1, the optimal brain surgeon's update of whole columns (Hassibi & Stork 1993; for groups of
// columns Kurtic et al. 2023, ZipLM).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "compress/calibrate/statistics.h"

namespace skiff {

// What is solved: W and the moments of its input.
struct LeastSquares {
    std::span<const float> weight;  // (n_outputs, n_columns) f32
    const InputStatistics& inputs;  // with gram
    // With an intercept the means of the inputs that go are made up for by the operator's bias, and the moments are taken about the mean.
    enum class Intercept : std::uint8_t { no, yes } intercept = Intercept::no;
    double damping = 0.01;          // to the diagonal, times its mean; ten times more until the matrix is positive definite, at most 1
};

struct KeptColumns {
    std::vector<float> weight;  // in all columns; zeros in those that went // (n_outputs, n_columns) f32
    std::vector<float> bias;    // to be added to the operator's; empty without an intercept // (n_outputs) f32
};
// `kept` ascends. Nothing is changed where all columns stay.
Result<KeptColumns> solve_kept(const LeastSquares& problem, std::span<const std::int64_t> kept, ThreadPool& pool);

// Units of `unit_columns` columns each, in groups of equally many; of each group `n_kept` units stay.
struct UnitLayout {
    std::int64_t n_units, unit_columns = 1, n_groups = 1, n_kept;  // n_kept: of all
};
// Units taken away one by one, each time the one whose loss is least when all others make up for it: tr(W_u [H^-1]_uu^-1 W_u^T), with W and H^-1 kept up to
// date. The units that stay, ascending.
Result<std::vector<std::int64_t>> keep_by_least_squares(const LeastSquares& problem, const UnitLayout& layout, ThreadPool& pool, std::vector<std::int64_t>* gone_in_order = nullptr);

}  // namespace skiff
