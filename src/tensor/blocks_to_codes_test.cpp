#include "tensor/blocks_to_codes.h"

#include <gtest/gtest.h>

#include "base/rng.h"

namespace skiff {
namespace {

// Blocks of random bytes (with finite scales) have the same values, to the bit, as the codes made of them.
TEST(BlocksToCodes, values_are_the_same_bits) {
    for (const BlockFormat& format : block_format_table()) {
        const std::int64_t n_rows = 5, n_columns = 3 * 256, n_blocks = n_columns / format.block_size;
        auto owner = std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(n_rows * n_blocks * format.block_bytes));
        Rng rng(7);
        for (auto& byte : *owner) byte = static_cast<std::byte>(rng.next());
        for (std::size_t block = 0; block < owner->size(); block += static_cast<std::size_t>(format.block_bytes)) (*owner)[block + 1] &= std::byte{0xbb};  // no infinity
        const Weight weight = {{n_rows, n_columns}, Blocks{format.type, *owner}, owner};
        const auto codes = codes_of_blocks(weight);
        const bool expected = format.type == BlockType::q4_0 || format.type == BlockType::q5_0 || format.type == BlockType::q8_0;
        ASSERT_EQ(codes.has_value(), expected) << format.name;
        if (!expected) continue;
        std::vector<float> a(static_cast<std::size_t>(n_columns)), b(a.size());
        for (std::int64_t row = 0; row < n_rows; ++row) {
            weight.row(row, a.data());
            codes->row(row, b.data());
            for (std::size_t i = 0; i < a.size(); ++i) ASSERT_EQ(std::bit_cast<std::uint32_t>(a[i]), std::bit_cast<std::uint32_t>(b[i])) << format.name << " row " << row << " column " << i;
        }
    }
    EXPECT_FALSE(codes_of_blocks(make_float_weight({1, 2}, {1, 2})).has_value());
}

}  // namespace
}  // namespace skiff
