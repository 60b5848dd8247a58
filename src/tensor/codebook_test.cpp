#include "tensor/codebook.h"
#include "tensor/dtype.h"

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
        for (std::size_t code = 0; code < std::size_t{1} << codebook.bits; ++code) {
            EXPECT_LE(codebook.has(static_cast<int>(code)), code < codebook.levels.size()) << codebook.name;
        }
        if (codebook.is_float8()) {  // each finite number is what the type says
            const DTypeInfo& info = dtype_info(codebook.name == "e4m3" ? DType::f8_e4m3 : DType::f8_e5m2);
            for (int code = 0; code < 256; ++code) {
                const auto byte = static_cast<std::uint8_t>(code);
                float value = 0;
                info.to_float(&byte, 1, &value);
                EXPECT_EQ(codebook.has(code), std::isfinite(value)) << codebook.name << " " << code;
                if (codebook.has(code)) { EXPECT_EQ(codebook.levels[byte], value) << codebook.name << " " << code; }
            }
            continue;
        }
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
