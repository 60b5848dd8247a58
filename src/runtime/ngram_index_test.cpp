#include "runtime/ngram_index.h"

#include <gtest/gtest.h>

#include "base/rng.h"

namespace skiff {
namespace {

NgramIndex index_of(const std::vector<std::int32_t>& tokens) {
    NgramIndex index;
    for (std::int32_t token : tokens) index.push(token);
    return index;
}

std::vector<std::int32_t> followed(const NgramIndex& index, std::size_t n) {
    std::vector<std::int32_t> tokens;
    if (auto match = index.find()) index.follow(*match, n, tokens);
    return tokens;
}

TEST(NgramIndex, FindsTheLatestPlaceOfTheLongestMatch) {
    EXPECT_FALSE(index_of({1, 2, 3, 4}).find());
    EXPECT_FALSE(index_of({7}).find());
    EXPECT_EQ(followed(index_of({1, 2, 9, 1, 2, 8, 1, 2}), 3), (std::vector<std::int32_t>{8, 1, 2}));
    // Three tokens that stood far back go before two that stood nearer.
    const auto index = index_of({5, 1, 2, 30, 31, 1, 2, 40, 41, 5, 1, 2});
    EXPECT_EQ(index.find()->length, 3u);
    EXPECT_EQ(followed(index, 2), (std::vector<std::int32_t>{30, 31}));
}

TEST(NgramIndex, GoesOnPeriodicallyWhereTheTextEnds) {
    EXPECT_EQ(followed(index_of({1, 2, 1, 2}), 5), (std::vector<std::int32_t>{1, 2, 1, 2, 1}));
    EXPECT_EQ(followed(index_of({4, 4, 4}), 3), (std::vector<std::int32_t>{4, 4, 4}));
}

// Against looking at every place, on texts long enough for the tables to grow several times.
TEST(NgramIndex, FindsNearlyWhatASearchFinds) {
    Rng rng(3);
    NgramIndex index;
    int n_there = 0, n_found = 0;
    std::vector<std::int32_t> text;
    for (int i = 0; i < 6000; ++i) {
        text.push_back(static_cast<std::int32_t>(rng.below(60)));
        index.push(text.back());
        if (i % 7 != 0 || i < 10) continue;
        bool there = false;
        for (std::size_t place = 2; place < text.size() && !there; ++place)
            there = text[place - 1] == text.back() && text[place - 2] == text[text.size() - 2];
        const auto match = index.find();
        if (match) {
            for (std::size_t k = 1; k <= match->length; ++k) ASSERT_EQ(text[match->next - k], text[text.size() - k]);
        }
        ASSERT_TRUE(there || !match);
        n_there += there;
        n_found += match.has_value();
    }
    EXPECT_GT(n_there, 300);
    EXPECT_GT(n_found, n_there * 3 / 4);  // the rest was overwritten by what hashes alike
    index.clear();
    EXPECT_FALSE(index.find());
}

}  // namespace
}  // namespace skiff
