// The largest of a row, in parts and on several threads: what sorting the whole row gives, equal scores by token.
#include "plan/top_logits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/rng.h"

namespace skiff {
namespace {

Result<std::vector<ScoredToken>> collect(const std::vector<float>& row, std::int64_t limit, std::size_t part, std::size_t n_lists) {
    std::vector<TopList> lists(n_lists);
    for (TopList& list : lists) list.begin(limit);
    const std::size_t share = (row.size() + n_lists - 1) / n_lists;
    for (std::size_t i = 0; i < n_lists; ++i)
        for (std::size_t begin = i * share; begin < std::min(row.size(), (i + 1) * share); begin += part)
            lists[i].add(static_cast<std::int32_t>(begin), std::span(row).subspan(begin, std::min(part, std::min(row.size(), (i + 1) * share) - begin)));
    std::vector<const TopList*> pointers;
    for (const TopList& list : lists) pointers.push_back(&list);
    return merge_top(pointers, limit);
}

TEST(TopLogits, AreThoseThatSortingGives) {
    Rng rng(1);
    for (std::size_t size : {1u, 63u, 64u, 65u, 1000u, 4099u})
        for (int kind : {0, 1, 2, 3}) {  // normal, many equal, rising, falling
            std::vector<float> row(size);
            for (std::size_t i = 0; i < size; ++i)
                row[i] = kind == 0 ? rng.normal() : kind == 1 ? static_cast<float>(rng.below(7)) : kind == 2 ? static_cast<float>(i) : -static_cast<float>(i);
            std::vector<ScoredToken> sorted;
            for (std::size_t i = 0; i < size; ++i) sorted.push_back({static_cast<std::int32_t>(i), row[i]});
            std::sort(sorted.begin(), sorted.end(), comes_before);
            for (std::int64_t limit : {1, 2, 40, 200})
                for (std::size_t part : {16u, 128u, 5000u})
                    for (std::size_t n_lists : {1u, 2u, 3u}) {
                        const auto found = collect(row, limit, part, n_lists);
                        ASSERT_TRUE(found.ok());
                        ASSERT_EQ(found->size(), std::min(size, static_cast<std::size_t>(limit)));
                        for (std::size_t i = 0; i < found->size(); ++i) ASSERT_EQ((*found)[i].token, sorted[i].token) << size << " " << kind << " " << limit << " " << part << " " << n_lists;
                    }
        }
}

TEST(TopLogits, DamageIsToldAsForAWholeRow) {
    std::vector<float> row(300, 1.0f);
    row[70] = row[250] = NAN;
    const auto nan = collect(row, 1, 64, 2);
    ASSERT_FALSE(nan.ok());
    EXPECT_NE(nan.error().message.find("token 70"), std::string::npos) << nan.error().message;
    for (float value : {-INFINITY, INFINITY}) {
        std::fill(row.begin(), row.end(), -INFINITY);
        row[20] = value;
        EXPECT_FALSE(collect(row, 4, 64, 2).ok());
    }
}

}  // namespace
}  // namespace skiff
