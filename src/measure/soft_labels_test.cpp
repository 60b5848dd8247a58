#include "measure/soft_labels.h"

#include <gtest/gtest.h>

#include <cmath>

namespace skiff {
namespace {

// The textbook case: of the logits 100, 10, 1 nothing but the first is left at T = 1; at T = 60 all three say something.
TEST(SoftLabels, ATemperatureShowsWhatTheTeacherKnowsBesideItsFirstChoice) {
    const float logits[] = {100, 10, 1};
    const double expected[][4] = {{1, 1, 0, 0}, {60, 0.707, 0.158, 0.136}};
    for (const auto& row : expected) {
        const auto p = softened(logits, row[0]);
        for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(p[i], row[i + 1], 5e-4) << "T " << row[0];
    }
    EXPECT_NEAR(entropy_of(softened(logits, 1)), 0, 1e-12);
    EXPECT_NEAR(entropy_of(softened(logits, 1e9)), std::log(3.0), 1e-6);
}

TEST(SoftLabels, TheLikeliestComeFirst) {
    const double p[] = {0.1, 0.3, 0.3, 0.2, 0.1};
    const auto top = likeliest(p, 4);
    ASSERT_EQ(top.size(), 4u);
    EXPECT_EQ(top[0].token, 1);
    EXPECT_EQ(top[1].token, 2);
    EXPECT_EQ(top[2].token, 3);
    EXPECT_EQ(top[3].token, 0);
    EXPECT_EQ(top[2].probability, 0.2);
    EXPECT_EQ(likeliest(p, 9).size(), 5u);
}

}  // namespace
}  // namespace skiff
