#include "tensor/blocks_to_codes.h"

#include <gtest/gtest.h>

#include "base/rng.h"

namespace skiff {
namespace {

struct TypeName {
    std::string operator()(const ::testing::TestParamInfo<BlockFormat>& info) const { return std::string(info.param.name); }
};
class BlocksToCodes : public ::testing::TestWithParam<BlockFormat> {};

// Random bytes with scales that are finite: the two-byte numbers of every block, wherever the type has them, are made small ones.
Weight random_blocks(const BlockFormat& format, std::int64_t n_rows, std::int64_t n_columns) {
    Rng rng(4);
    auto owner = std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(n_rows * n_columns / format.block_size * format.block_bytes));
    for (auto& byte : *owner) byte = static_cast<std::byte>(rng.below(256));
    struct HalfAt {
        BlockType type;
        int offset;
    };
    constexpr HalfAt halves[] = {{BlockType::q4_0, 0},  {BlockType::q4_1, 0},   {BlockType::q4_1, 2}, {BlockType::q5_0, 0},  {BlockType::q5_1, 0},   {BlockType::q5_1, 2},
                                 {BlockType::q8_0, 0},  {BlockType::q2_k, 80},  {BlockType::q2_k, 82}, {BlockType::q3_k, 108}, {BlockType::q4_k, 0},   {BlockType::q4_k, 2},
                                 {BlockType::q5_k, 0},  {BlockType::q5_k, 2},   {BlockType::q6_k, 208}, {BlockType::iq4_nl, 0}, {BlockType::iq4_xs, 0}, {BlockType::tq1_0, 52},
                                 {BlockType::tq2_0, 64}};
    for (std::size_t block = 0; block < owner->size(); block += static_cast<std::size_t>(format.block_bytes))
        for (const auto& [type, offset] : halves)
            if (type == format.type) {
                const std::uint16_t half = float_to_f16(rng.normal());
                std::memcpy(owner->data() + block + offset, &half, 2);
            }
    return {{n_rows, n_columns}, Blocks{format.type, *owner}, owner};
}

TEST_P(BlocksToCodes, SameBits) {
    for (std::int64_t n_columns : {512, GetParam().block_size == 32 ? 96 : 256}) {
        const Weight weight = random_blocks(GetParam(), 7, n_columns);
        const auto codes = codes_of_blocks(weight);
        ASSERT_TRUE(codes.has_value());
        EXPECT_EQ(codes->codes()->scheme, scheme_of_blocks(GetParam().type));
        EXPECT_EQ(codes->stored_bytes(), static_cast<std::uint64_t>(7 * code_row_bytes(codes->codes()->scheme, n_columns).total()));
        std::vector<float> expected(static_cast<std::size_t>(n_columns)), decoded(expected);
        for (std::int64_t row = 0; row < 7; ++row) {
            weight.row(row, expected.data());
            codes->row(row, decoded.data());
            for (std::size_t i = 0; i < expected.size(); ++i) {
                if (GetParam().type == BlockType::mxfp4 && std::abs(expected[i]) < 0x1p-124f) continue;
                ASSERT_EQ(decoded[i], expected[i]) << row << " " << i;
            }
        }
    }
}

TEST_P(BlocksToCodes, SmallExponentsOfMxfp4) {
    if (GetParam().type != BlockType::mxfp4) return;
    auto owner = std::make_shared<std::vector<std::byte>>(3 * 17, std::byte{0x77});
    for (std::size_t exponent = 0; exponent < 3; ++exponent) (*owner)[exponent * 17] = static_cast<std::byte>(exponent);
    const Weight weight = {{3, 32}, Blocks{BlockType::mxfp4, *owner}, owner};
    const auto codes = codes_of_blocks(weight);
    float row[32], expected[32];
    for (int exponent = 0; exponent < 3; ++exponent) {
        codes->row(exponent, row);
        weight.row(exponent, expected);
        EXPECT_EQ(row[5], exponent == 0 ? 0 : expected[5]) << exponent;
    }
}

INSTANTIATE_TEST_SUITE_P(Table, BlocksToCodes, ::testing::ValuesIn(block_format_table().begin(), block_format_table().end()), TypeName());

TEST(BlocksToCodesOf, OtherWeightsAreLeftAlone) {
    EXPECT_FALSE(codes_of_blocks(make_float_weight({1, 32}, std::vector<float>(32))).has_value());
}

}  // namespace
}  // namespace skiff
