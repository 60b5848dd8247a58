// Sums over the values that a session's taps see, added up where the values are: what a calibration wants of them is smaller than they are.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace skiff {

struct ColumnSums {
    std::int64_t n_tokens = 0;
    std::vector<double> sum, absolute, square;  // (n_columns) of x, |x|, x^2
    std::vector<float> largest;                 // (n_columns) of |x|
    std::vector<float> gram;                    // (n_columns, n_columns) of x^T x, at and right of the diagonal; or empty
};

class TapSums {
public:
    virtual ~TapSums() = default;
    enum class Pairs : std::uint8_t { left_out, added };
    // Adds what the last run's tokens made of the value.
    virtual Status add(const std::string& tap, Pairs pairs) = 0;
    // What was added so far; afterwards nothing was.
    virtual Result<ColumnSums> take(const std::string& tap) = 0;
};

}  // namespace skiff
