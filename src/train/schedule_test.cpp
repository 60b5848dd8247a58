#include <gtest/gtest.h>

#include "train/schedule.h"

namespace skiff::train {
namespace {

using Kind = Schedule::Kind;

TEST(LearningRate, WarmUpRisesAlongALineToThePeak) {
    for (const Kind kind : {Kind::constant, Kind::cosine, Kind::linear, Kind::wsd}) {
        const Schedule schedule{kind, 0.8, 0.1, 100, 4, 10};
        for (std::int64_t step = 0; step < 4; ++step) EXPECT_DOUBLE_EQ(learning_rate(schedule, step), 0.2 * static_cast<double>(step + 1));
        EXPECT_DOUBLE_EQ(learning_rate(schedule, 4), 0.8);
    }
}

TEST(LearningRate, WithoutWarmUpTheFirstStepHasThePeak) {
    for (const Kind kind : {Kind::constant, Kind::cosine, Kind::linear, Kind::wsd}) EXPECT_DOUBLE_EQ(learning_rate({kind, 0.5, 0, 10, 0, 2}, 0), 0.5);
}

TEST(LearningRate, CosineFallsToTheFloor) {
    const Schedule schedule{Kind::cosine, 1, 0.2, 110, 10, 0};
    EXPECT_NEAR(learning_rate(schedule, 60), 0.6, 1e-12);                                   // half way between 1 and 0.2
    EXPECT_NEAR(learning_rate(schedule, 10 + 25), 0.2 + 0.8 * 0.85355339059327373, 1e-12);  // (1 + cos 45 degrees) / 2
    EXPECT_NEAR(learning_rate(schedule, 110), 0.2, 1e-12);
    EXPECT_NEAR(learning_rate(schedule, 5000), 0.2, 1e-12);
    // The last step still moves something, however low the floor.
    EXPECT_GT(learning_rate({Kind::cosine, 1, 0, 110, 10, 0}, 109), 0);
    for (std::int64_t step = 11; step < 110; ++step) EXPECT_LT(learning_rate(schedule, step), learning_rate(schedule, step - 1));
}

TEST(LearningRate, LineFallsToTheFloor) {
    const Schedule schedule{Kind::linear, 1, 0.5, 30, 10, 0};
    EXPECT_DOUBLE_EQ(learning_rate(schedule, 15), 0.875);
    EXPECT_DOUBLE_EQ(learning_rate(schedule, 30), 0.5);
}

TEST(LearningRate, WsdIsConstantAndThenDecays) {
    const Schedule schedule{Kind::wsd, 1, 0.1, 100, 10, 20};
    for (std::int64_t step = 10; step <= 80; ++step) EXPECT_DOUBLE_EQ(learning_rate(schedule, step), 1);
    EXPECT_NEAR(learning_rate(schedule, 90), 0.55, 1e-12);
    EXPECT_NEAR(learning_rate(schedule, 99), 0.1 + 0.9 * 0.05, 1e-12);
    EXPECT_NEAR(learning_rate(schedule, 100), 0.1, 1e-12);
}

// A run that is made longer has done the same steps before the decay.
TEST(LearningRate, WsdBeforeItsDecayDoesNotDependOnTheLength) {
    const Schedule shorter{Kind::wsd, 1, 0, 50, 5, 10}, longer{Kind::wsd, 1, 0, 500, 5, 100};
    for (std::int64_t step = 0; step <= 40; ++step) EXPECT_DOUBLE_EQ(learning_rate(shorter, step), learning_rate(longer, step));
}

// The decay does not reach into the warm-up.
TEST(LearningRate, WsdWithADecayOfAllSteps) {
    const Schedule schedule{Kind::wsd, 1, 0, 20, 10, 20};
    EXPECT_DOUBLE_EQ(learning_rate(schedule, 9), 1);
    EXPECT_DOUBLE_EQ(learning_rate(schedule, 15), 0.5);
}

TEST(LearningRate, ConstantStays) {
    const Schedule schedule{Kind::constant, 0.3, 0, 20, 2, 0};
    EXPECT_DOUBLE_EQ(learning_rate(schedule, 3), 0.3);
    EXPECT_DOUBLE_EQ(learning_rate(schedule, 19), 0.3);
}

TEST(LearningRate, OneStep) {
    for (const Kind kind : {Kind::constant, Kind::cosine, Kind::linear, Kind::wsd}) EXPECT_DOUBLE_EQ(learning_rate({kind, 1, 0, 1, 1, 0}, 0), 1);
}

}  // namespace
}  // namespace skiff::train
