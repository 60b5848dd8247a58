// Differences over windows, against what they are by definition.
#include <gtest/gtest.h>

#include "base/rng.h"
#include "eval/perplexity.h"

namespace skiff {
namespace {

TEST(Paired, TheWindowsAreTheSample) {
    // Three windows of two tokens: differences of the windows' means 1, 2 and 3.
    const std::vector<double> first = {3, 5, 8, 8, 1, 9}, second = {3, 3, 6, 6, 2, 2};
    const PairedFigure figure = paired_figure(first, second, 3);
    EXPECT_DOUBLE_EQ(figure.first, 34.0 / 6);
    EXPECT_DOUBLE_EQ(figure.second, 22.0 / 6);
    EXPECT_DOUBLE_EQ(figure.difference.value, 2);
    EXPECT_DOUBLE_EQ(figure.difference.stderr_, std::sqrt(1.0 / 3));
    EXPECT_NEAR(figure.interval, 4.302652729749462 * std::sqrt(1.0 / 3), 1e-12);
    EXPECT_FALSE(figure.differs());
    EXPECT_EQ(figure.to_json()["interval_95"].size(), 2u);
}

TEST(Paired, SmallDifferencesShowThoughWindowsDifferMuch) {
    Rng rng(9);
    constexpr std::int64_t n_windows = 64, size = 30;
    std::vector<double> first, second, other;
    for (std::int64_t window = 0; window < n_windows; ++window) {
        const double hard = std::exp(2 * rng.uniform());
        for (std::int64_t i = 0; i < size; ++i) {
            first.push_back(hard + 0.1 * rng.uniform());
            second.push_back(first.back() * 1.01 + 0.01 * rng.uniform());
            other.push_back(std::exp(2 * rng.uniform()));
        }
    }
    const PairedFigure paired = paired_figure(first, second, n_windows);
    EXPECT_TRUE(paired.differs());
    EXPECT_LT(paired.difference.value + paired.interval, 0);
    EXPECT_FALSE(paired_figure(first, first, n_windows).differs());
    EXPECT_EQ(paired_figure(first, first, n_windows).difference.value, 0);
    EXPECT_GT(paired_figure(first, other, n_windows).interval, 20 * paired.interval);  // windows that have nothing to do with each other
    EXPECT_FALSE(paired_figure(first, second, 1).differs());
}

}  // namespace
}  // namespace skiff
