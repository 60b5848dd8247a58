#include "corpus/window_sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

namespace skiff {
namespace {

TEST(PermuteIndex, IsAPermutationForEverySize) {
    for (std::uint64_t n : {1, 2, 3, 4, 5, 7, 16, 17, 63, 64, 65, 1000, 4096, 4097, 65537}) {
        for (std::uint64_t key : {0ull, 1ull, 0xFFFFFFFFFFFFFFFFull}) {
            std::vector<bool> seen(n);
            for (std::uint64_t i = 0; i < n; ++i) {
                const std::uint64_t image = permute_index(i, n, key);
                ASSERT_LT(image, n);
                ASSERT_FALSE(seen[image]) << n << " " << key << ": " << image << " twice";
                seen[image] = true;
            }
        }
    }
}

TEST(PermuteIndex, StaysInRangeForHugeSizes) {
    for (std::uint64_t n : {(std::uint64_t{1} << 32) + 1, (std::uint64_t{1} << 63) + 5, ~std::uint64_t{0}}) {
        std::set<std::uint64_t> images;
        for (std::uint64_t i = 0; i < 1000; ++i) {
            images.insert(permute_index(n - 1 - i, n, 7));
            ASSERT_LT(*images.rbegin(), n);
        }
        EXPECT_EQ(images.size(), 1000u);
    }
}

// Of random orders: the mean of |image - index| is n / 3, and the correlation of neighbours' images is 0.
TEST(PermuteIndex, LooksRandom) {
    constexpr std::uint64_t n = 10007;
    for (std::uint64_t key : {3, 4, 5}) {
        double distance = 0, correlation = 0;
        for (std::uint64_t i = 0; i < n; ++i) {
            const double x = static_cast<double>(permute_index(i, n, key)), y = static_cast<double>(permute_index((i + 1) % n, n, key));
            distance += std::abs(x - static_cast<double>(i));
            correlation += (x / n - 0.5) * (y / n - 0.5) * 12;
        }
        EXPECT_NEAR(distance / n, n / 3.0, n / 3.0 * 0.04);
        EXPECT_NEAR(correlation / n, 0, 0.04);
    }
}

// For each file size: the epochs' windows lie side by side, are all there once, and read only tokens of the file.
TEST(WindowSampler, EachEpochReadsEveryWindowOnce) {
    for (std::int64_t window : {1, 2, 7, 100}) {
        for (std::uint64_t n_tokens : {window + 1, window + 2, 2 * window, 2 * window + 1, 3 * window, 10 * window + 3, 57 * window + window / 2}) {
            if (n_tokens <= static_cast<std::uint64_t>(window)) continue;
            auto sampler = WindowSampler::create(n_tokens, window, 5);
            ASSERT_TRUE(sampler.ok());
            const std::uint64_t n = sampler->windows_per_epoch();
            ASSERT_GE(n, 1u);
            EXPECT_GE((n + 2) * static_cast<std::uint64_t>(window), n_tokens - 1) << "more than two windows are left out";
            for (std::uint64_t epoch = 0; epoch < 4; ++epoch) {
                std::vector<std::uint64_t> firsts;
                for (std::uint64_t i = 0; i < n; ++i) firsts.push_back(sampler->first_token(epoch * n + i));
                std::sort(firsts.begin(), firsts.end());
                EXPECT_LT(firsts.front(), static_cast<std::uint64_t>(window));
                EXPECT_LE(firsts.back() + static_cast<std::uint64_t>(window) + 1, n_tokens);
                for (std::size_t i = 1; i < firsts.size(); ++i) ASSERT_EQ(firsts[i], firsts[i - 1] + static_cast<std::uint64_t>(window));
            }
        }
    }
}

TEST(WindowSampler, OffsetAndOrderChangeWithEpochAndSeed) {
    WindowSampler a(100 * 64 + 1, 64, 1), again(100 * 64 + 1, 64, 1), b(100 * 64 + 1, 64, 2);
    const std::uint64_t n = a.windows_per_epoch();
    std::set<std::uint64_t> offsets;
    std::size_t n_same_order = 0, n_same_seed = 0;
    for (std::uint64_t epoch = 0; epoch < 40; ++epoch) offsets.insert(a.first_token(epoch * n) % 64);
    EXPECT_GT(offsets.size(), 20u);  // of 40 draws among 64
    for (std::uint64_t i = 0; i < n; ++i) {
        n_same_order += a.first_token(i) / 64 == a.first_token(n + i) / 64;
        n_same_seed += a.first_token(i) / 64 == b.first_token(i) / 64;
    }
    EXPECT_LT(n_same_order, 10u);
    EXPECT_LT(n_same_seed, 10u);
    // Any order of asking gives the same, as a run that is resumed asks.
    std::vector<std::uint64_t> forward, backward;
    for (std::uint64_t i = 0; i < 3 * n; ++i) forward.push_back(a.first_token(i));
    for (std::uint64_t i = 3 * n; i-- > 0;) backward.push_back(again.first_token(i));
    std::reverse(backward.begin(), backward.end());
    EXPECT_EQ(forward, backward);
}

// The numbers themselves are a contract: a run is resumed by a later version of the program. tests/golden/window_order.py gives them.
TEST(WindowSampler, GivesTheSameNumbersForever) {
    WindowSampler sampler(1000, 10, 42);
    EXPECT_EQ(sampler.windows_per_epoch(), 99u);
    std::vector<std::uint64_t> firsts;
    for (std::uint64_t i : {0, 1, 2, 98, 99, 100, 1000000}) firsts.push_back(sampler.first_token(i));
    EXPECT_EQ(firsts, (std::vector<std::uint64_t>{427, 897, 827, 787, 397, 947, 748}));
}

TEST(WindowSampler, RefusesTextsThatAreTooShort) {
    for (std::uint64_t n_tokens : {0, 1, 8}) {
        const auto sampler = WindowSampler::create(n_tokens, 8, 1);
        ASSERT_FALSE(sampler.ok());
        EXPECT_NE(sampler.error().message.find("a window of 8 tokens reads 8 + 1, but the text has only " + std::to_string(n_tokens)), std::string::npos);
    }
    EXPECT_FALSE(WindowSampler::create(100, 0, 1).ok());
    EXPECT_FALSE(WindowSampler::create(100, -5, 1).ok());
    auto smallest = WindowSampler::create(9, 8, 1);
    ASSERT_TRUE(smallest.ok());
    EXPECT_EQ(smallest->windows_per_epoch(), 1u);
    for (std::uint64_t i : {0, 1, 5}) EXPECT_EQ(smallest->first_token(i), 0u);
}

}  // namespace
}  // namespace skiff
