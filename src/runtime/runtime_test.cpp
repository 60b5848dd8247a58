#include <gtest/gtest.h>

#include <cmath>

#include "runtime/sampler.h"
#include "runtime/stop_matcher.h"

namespace skiff {
namespace {

TEST(Sampler, TemperatureZeroIsArgmaxAndTiesGoToTheFirst) {
    Sampler sampler({.temperature = 0});
    const float logits[] = {1, 3, 3, 2};
    EXPECT_EQ(*sampler.sample(logits), 1);
}

TEST(Sampler, FrequenciesFollowTheProbabilities) {
    SamplingOptions options{.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0, .seed = 3};
    Sampler sampler(options);
    const float logits[] = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
    int counts[3] = {};
    for (int i = 0; i < 20000; ++i) ++counts[*sampler.sample(logits)];
    EXPECT_NEAR(counts[0] / 20000.0, 0.5, 0.015);
    EXPECT_NEAR(counts[1] / 20000.0, 0.3, 0.015);
    EXPECT_NEAR(counts[2] / 20000.0, 0.2, 0.015);
}

TEST(Sampler, TruncationsDropTheTail) {
    const float logits[] = {std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
    auto seen = [&](SamplingOptions options) {
        options.temperature = 1;
        Sampler sampler(options);
        std::int32_t largest = 0;
        for (int i = 0; i < 3000; ++i) largest = std::max(largest, *sampler.sample(logits));
        return largest;
    };
    EXPECT_EQ(seen({.top_k = 2, .top_p = 1, .min_p = 0}), 1);
    EXPECT_EQ(seen({.top_k = 0, .top_p = 0.7, .min_p = 0}), 1);   // 0.5 + 0.3 reaches 0.7
    EXPECT_EQ(seen({.top_k = 0, .top_p = 1, .min_p = 0.25}), 2);  // 0.15 >= 0.25 * 0.5, 0.05 is not
    EXPECT_EQ(seen({.top_k = 0, .top_p = 1, .min_p = 0}), 3);
}

TEST(Sampler, PenaltiesMoveLogitsAsDefined) {
    const float logits[] = {2.0f, 1.9f, -1.0f};
    Sampler repeated({.temperature = 0, .repetition_penalty = 1.5});
    repeated.observe(0);  // 2 / 1.5 < 1.9
    EXPECT_EQ(*repeated.sample(logits), 1);
    Sampler present({.temperature = 0, .presence_penalty = 0.5});
    present.observe(0);
    EXPECT_EQ(*present.sample(logits), 1);
}

TEST(Sampler, SameSeedSameTokensAndNanIsAnError) {
    const float logits[] = {0.1f, 0.2f, 0.3f, 0.4f};
    Sampler a({.temperature = 1, .seed = 9}), b({.temperature = 1, .seed = 9});
    for (int i = 0; i < 50; ++i) EXPECT_EQ(*a.sample(logits), *b.sample(logits));
    const float broken[] = {0.1f, NAN};
    EXPECT_FALSE(a.sample(broken).ok());
    EXPECT_FALSE(check(SamplingOptions{.top_p = 0}).ok());
}

TEST(StopMatcher, HoldsBackWhatMayBecomeAStop) {
    StopMatcher matcher({"END", "\n\n"});
    EXPECT_EQ(matcher.push("one E"), "one ");
    EXPECT_EQ(matcher.push("N"), "");
    EXPECT_EQ(matcher.push("X"), "ENX");
    EXPECT_EQ(matcher.push("a\n"), "a");
    EXPECT_EQ(matcher.push("\nrest"), "");
    EXPECT_TRUE(matcher.stopped());
    EXPECT_EQ(matcher.finish(), "");
}

TEST(StopMatcher, GivesWhatWasHeldAtTheEnd) {
    StopMatcher matcher({"stop"});
    EXPECT_EQ(matcher.push("st"), "");
    EXPECT_EQ(matcher.finish(), "st");
}

}  // namespace
}  // namespace skiff
