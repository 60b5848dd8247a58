// Decoding against vectors that tests/golden/gguf_blocks.py makes with the gguf package: equal to the bit.
#include "tensor/block_format.h"

#include <gtest/gtest.h>

#include <cctype>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "base/mapped_file.h"

namespace skiff {
namespace {

class BlockDecode : public ::testing::TestWithParam<BlockFormat> {};

TEST_P(BlockDecode, EqualsGolden) {
    const BlockFormat& format = GetParam();
    auto file = MappedFile::open(std::string(SKIFF_TEST_DATA_DIR) + "/gguf/blocks_" + std::string(format.name) + ".bin");
    ASSERT_TRUE(file.ok()) << file.error().to_string();
    auto bytes = (*file)->bytes();
    const std::size_t golden_bytes = static_cast<std::size_t>(format.block_bytes + 4 * format.block_size);  // blocks first, then floats
    ASSERT_EQ(bytes.size() % golden_bytes, 0u);
    const auto n_blocks = static_cast<std::int64_t>(bytes.size() / golden_bytes);
    ASSERT_GE(n_blocks, 6);
    const std::int64_t n = n_blocks * format.block_size;
    std::vector<float> expected(static_cast<std::size_t>(n)), found(static_cast<std::size_t>(n), -1.0f);
    std::memcpy(expected.data(), bytes.data() + n_blocks * format.block_bytes, expected.size() * 4);
    format.decode(bytes.data(), n, found.data());
    for (std::int64_t i = 0; i < n; ++i) {
        auto at = static_cast<std::size_t>(i);
        ASSERT_EQ(std::bit_cast<std::uint32_t>(found[at]), std::bit_cast<std::uint32_t>(expected[at]))
            << "block " << i / format.block_size << " weight " << i % format.block_size << ": " << found[at] << " for " << expected[at];
    }
}

std::string format_name(const ::testing::TestParamInfo<BlockFormat>& info) { return std::string(info.param.name); }
INSTANTIATE_TEST_SUITE_P(Table, BlockDecode, ::testing::ValuesIn(block_format_table().begin(), block_format_table().end()), format_name);

TEST(BlockFormatTable, LookupsFindEachRowAndNothingElse) {
    std::set<std::uint32_t> ids;
    for (const BlockFormat& format : block_format_table()) {
        EXPECT_EQ(&block_format(format.type), block_format_by_gguf_id(format.gguf_id));
        EXPECT_EQ(&block_format(format.type), block_format_by_name(format.name));
        ids.insert(format.gguf_id);
    }
    EXPECT_EQ(ids.size(), block_format_table().size());
    EXPECT_EQ(block_format_by_gguf_id(4), nullptr);
    EXPECT_EQ(block_format_by_gguf_id(0), nullptr);
    EXPECT_EQ(block_format_by_name("Q4_2"), nullptr);
}

}  // namespace
}  // namespace skiff
