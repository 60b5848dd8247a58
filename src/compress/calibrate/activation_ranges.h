// Ranges of activations that are fixed beforehand, for codes with a static scale: from what was seen over the calibration text.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"

namespace skiff {

struct ActivationRange {
    float low = 0, high = 0;
};

enum class RangeRule : std::uint8_t {
    min_max,      // the extremes
    percentile,   // all but the given share of the values, half of it at each end
    least_error,  // symmetric: the limit at which clipping and the steps of the codes together lose least of the squares
};

struct RangeOptions {
    double percentile = 99.99;
    int bits = 8;
};

// A histogram that grows with what it sees: bins of equal width around zero, whose width doubles when a value lies outside. The order of the values does not
// matter but for that.
class RangeObserver {
public:
    void add(std::span<const float> values);
    std::int64_t n_values() const { return n_values_; }
    // An error where nothing was seen, or something that is not finite.
    Result<ActivationRange> range(RangeRule rule, const RangeOptions& options = {}) const;

private:
    static constexpr std::int64_t n_bins = 8192;
    void widen(float magnitude);
    float quantile(double share) const;  // the upper end of the bin that holds it
    float least_error_limit(int bits) const;

    std::vector<std::int64_t> counts_;  // (n_bins) over [-limit, limit)
    float limit_ = 0;                   // a power of two
    float least_ = 0, most_ = 0;
    std::int64_t n_values_ = 0, n_not_finite_ = 0;
};

}  // namespace skiff
