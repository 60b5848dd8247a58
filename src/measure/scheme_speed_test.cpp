// The rules by which schemes are recommended, on invented figures; and that measuring gives figures that can be.
#include "measure/scheme_speed.h"

#include <gtest/gtest.h>

namespace skiff {
namespace {

SchemeSpeed speed(std::string name, double bits, double error, double gmacs) { return {std::move(name), bits, error, "kernel", "", 0, gmacs, 0}; }

TEST(SchemeSpeed, what_another_beats_in_all_is_avoided_and_the_reason_names_it) {
    const std::vector<SchemeSpeed> schemes = {speed("eight", 8, 0.005, 40), speed("four", 4.5, 0.08, 80), speed("better_four", 4.25, 0.07, 84), speed("slow_four", 4.0, 0.07, 20), speed("two", 2, 0.3, 150)};
    const auto verdicts = judge_schemes(schemes);
    EXPECT_TRUE(verdicts[0].use && verdicts[2].use && verdicts[3].use && verdicts[4].use);
    EXPECT_FALSE(verdicts[1].use);
    EXPECT_EQ(verdicts[1].reason, "better_four is smaller, more exact and faster");
}

TEST(SchemeSpeed, a_difference_within_three_percent_counts_as_equal) {
    const std::vector<SchemeSpeed> schemes = {speed("a", 4, 0.08, 100), speed("b", 4, 0.07, 98)};
    const auto verdicts = judge_schemes(schemes);
    EXPECT_EQ(verdicts[0].reason, "b is as small, more exact and as fast");
    EXPECT_TRUE(verdicts[1].use);
    EXPECT_EQ(best_scheme(schemes, 0.1)->scheme, "b");
}

TEST(SchemeSpeed, few_bits_that_decode_more_slowly_than_bf16_are_for_size_alone) {
    const std::vector<SchemeSpeed> schemes = {speed("bf16", 16, 0.001, 10), speed("looked_up", 3, 0.2, 6), speed("four", 4, 0.08, 40)};
    const auto verdicts = judge_schemes(schemes);
    EXPECT_TRUE(verdicts[0].use && verdicts[2].use);
    EXPECT_FALSE(verdicts[1].use);
    EXPECT_EQ(verdicts[1].reason, "bf16 decodes faster: it saves bytes alone");
}

TEST(SchemeSpeed, equals_do_not_condemn_each_other) {
    const std::vector<SchemeSpeed> schemes = {speed("a", 4, 0.08, 100), speed("b", 4, 0.08, 100)};
    for (const SchemeVerdict& verdict : judge_schemes(schemes)) EXPECT_TRUE(verdict.use);
}

TEST(SchemeSpeed, the_best_is_the_fastest_that_is_exact_enough) {
    const std::vector<SchemeSpeed> schemes = {speed("eight", 8, 0.005, 40), speed("four", 4.5, 0.07, 80), speed("two", 2, 0.3, 150)};
    EXPECT_EQ(best_scheme(schemes, 0.1)->scheme, "four");
    EXPECT_EQ(best_scheme(schemes, 0.01)->scheme, "eight");
    EXPECT_EQ(best_scheme(schemes, 0.001), nullptr);
}

TEST(SchemeSpeed, measuring_gives_kernel_error_and_speeds) {
    SchemeSpeedOptions options;
    options.schemes = {"w8", "w4g32"};
    options.weight_bytes = 1 << 20;
    const auto speeds = measure_schemes(options);
    ASSERT_TRUE(speeds.ok());
    ASSERT_EQ(speeds->size(), 2u);
    for (const SchemeSpeed& scheme : *speeds) {
        EXPECT_GT(scheme.decode_gmacs, 0);
        EXPECT_GT(scheme.prefill_gmacs, 0);
        EXPECT_FALSE(scheme.kernel.empty());
        EXPECT_NEAR(scheme.read_gbps / scheme.decode_gmacs, scheme.bits_per_weight / 8, 1e-6);
    }
    EXPECT_NEAR((*speeds)[1].relative_error, 0.081, 0.002);
    EXPECT_LT((*speeds)[0].relative_error, 0.01);
}

}  // namespace
}  // namespace skiff
