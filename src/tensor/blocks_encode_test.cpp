// Encoding against ggml's own quantizers on the same weights (tests/golden/gguf_encode.py): never a larger error, and the same bytes for Q8_0.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/mapped_file.h"
#include "base/rng.h"
#include "tensor/block_format.h"

namespace skiff {
namespace {

constexpr std::int64_t n_rows = 32, n_columns = 512;

std::string data_path(const std::string& name) { return std::string(SKIFF_TEST_DATA_DIR) + "/gguf/" + name; }

std::vector<BlockFormat> writable_formats() {
    std::vector<BlockFormat> found;
    for (const BlockFormat& format : block_format_table()) {
        if (format.encode != nullptr) found.push_back(format);
    }
    return found;
}

std::vector<std::byte> encode_row(const BlockFormat& format, const std::vector<float>& row, const float* importance = nullptr) {
    std::vector<std::byte> blocks(row.size() / static_cast<std::size_t>(format.block_size) * static_cast<std::size_t>(format.block_bytes));
    format.encode(row.data(), importance, static_cast<std::int64_t>(row.size()), blocks.data());
    return blocks;
}

std::vector<float> decode_all(const BlockFormat& format, const std::vector<std::byte>& blocks) {
    std::vector<float> values(blocks.size() / static_cast<std::size_t>(format.block_bytes) * static_cast<std::size_t>(format.block_size));
    format.decode(blocks.data(), static_cast<std::int64_t>(values.size()), values.data());
    return values;
}

class BlockEncode : public ::testing::TestWithParam<BlockFormat> {
protected:
    void SetUp() override {
        auto file = MappedFile::open(data_path("encode_weights.bin"));
        ASSERT_TRUE(file.ok());
        ASSERT_EQ((*file)->bytes().size(), static_cast<std::size_t>((n_rows + 1) * n_columns * 4));
        weights_.resize(n_rows * n_columns);
        importance_.resize(n_columns);
        std::memcpy(weights_.data(), (*file)->bytes().data(), weights_.size() * 4);
        std::memcpy(importance_.data(), (*file)->bytes().data() + weights_.size() * 4, importance_.size() * 4);
    }
    // Relative squared error over the first `rows` rows.
    double relative_error(std::int64_t rows, const float* importance) const {
        double error = 0, energy = 0;
        for (std::int64_t row = 0; row < rows; ++row) {
            std::vector<float> source(weights_.begin() + row * n_columns, weights_.begin() + (row + 1) * n_columns);
            std::vector<float> found = decode_all(GetParam(), encode_row(GetParam(), source, importance));
            for (std::size_t i = 0; i < source.size(); ++i) {
                const double weight = importance == nullptr ? 1.0 : importance[i], difference = double{found[i]} - source[i];
                error += weight * difference * difference;
                energy += weight * source[i] * source[i];
            }
        }
        return error / energy;
    }
    std::vector<float> weights_, importance_;  // (n_rows, n_columns) f32, (n_columns) f32
};

TEST_P(BlockEncode, ErrorIsAtMostGgmls) {
    auto golden = read_json_file(data_path("encode_errors.json"));
    ASSERT_TRUE(golden.ok());
    const Json& expected = (*golden)[GetParam().name];
    const double slack = GetParam().type == BlockType::q8_0 ? 1 + 1e-6 : 1.0;  // there both round the same way
    struct Case {
        const char* name;
        std::int64_t rows;
        const float* importance;
    };
    for (const Case& c : {Case{"gaussian", 16, nullptr}, Case{"all", 32, nullptr}, Case{"importance", 32, importance_.data()}}) {
        const double error = relative_error(c.rows, c.importance), limit = expected[c.name].number_or(0);
        RecordProperty(c.name, std::to_string(error / limit));
        EXPECT_LE(error, limit * slack) << c.name << ": " << error / limit << " of ggml's";
        EXPECT_GT(error, limit * 0.3) << c.name << " is too good to be true";
    }
}

TEST_P(BlockEncode, TakesEveryNumberWithoutHarm) {
    const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
    for (float special : {0.0f, -0.0f, 1e-45f, 1e-38f, 1e-8f, 65504.0f, 1e20f, 3e38f, -3e38f, infinity, -infinity, nan}) {
        std::vector<float> row(256, special);
        encode_row(GetParam(), row);
        row[3] = 1.0f;
        row[200] = -0.5f;
        auto values = decode_all(GetParam(), encode_row(GetParam(), row));
        if (special == 0.0f) {
            EXPECT_NEAR(values[3], 1.0f, 0.08f);
            EXPECT_EQ(values[64], 0.0f);
        }
    }
}

TEST_P(BlockEncode, ZerosStayZerosAndConstantsStayClose) {
    const BlockFormat& format = GetParam();
    std::vector<float> zeros(256, 0.0f), constant(256, 0.37f);
    for (float value : decode_all(format, encode_row(format, zeros))) EXPECT_EQ(value, 0.0f);
    for (float value : decode_all(format, encode_row(format, constant))) EXPECT_NEAR(value, 0.37f, 0.004f);
    for (float& value : constant) value = -0.37f;
    for (float value : decode_all(format, encode_row(format, constant))) EXPECT_NEAR(value, -0.37f, 0.004f);
}

TEST_P(BlockEncode, DecodedBlocksEncodeToTheSameNumbersNearly) {
    const BlockFormat& format = GetParam();
    Rng rng(5);
    std::vector<float> row(256);
    for (float& value : row) value = rng.normal();
    auto once = decode_all(format, encode_row(format, row));
    auto twice = decode_all(format, encode_row(format, once));
    double first = 0, second = 0;
    for (std::size_t i = 0; i < row.size(); ++i) {
        first += (once[i] - row[i]) * (once[i] - row[i]);
        second += (twice[i] - once[i]) * (twice[i] - once[i]);
    }
    EXPECT_LT(second, 0.2 * first);
}

std::string format_name(const ::testing::TestParamInfo<BlockFormat>& info) { return std::string(info.param.name); }
INSTANTIATE_TEST_SUITE_P(Table, BlockEncode, ::testing::ValuesIn(writable_formats()), format_name);

TEST(BlockEncodeQ8, SameBytesAsGgml) {
    auto weights = MappedFile::open(data_path("encode_weights.bin")), expected = MappedFile::open(data_path("encode_Q8_0.bin"));
    ASSERT_TRUE(weights.ok() && expected.ok());
    std::vector<float> source(n_rows * n_columns);
    std::memcpy(source.data(), (*weights)->bytes().data(), source.size() * 4);
    auto found = encode_row(block_format(BlockType::q8_0), source);
    ASSERT_EQ(found.size(), (*expected)->bytes().size());
    EXPECT_EQ(std::memcmp(found.data(), (*expected)->bytes().data(), found.size()), 0);
}

}  // namespace
}  // namespace skiff
