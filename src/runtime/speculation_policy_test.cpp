// The policy against simulated machines and texts: it finds what pays, and loses next to nothing where nothing does.
#include "runtime/speculation_policy.h"

#include <gtest/gtest.h>

#include <cmath>

namespace skiff {
namespace {

struct FakeProposer final : Proposer {
    explicit FakeProposer(bool free) : free_(free) {}
    Status begin(const std::vector<std::int32_t>&, const SamplingOptions&) override { return {}; }
    void confirm(std::int32_t) override {}
    int evidence() override { return 0; }
    Status propose(int, Proposal&) override { return {}; }
    double first_guess(int) const override { return free_ ? 0.1 : 0.7; }
    bool is_free() const override { return free_; }
    bool free_;
};

struct World {
    double acceptance;                   // of each guess
    double column;                       // what one more column costs, in plain passes
    double guess;                        // what a guess costs, in plain passes
    double noise = 0.05;                 // of every time that the policy sees; the outcome is counted without it
};

TEST(SpeculationStats, AFewPassesAreNoSpeed) {
    SpeculationStats stats;
    stats.tokens = 40, stats.seconds = 2, stats.plain_seconds = 0.1;
    stats.passes = 19;
    EXPECT_EQ(stats.speed_up(), 0);
    stats.passes = 20;
    EXPECT_DOUBLE_EQ(stats.speed_up(), 2);
}

struct Outcome {
    double speed_up, tokens_per_pass;
};

// Generates n_tokens; the free proposer's unused guesses are watched, as TokenStream does.
Outcome simulate(SpeculationPolicy& policy, const World& world, int n_tokens, Rng& rng, bool free) {
    double seconds = 0;
    int tokens = 0, passes = 0;
    while (tokens < n_tokens) {
        const int k = policy.choose(0, 7);
        auto noisy = [&](double value) { return value * (1 + world.noise * rng.normal()); };
        const double guessing = noisy(k * world.guess), pass = noisy(1 + k * world.column);
        int accepted = 0;
        const int watched = k > 0 ? k : free ? 4 : 0;
        while (accepted < watched && rng.uniform() < world.acceptance) ++accepted;
        policy.count_guessing(k, guessing);
        policy.count_pass(k + 1, pass);
        const int given = k > 0 ? accepted + 1 : 1;
        policy.count_tokens(given, k > 0);
        if (watched > 0) policy.count_verdict(0, watched, accepted);
        tokens += given;
        ++passes;
        seconds += 1 + k * (world.guess + world.column);
    }
    return {tokens / seconds, static_cast<double>(tokens) / passes};
}

// The best that a fixed number of guesses reaches.
double best_fixed(const World& world) {
    double best = 1;
    for (int k = 1; k <= 7; ++k) {
        double tokens = 0;
        for (int i = 0; i <= k; ++i) tokens += std::pow(world.acceptance, i);
        best = std::max(best, tokens / (1 + k * (world.column + world.guess)));
    }
    return best;
}

struct PolicyCase {
    const char* name;
    bool free;
    World world;
};

class Policy : public ::testing::TestWithParam<PolicyCase> {};

TEST_P(Policy, ComesNearTheBestAndNeverLosesMuch) {
    const PolicyCase& c = GetParam();
    const double best = best_fixed(c.world);
    FakeProposer proposer(c.free);
    double sum = 0;
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
        Rng rng(seed);
        SpeculationPolicy policy(0, proposer);
        const double speed_up = simulate(policy, c.world, 1000, rng, c.free).speed_up;
        sum += speed_up;
        EXPECT_GT(speed_up, 0.97) << seed;
    }
    EXPECT_GT(sum / 20, best > 1.1 ? 1 + 0.85 * (best - 1) : 0.98) << "best " << best;
}

INSTANTIATE_TEST_SUITE_P(Speculation, Policy,
                         ::testing::Values(PolicyCase{"free_columns_copy", true, {0.95, 0.02, 0}}, PolicyCase{"half_right", true, {0.5, 0.1, 0}},
                                         PolicyCase{"nothing_matches", true, {0.0, 0.1, 0}}, PolicyCase{"dear_columns", true, {0.6, 1.0, 0}},
                                         PolicyCase{"dear_columns_copy", true, {0.95, 0.5, 0}}, PolicyCase{"good_draft", false, {0.8, 0.05, 0.1}},
                                         PolicyCase{"bad_draft", false, {0.1, 0.1, 0.2}}, PolicyCase{"slow_draft", false, {0.8, 0.05, 0.9}},
                                         PolicyCase{"noisy_neighbour", false, {0.1, 0.1, 0.2, 0.3}}),
                         [](const auto& instance) { return std::string(instance.param.name); });

TEST(SpeculationPolicy, FollowsTheTextWhenItChanges) {
    for (bool free : {true, false}) {
        FakeProposer proposer(free);
        SpeculationPolicy policy(0, proposer);
        Rng rng(1);
        EXPECT_GT(simulate(policy, {0.95, 0.03, 0.02}, 1000, rng, free).tokens_per_pass, 4);
        EXPECT_LT(simulate(policy, {0.0, 0.2, 0.02}, 1000, rng, free).tokens_per_pass, 1.05);
        const double again = simulate(policy, {0.95, 0.03, 0.02}, 3000, rng, free).tokens_per_pass;
        EXPECT_GT(again, 3) << (free ? "watched" : "tried again");
    }
}

TEST(SpeculationPolicy, AlwaysMeansAlways) {
    FakeProposer proposer(true);
    SpeculationPolicy policy(3, proposer);
    EXPECT_EQ(policy.choose(0, 7), 3);
    EXPECT_EQ(policy.choose(0, 2), 2);
    EXPECT_EQ(policy.choose(-1, 7), 0);
}

}  // namespace
}  // namespace skiff
