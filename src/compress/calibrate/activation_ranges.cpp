#include "compress/calibrate/activation_ranges.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace skiff {

void RangeObserver::add(std::span<const float> values) {
    for (float value : values) {
        if (!std::isfinite(value)) {
            ++n_not_finite_;
            continue;
        }
        least_ = n_values_ == 0 ? value : std::min(least_, value);
        most_ = n_values_ == 0 ? value : std::max(most_, value);
        ++n_values_;
        if (!(std::fabs(value) < limit_)) widen(std::fabs(value));
        const auto bin = static_cast<std::int64_t>((static_cast<double>(value) / static_cast<double>(limit_) + 1) * (n_bins / 2));
        ++counts_[static_cast<std::size_t>(std::clamp<std::int64_t>(bin, 0, n_bins - 1))];
    }
}

void RangeObserver::widen(float magnitude) {
    if (counts_.empty()) {
        counts_.assign(n_bins, 0);
        limit_ = std::ldexp(1.0f, std::max(-100, magnitude > 0 ? std::ilogb(magnitude) + 1 : -100));
    }
    for (; !(magnitude < limit_) && limit_ < 0x1p127f; limit_ *= 2) {
        std::vector<std::int64_t> wider(n_bins, 0);
        for (std::int64_t bin = 0; bin < n_bins; ++bin) wider[static_cast<std::size_t>(n_bins / 4 + bin / 2)] += counts_[static_cast<std::size_t>(bin)];
        counts_ = std::move(wider);
    }
}

float RangeObserver::quantile(double share) const {
    const double wanted = share * static_cast<double>(n_values_);
    double seen = 0;
    for (std::int64_t bin = 0; bin < n_bins; ++bin) {
        seen += static_cast<double>(counts_[static_cast<std::size_t>(bin)]);
        if (seen >= wanted) return static_cast<float>((static_cast<double>(bin + 1) / (n_bins / 2) - 1) * static_cast<double>(limit_));
    }
    return limit_;
}

float RangeObserver::least_error_limit(int bits) const {
    const double most = static_cast<double>(std::max(std::fabs(least_), std::fabs(most_))), n_levels = std::ldexp(1.0, bits - 1) - 1;
    double best = most, least = std::numeric_limits<double>::infinity();
    constexpr int n_steps = 200;
    for (int i = 1; i <= n_steps; ++i) {
        const double limit = most * i / n_steps, step = limit / n_levels;
        double error = 0;
        for (std::int64_t bin = 0; bin < n_bins; ++bin) {
            const auto count = static_cast<double>(counts_[static_cast<std::size_t>(bin)]);
            if (count == 0) continue;
            const double x = std::fabs((static_cast<double>(bin) + 0.5) / (n_bins / 2) - 1) * static_cast<double>(limit_), over = x - limit;
            error += count * (over > 0 ? over * over : step * step / 12);
        }
        if (!(error < least)) continue;
        least = error;
        best = limit;
    }
    return static_cast<float>(best);
}

Result<ActivationRange> RangeObserver::range(RangeRule rule, const RangeOptions& options) const {
    if (n_not_finite_ > 0) return corrupt(std::to_string(n_not_finite_) + " activations are NaN or infinite; the model itself gives them");
    if (n_values_ == 0) return usage_error("no activation was seen: a static range needs a calibration text");
    if (!(options.percentile > 0) || options.percentile > 100) return usage_error("a percentile is more than 0 and at most 100");
    if (options.bits < 2 || options.bits > 16) return usage_error("codes of activations have 2 to 16 bits");
    switch (rule) {
        case RangeRule::min_max: return ActivationRange{least_, most_};
        case RangeRule::percentile: {
            const double left_out = (1 - options.percentile / 100) / 2;
            const float bin = limit_ / (n_bins / 2);
            return ActivationRange{std::max(least_, quantile(left_out) - bin), std::min(most_, quantile(1 - left_out))};
        }
        case RangeRule::least_error: {
            const float limit = least_error_limit(options.bits);
            return ActivationRange{-limit, limit};
        }
    }
    return ActivationRange{};
}

}  // namespace skiff
