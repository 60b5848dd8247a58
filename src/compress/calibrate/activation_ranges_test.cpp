#include "compress/calibrate/activation_ranges.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/rng.h"

namespace skiff {
namespace {

std::vector<float> normals(std::size_t n, float outlier) {
    Rng rng(7);
    std::vector<float> values(n);
    for (float& value : values) value = rng.normal();
    values[n / 3] = outlier;
    return values;
}

TEST(ActivationRanges, EachRuleDoesWhatItSays) {
    const auto values = normals(100'000, 40);
    RangeObserver observer;
    for (std::size_t begin = 0; begin < values.size(); begin += 777) observer.add(std::span(values).subspan(begin, std::min<std::size_t>(777, values.size() - begin)));
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    const auto extremes = observer.range(RangeRule::min_max), most_values = observer.range(RangeRule::percentile, {.percentile = 99}), best = observer.range(RangeRule::least_error);
    ASSERT_TRUE(extremes.ok() && most_values.ok() && best.ok());
    EXPECT_EQ(extremes->low, *least);
    EXPECT_EQ(extremes->high, 40.0f);
    EXPECT_EQ(extremes->high, *most);
    const float bin = 64.0f / 4096;  // the outlier made bins this wide
    EXPECT_NEAR(most_values->low, -2.576f, 0.03f + bin);
    EXPECT_NEAR(most_values->high, 2.576f, 0.03f + bin);
    // What is claimed to lose least loses less than the extremes and than limits a little to either side.
    const auto loss = [&](float limit, int bits) {
        const double step = static_cast<double>(limit) / (std::ldexp(1.0, bits - 1) - 1);
        double sum = 0;
        for (float value : values) {
            const double level = std::clamp(std::nearbyint(static_cast<double>(value) / step), -(std::ldexp(1.0, bits - 1) - 1), std::ldexp(1.0, bits - 1) - 1);
            sum += std::pow(static_cast<double>(value) - level * step, 2);
        }
        return sum;
    };
    for (int bits : {4, 8}) {
        const float limit = observer.range(RangeRule::least_error, {.bits = bits})->high;
        EXPECT_LT(loss(limit, bits), loss(40, bits)) << bits;
        EXPECT_LT(loss(limit, bits), 1.02 * loss(limit * 0.8f, bits)) << bits;
        EXPECT_LT(loss(limit, bits), 1.02 * loss(limit * 1.25f, bits)) << bits;
    }
    EXPECT_LT(observer.range(RangeRule::least_error, {.bits = 4})->high, 0.5f * observer.range(RangeRule::least_error, {.bits = 8})->high);
}

TEST(ActivationRanges, TheOrderOfValuesDoesNotMatter) {
    auto values = normals(5000, -300);
    RangeObserver forwards, backwards;
    forwards.add(values);
    std::reverse(values.begin(), values.end());
    backwards.add(values);
    for (const RangeRule rule : {RangeRule::min_max, RangeRule::percentile, RangeRule::least_error}) {
        EXPECT_EQ(forwards.range(rule)->low, backwards.range(rule)->low);
        EXPECT_EQ(forwards.range(rule)->high, backwards.range(rule)->high);
    }
}

TEST(ActivationRanges, NothingNothingFiniteAndOneValue) {
    RangeObserver nothing, bad, zeros;
    EXPECT_EQ(nothing.range(RangeRule::min_max).error().code, ErrorCode::usage);
    const float values[] = {1, std::nanf(""), 2};
    bad.add(values);
    EXPECT_EQ(bad.range(RangeRule::min_max).error().code, ErrorCode::corrupt);
    const float zero[] = {0, 0, 0};
    zeros.add(zero);
    for (const RangeRule rule : {RangeRule::min_max, RangeRule::percentile, RangeRule::least_error}) {
        ASSERT_TRUE(zeros.range(rule).ok());
        EXPECT_EQ(zeros.range(rule)->high, 0.0f);
    }
    EXPECT_FALSE(zeros.range(RangeRule::percentile, {.percentile = 0}).ok());
    EXPECT_FALSE(zeros.range(RangeRule::least_error, {.bits = 1}).ok());
}

}  // namespace
}  // namespace skiff
