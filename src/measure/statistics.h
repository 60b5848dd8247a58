// Means with their standard errors, and percentiles.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace skiff {

struct Estimate {
    double value = 0;
    double stderr_ = 0;  // of the mean: sd with n - 1, over sqrt(n); 0 for fewer than two values
};

// Mean and its standard error, in two passes.
Estimate mean_of(std::span<const double> values);

// Share of `hits` among `n`, with the error of a sample proportion: sqrt(p (1 - p) / (n - 1)).
Estimate share_of_hits(std::int64_t hits, std::int64_t n);

// exp of an estimate, the error carried by the derivative (delta method).
Estimate exp_of(const Estimate& logarithm);

// Half the width of the 95 % interval around a mean of n values, in standard errors: the 0.975 quantile of Student's t with n - 1 degrees of freedom.
// 0 for fewer than two values.
double interval_95(std::int64_t n);

// The q-quantile (0 to 1) of any values, interpolated linearly between order statistics. 0 for none.
double quantile(std::vector<double> values, double q);

}  // namespace skiff
