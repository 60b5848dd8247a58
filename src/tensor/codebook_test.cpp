#include "tensor/codebook.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace skiff {
namespace {

TEST(Codebook, TablesFitTheirBitsAndAreFoundByName) {
    std::set<std::string_view> names;
    for (const auto& codebook : codebooks()) {
        EXPECT_TRUE(names.insert(codebook.name).second) << codebook.name;
        EXPECT_EQ(find_codebook(codebook.name), &codebook);
        EXPECT_GE(codebook.levels.size(), std::size_t{2});
        EXPECT_LE(codebook.levels.size(), std::size_t{1} << codebook.bits) << codebook.name;
        for (float level : codebook.levels) EXPECT_TRUE(std::isfinite(level));
        // Products of int8 are exact for every table but NF4's and that of bitsandbytes' FP4, whose levels are 1 to 192 times the least.
        EXPECT_EQ(codebook.integral(), codebook.name != "nf4" && codebook.name != "fp4") << codebook.name;
        if (codebook.name != "iq4nl") {
            const auto [low, high] = std::minmax_element(codebook.levels.begin(), codebook.levels.end());
            EXPECT_LE(*high - *low, 128) << codebook.name;
        }
    }
    EXPECT_EQ(find_codebook("n5"), nullptr);
    EXPECT_EQ(find_codebook(""), nullptr);
}

}  // namespace
}  // namespace skiff
