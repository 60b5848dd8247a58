#include "backend/cuda/page_table.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/rng.h"

namespace skiff::cuda {
namespace {

TEST(PageTable, SequencesHaveTheirOwnPages) {
    PageTable table(2, 200, 64);
    std::vector<PageCopy> copies;
    ASSERT_TRUE(table.append(0, 65, copies).ok());
    ASSERT_TRUE(table.append(1, 1, copies).ok());
    EXPECT_EQ(table.pages(0).size(), 2u);
    EXPECT_EQ(table.pages(1).size(), 1u);
    std::set<std::int32_t> pages(table.pages(0).begin(), table.pages(0).end());
    EXPECT_EQ(pages.count(table.pages(1)[0]), 0u);
    EXPECT_FALSE(table.append(0, 136, copies).ok());
    EXPECT_TRUE(table.append(0, 135, copies).ok());
    EXPECT_TRUE(copies.empty());
}

// A model of what the pages hold, under random appends, cuts and forks: a sequence must always find what it wrote.
TEST(PageTable, NobodyWritesIntoAnothersPages) {
    constexpr std::int64_t n_sequences = 4, capacity = 40, page = 8;
    PageTable table(n_sequences, capacity, page);
    Rng rng(3);
    std::map<std::int32_t, std::vector<int>> memory;
    std::vector<std::vector<int>> expected(n_sequences);
    int next = 1;
    for (int round = 0; round < 4000; ++round) {
        const auto s = static_cast<std::int64_t>(rng.below(n_sequences));
        auto& text = expected[static_cast<std::size_t>(s)];
        switch (rng.below(4)) {
            case 0:
            case 1: {
                const auto n = std::min<std::int64_t>(static_cast<std::int64_t>(rng.below(11)), capacity - table.length(s));
                std::vector<PageCopy> copies;
                ASSERT_TRUE(table.append(s, n, copies).ok());
                for (const PageCopy& copy : copies) memory[copy.to] = memory[copy.from];
                for (std::int64_t i = 0; i < n; ++i) {
                    const auto at = static_cast<std::int64_t>(text.size());
                    auto& cells = memory[table.pages(s)[static_cast<std::size_t>(at / page)]];
                    cells.resize(page);
                    cells[static_cast<std::size_t>(at % page)] = next;
                    text.push_back(next++);
                }
                break;
            }
            case 2: {
                const auto n = static_cast<std::int64_t>(rng.below(text.size() + 1));
                table.truncate(s, n);
                text.resize(static_cast<std::size_t>(n));
                break;
            }
            default: {
                const auto to = static_cast<std::int64_t>(rng.below(n_sequences));
                table.fork(s, to);
                expected[static_cast<std::size_t>(to)] = text;
            }
        }
        for (std::int64_t q = 0; q < n_sequences; ++q) {
            const auto& words = expected[static_cast<std::size_t>(q)];
            ASSERT_EQ(table.length(q), static_cast<std::int64_t>(words.size()));
            for (std::size_t i = 0; i < words.size(); ++i) ASSERT_EQ(memory[table.pages(q)[i / page]][i % page], words[i]) << "round " << round;
        }
    }
}

}  // namespace
}  // namespace skiff::cuda
