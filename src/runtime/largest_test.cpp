// Against sorting everything.
#include "runtime/largest.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/rng.h"
#include "runtime/sampler.h"

namespace skiff {
namespace {

std::vector<float> random_row(std::size_t n, std::uint64_t seed, bool with_ties) {
    Rng rng(seed);
    std::vector<float> row(n);
    for (float& value : row) value = with_ties ? static_cast<float>(rng.below(9)) : 3 * rng.normal();
    if (n > 3) row[rng.below(n)] = -INFINITY;
    return row;
}

std::vector<ScoredToken> sorted(const std::vector<float>& row) {
    std::vector<ScoredToken> all;
    for (std::size_t i = 0; i < row.size(); ++i) all.push_back({static_cast<std::int32_t>(i), row[i]});
    std::sort(all.begin(), all.end(), comes_before);
    return all;
}

TEST(RowScan, FindsWhatSortingFinds) {
    RowScan scan;
    std::vector<ScoredToken> found;
    for (std::size_t n : {1u, 5u, 63u, 64u, 65u, 1000u, 5003u}) {
        for (bool ties : {false, true}) {
            const auto row = random_row(n, n, ties);
            const auto expected = sorted(row);
            ASSERT_EQ(*scan.read(row), expected[0].token);
            for (std::size_t limit : {1u, 3u, 40u, 200u, 6000u}) {
                for (float lowest : {-INFINITY, 1.0f, 50.0f}) {
                    scan.largest(lowest, limit, found);
                    std::size_t n_expected = 0;
                    while (n_expected < std::min(limit, n) && expected[n_expected].score >= lowest) ++n_expected;
                    ASSERT_EQ(found.size(), n_expected) << n << " " << limit << " " << lowest;
                    for (std::size_t i = 0; i < found.size(); ++i) ASSERT_EQ(found[i].token, expected[i].token);
                }
            }
        }
    }
    EXPECT_FALSE(scan.read({}).ok());
    EXPECT_FALSE(scan.read(std::vector<float>(70, -INFINITY)).ok());
    for (std::size_t where : {0u, 64u, 69u}) {
        std::vector<float> broken(70, 1.0f);
        broken[where] = NAN;
        EXPECT_NE(scan.read(broken).error().message.find("NaN (token " + std::to_string(where) + ")"), std::string::npos);
    }
}

// The nucleus is the shortest beginning of the sorted tokens that has top_p of the mass (Holtzman et al. 2020, equation 3).
TEST(Sampler, TheNucleusIsThatOfSorting) {
    for (std::uint64_t seed = 0; seed < 30; ++seed) {
        const auto row = random_row(seed % 3 == 0 ? 20 : 3000, seed, seed % 5 == 0);
        for (double top_p : {0.05, 0.5, 0.95, 0.9999}) {
            for (double temperature : {0.5, 1.0}) {
                Sampler sampler({.temperature = temperature, .top_k = 0, .top_p = top_p, .min_p = seed % 2 ? 0.001 : 0});
                const auto all = sorted(row);
                double total = 0, kept = 0, tempered = 0;
                std::size_t n = 0, n_allowed = 0;
                while (n_allowed < all.size() && (seed % 2 == 0 || all[n_allowed].score >= all[0].score + std::log(0.001))) ++n_allowed;
                auto weight = [&](std::size_t i) { return std::exp(static_cast<double>(all[i].score) - all[0].score); };
                for (std::size_t i = 0; i < n_allowed; ++i) total += weight(i);
                while (n < n_allowed && kept < top_p * total) kept += weight(n++);
                for (std::size_t i = 0; i < n; ++i) tempered += std::pow(weight(i), 1 / temperature);
                const auto chances = *sampler.distribution(row);
                ASSERT_NEAR(static_cast<double>(chances.size()), static_cast<double>(n), 1) << seed << " " << top_p;  // rounding at the edge
                for (const TokenChance& entry : chances)
                    ASSERT_NEAR(entry.chance, std::exp((static_cast<double>(row[static_cast<std::size_t>(entry.token)]) - all[0].score) / temperature) / tempered, 1e-3 * entry.chance + 1e-9);
            }
        }
    }
}

// Where a sampler wants no more than the largest logits, it draws from them what it draws from all, to the bit.
TEST(Sampler, TheLargestLogitsAreEnough) {
    int n_settled = 0;
    for (double temperature : {0.0, 0.8, 1.0})
        for (std::int64_t top_k : {0, 1, 40, 300})
            for (double top_p : {0.5, 0.95, 1.0})
                for (double min_p : {0.0, 0.05})
                    for (double penalty : {1.0, 1.3}) {
                        const SamplingOptions options{.temperature = temperature, .top_k = top_k, .top_p = top_p, .min_p = min_p, .repetition_penalty = penalty, .seed = 7};
                        Sampler all(options), largest(options);
                        const std::int64_t n = largest.n_wanted();
                        EXPECT_EQ(n > 0, penalty == 1.0 && (temperature == 0 || (top_k > 0 && top_k <= 256)));
                        if (n == 0) continue;
                        ++n_settled;
                        for (std::uint64_t seed = 0; seed < 20; ++seed) {
                            const auto row = random_row(seed % 4 == 0 ? 20 : 3000, seed, seed % 5 == 0);
                            auto few = sorted(row);
                            few.resize(std::min(few.size(), static_cast<std::size_t>(n)));
                            const Logits seen(few, row.size());
                            const auto expected = *all.distribution(row), found = *largest.distribution(seen);
                            ASSERT_EQ(expected.size(), found.size());
                            for (std::size_t i = 0; i < found.size(); ++i) {
                                ASSERT_EQ(found[i].token, expected[i].token);
                                ASSERT_EQ(found[i].chance, expected[i].chance);
                            }
                            ASSERT_EQ(*all.sample(row), *largest.sample(seen));
                            const std::vector<TokenChance> draft = {{few[0].token, 0.25}, {few.back().token, 0.75}};
                            ASSERT_EQ(*all.verify(row, few.back().token, draft), *largest.verify(seen, few.back().token, draft));
                        }
                    }
    EXPECT_GT(n_settled, 10);
}

}  // namespace
}  // namespace skiff
