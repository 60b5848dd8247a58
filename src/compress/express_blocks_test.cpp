// Codes as GGUF blocks: each scheme takes the smallest type that holds it, and the blocks say the same numbers.
#include "compress/express_blocks.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"

namespace skiff {
namespace {

constexpr std::int64_t n_rows = 7;

Weight encoded(const std::string& scheme, std::int64_t n_columns = 512) {
    std::vector<float> values(static_cast<std::size_t>(n_rows * n_columns));
    Rng rng(11);
    for (float& value : values) value = 0.05f * static_cast<float>(rng.normal());
    auto parsed = parse_scheme(scheme);
    EXPECT_TRUE(parsed.ok()) << scheme;
    auto weight = encode_nearest(make_float_weight({n_rows, n_columns}, values), *parsed, ScaleRule::search);
    EXPECT_TRUE(weight.ok()) << scheme;
    return std::move(*weight);
}

struct Case {
    const char* scheme;
    BlockType type;
    Fit fit;
    std::int64_t n_columns = 512;
};
constexpr Case cases[] = {
    {"w4g32", BlockType::q4_0, Fit::exact},    {"w4g128", BlockType::q4_0, Fit::exact},    {"w4g32r", BlockType::q4_0, Fit::rounded}, {"w2g32r", BlockType::q4_0, Fit::rounded},
    {"iq4nl", BlockType::iq4_nl, Fit::exact},  {"w4g32a", BlockType::q4_1, Fit::rounded},  {"w5g32r", BlockType::q5_0, Fit::rounded}, {"w6g16rs256", BlockType::q6_k, Fit::rounded},
    {"w6g32r", BlockType::q6_k, Fit::rounded}, {"n4g32r", BlockType::q6_k, Fit::rounded},  {"n3g16t", BlockType::q6_k, Fit::rounded}, {"n2g16r", BlockType::q6_k, Fit::rounded},
    {"w8g32", BlockType::q8_0, Fit::lowered},  {"n3g32r", BlockType::q5_0, Fit::rounded},  {"n2g32r", BlockType::q5_0, Fit::rounded}, {"ternary", BlockType::q4_0, Fit::rounded},
    {"mxfp4", BlockType::q5_0, Fit::exact},   {"w4", BlockType::q4_0, Fit::exact},     {"w4g64", BlockType::q4_0, Fit::exact}, {"w6g256", BlockType::q6_k, Fit::exact},
    {"w8", BlockType::q8_0, Fit::lowered},
    {"n4g32r", BlockType::q8_0, Fit::rounded, 96},  // no whole blocks of 256
    {"w6g32r", BlockType::q8_0, Fit::rounded, 96},
};

class ExpressBlocks : public ::testing::TestWithParam<Case> {};

TEST_P(ExpressBlocks, SayTheSameNumbers) {
    const Case& expected = GetParam();
    const std::int64_t n_columns = expected.n_columns;
    const Weight weight = encoded(expected.scheme, n_columns);
    const auto type = smallest_block_of(weight);
    ASSERT_TRUE(type.has_value());
    EXPECT_EQ(*type, expected.type) << block_format(*type).name;
    // Whether a number happens to be one of half precision is chance; that nothing is called exact that is not, is checked below.
    const Fit fit = fit_of_codes(weight, *type);
    if (expected.fit == Fit::exact || expected.fit == Fit::lowered) { EXPECT_EQ(fit, expected.fit); }
    const BlockFormat& format = block_format(*type);
    std::vector<std::byte> bytes(static_cast<std::size_t>(n_columns / format.block_size * format.block_bytes));
    std::vector<float> of_codes(static_cast<std::size_t>(n_columns)), of_blocks(of_codes.size());
    for (std::int64_t row = 0; row < n_rows; ++row) {
        codes_row_to_blocks(weight, *type, row, bytes.data());
        format.decode(bytes.data(), n_columns, of_blocks.data());
        weight.row(row, of_codes.data());
        if (fit == Fit::exact) {
            EXPECT_EQ(of_codes, of_blocks);
        } else {
            double error = 0, sum = 0;
            for (std::size_t i = 0; i < of_codes.size(); ++i) error += std::pow(of_codes[i] - of_blocks[i], 2), sum += std::pow(of_codes[i], 2);
            EXPECT_LT(std::sqrt(error / sum), fit == Fit::lowered ? 3e-3 : 1e-2) << row;
        }
        if (*type == BlockType::q8_0)
            for (std::size_t i = 0; i < bytes.size(); ++i)
                if (i % 34 > 1) { EXPECT_NE(bytes[i], std::byte{0x80}); }
    }
}

INSTANTIATE_TEST_SUITE_P(, ExpressBlocks, ::testing::ValuesIn(cases), [](const auto& parameter) { return std::string(parameter.param.scheme) + "_" + std::to_string(parameter.param.n_columns); });

TEST(BlocksOfCodes, WhatNoBlockHolds) {
    for (const char* scheme : {"nf4", "n4g16t", "e4m3"}) {
        const auto type = smallest_block_of(encoded(scheme));
        EXPECT_EQ(type.has_value(), std::string(scheme) == "n4g16t") << scheme;
    }
    // Scales so small that half precision moves them: 2e-6 / 3810.
    std::vector<float> tiny(256, 1e-6f);
    auto weight = encode_nearest(make_float_weight({1, 256}, tiny), *parse_scheme("n4g32r"), ScaleRule::search);
    ASSERT_TRUE(weight.ok());
    EXPECT_FALSE(smallest_block_of(*weight).has_value());
}

}  // namespace
}  // namespace skiff
