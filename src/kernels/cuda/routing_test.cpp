#include "kernels/cuda/routing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace skiff::cuda {
namespace {

TEST(CudaRouting, order_of_experts) {
    const std::vector<float> rising = {-INFINITY, -3e38f, -2.5f, -1e-40f, 0, 1e-40f, 1, 2.5f, 3e38f, INFINITY, NAN};
    for (std::size_t i = 0; i < rising.size(); ++i) {
        const std::uint64_t order = expert_order(rising[i], 200);
        EXPECT_EQ(expert_of(order), 200);
        if (!std::isnan(rising[i])) EXPECT_EQ(logit_of(order), rising[i]);
        else EXPECT_TRUE(std::isnan(logit_of(order)));
        EXPECT_GT(expert_order(rising[i], 7), order);  // of equal ones the lower number
        EXPECT_NE(order, 0u);
        for (std::size_t j = 0; j < i; ++j) EXPECT_GT(order, expert_order(rising[j], 3)) << rising[i] << " " << rising[j];
    }
    EXPECT_GT(expert_order(-0.0f, 3), expert_order(0.0f, 4));  // zeros are equal
    EXPECT_EQ(expert_order(-NAN, 3), expert_order(NAN, 3));
}

TEST(CudaRouting, places_of_experts) {
    std::uint32_t words[expert_words] = {};
    const std::vector<int> members = {0, 5, 31, 32, 100, 255};
    for (int member : members) words[member / 32] |= 1u << member % 32;
    for (int expert = 0; expert < static_cast<int>(max_routed_experts); ++expert) {
        const auto at = std::lower_bound(members.begin(), members.end(), expert);
        EXPECT_EQ(has_expert(words, expert), at != members.end() && *at == expert) << expert;
        EXPECT_EQ(place_of_expert(words, expert), at - members.begin()) << expert;
    }
}

}  // namespace
}  // namespace skiff::cuda
