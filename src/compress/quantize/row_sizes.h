// Outputs that keep their size. Rounding, or leaving weights out, so that E[(y - y')^2] is least for y = W x and y' = Q x makes y' a projection of y, smaller
// by the share that is lost; rows times E[y^2] / E[y y'] undo that (docs/adr/0024-size-of-outputs.md; scales that make codes unbiased so are EDEN's, Vargaftik et al. 2022).
#pragma once

#include <cstdint>
#include <vector>

#include "base/thread_pool.h"
#include "compress/calibrate/statistics.h"
#include "tensor/weight.h"

namespace skiff {

// The size of an output is its mean square, or its variance where a bias takes its mean.
enum class SizeAbout : std::uint8_t { zero, mean };

// The scales of each row, and its minimums, times the factor with which its output keeps its size; rows that no stored scale brings nearer stay as they are, and
// so do schemes whose scales take powers of two alone, and clusters. Rows of floats are multiplied themselves. // reduced: codes or floats, sparse or not, (n_rows, n_columns)
Weight with_row_sizes_kept(const Weight& original, const Weight& reduced, const InputStatistics& inputs, ThreadPool& pool, SizeAbout about = SizeAbout::zero);

// Rows are looked at some at a time: what that takes besides the weights, at most, but for rows of more than 16384 columns. Pruned weights are written out, and
// rows of floats are a copy.
constexpr std::uint64_t row_sizes_memory_bytes = std::uint64_t{24} << 20;

std::vector<float> row_floats(const Weight& weight);  // all values, row by row

}  // namespace skiff
