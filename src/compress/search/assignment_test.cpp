// The solver against all assignments, where there are few.
#include "compress/search/assignment.h"

#include <gtest/gtest.h>

#include <limits>

#include "base/rng.h"

namespace skiff {
namespace {

// Units whose larger choices cost less, but for some noise, as measurements do.
std::vector<UnitChoices> random_units(std::size_t n_units, std::size_t n_choices, Rng& rng) {
    std::vector<UnitChoices> units(n_units);
    for (UnitChoices& unit : units) {
        const std::uint64_t size = 1000 + rng.below(4) * 777;
        const double weight = std::exp(2 * rng.uniform());
        for (std::size_t i = 0; i < n_choices; ++i)
            unit.push_back({size * (i + 2) + rng.below(3) * 64, weight * std::exp(-1.3 * static_cast<double>(i)) * (0.8 + 0.4 * rng.uniform())});
    }
    return units;
}

double least_of_all(const std::vector<UnitChoices>& units, std::uint64_t budget) {
    double least = std::numeric_limits<double>::infinity();
    std::vector<std::size_t> chosen(units.size(), 0);
    while (true) {
        if (bytes_of(units, chosen) <= budget) least = std::min(least, cost_of(units, chosen));
        std::size_t u = 0;
        while (u < units.size() && ++chosen[u] == units[u].size()) chosen[u++] = 0;
        if (u == units.size()) return least;
    }
}

TEST(Assignment, IsTheCheapestOfAll) {
    Rng rng(5);
    for (int round = 0; round < 40; ++round) {
        const auto units = random_units(6, 4, rng);
        std::uint64_t smallest = 0, largest = 0;
        for (const UnitChoices& unit : units) {
            smallest += unit.front().bytes;
            largest += unit.back().bytes;
        }
        const std::uint64_t budget = smallest + 200 + static_cast<std::uint64_t>(static_cast<double>(largest - smallest) * rng.uniform());
        auto chosen = cheapest_choices(units, budget);
        ASSERT_TRUE(chosen.ok());
        EXPECT_LE(bytes_of(units, *chosen), budget);
        EXPECT_NEAR(cost_of(units, *chosen), least_of_all(units, budget), 1e-12) << round;
    }
}

TEST(Assignment, ManyUnitsFinishAndFewStatesStillKeepTheBudget) {
    Rng rng(6);
    const auto units = random_units(120, 8, rng);
    std::uint64_t budget = 0;
    for (const UnitChoices& unit : units) budget += unit[3].bytes;
    auto exact = cheapest_choices(units, budget), rough = cheapest_choices(units, budget, 50);
    ASSERT_TRUE(exact.ok() && rough.ok());
    EXPECT_LE(bytes_of(units, *exact), budget);
    EXPECT_LE(bytes_of(units, *rough), budget);
    EXPECT_LE(cost_of(units, *exact), cost_of(units, *rough));
    EXPECT_LE(cost_of(units, *rough), 1.02 * cost_of(units, *exact));
    std::vector<std::size_t> uniform(units.size(), 3);
    EXPECT_LT(cost_of(units, *exact), 0.95 * cost_of(units, uniform));
}

TEST(Assignment, SaysWhatIsTooLittleAndTakesAllThereIs) {
    const std::vector<UnitChoices> units = {{{100, 2.0}, {200, 1.0}}, {{50, 3.0}, {80, 0.5}}};
    auto refused = cheapest_choices(units, 149);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, ErrorCode::usage);
    EXPECT_NE(refused.error().message.find("150"), std::string::npos);
    EXPECT_EQ(*cheapest_choices(units, 150), (std::vector<std::size_t>{0, 0}));
    EXPECT_EQ(*cheapest_choices(units, 180), (std::vector<std::size_t>{0, 1}));
    EXPECT_EQ(*cheapest_choices(units, 1'000'000), (std::vector<std::size_t>{1, 1}));
}

}  // namespace
}  // namespace skiff
