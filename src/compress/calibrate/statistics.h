// What the input of a linear operator looked like over the calibration text: all that a method may know of the data.
#pragma once

#include <cstdint>
#include <vector>

namespace skiff {

// What a method needs. Each holds what those before it hold.
enum class StatisticsNeed : std::uint8_t {
    none,     // the weight alone
    moments,  // per column: mean, mean absolute value, mean square, largest magnitude
    gram,     // also the second moments of all pairs of columns: GPTQ's and SparseGPT's Hessian is 2 * gram
};

// Of one input of n_columns entries. A weight that several operators use has the sums over all its uses.
struct InputStatistics {
    std::int64_t n_tokens = 0;
    std::vector<float> mean;           // (n_columns) E[x]
    std::vector<float> mean_absolute;  // (n_columns) E|x|
    std::vector<float> mean_square;    // (n_columns) E[x^2]
    std::vector<float> largest;        // (n_columns) max |x|
    std::vector<float> gram;           // (n_columns, n_columns) E[x x^T], symmetric and full; empty unless asked for
};

}  // namespace skiff
