// Hashed weights: the hash is the one that is written down, every block of the bank is used as often as the others, and rows are what the definition says.
#include "tensor/hashed.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "base/rng.h"
#include "tensor/weight.h"

namespace skiff {
namespace {

constexpr const char* schemes[] = {"fp32", "bf16", "fp16", "w8", "w8g32", "w8g16", "w4g32", "w4g32r", "w8g32rs256", "w3g64", "w2g16", "w1g32", "w4g128"};

Weight random_bank(const BlockHash& hash, const char* scheme, std::uint64_t seed) {
    Rng rng(seed);
    const Shape shape = hash.bank_shape();
    std::vector<float> values(static_cast<std::size_t>(element_count(shape)));
    for (float& value : values) value = rng.normal();
    return *encode_nearest(make_float_weight(shape, values), *parse_scheme(scheme), ScaleRule::min_max);
}

std::vector<float> rows_of(const Weight& weight) {
    std::vector<float> values(static_cast<std::size_t>(element_count(weight.shape)));
    for (std::int64_t row = 0; row < weight.n_rows(); ++row) weight.row(row, values.data() + row * weight.n_columns());
    return values;
}

// Files are made by it: docs/formats/hashed.md has these very numbers.
TEST(Hashed, TheHashIsTheOneThatIsWrittenDown) {
    const auto blocks = bank_blocks({32, 256, 2, 7}, 1);
    std::string text;
    for (const BankBlock& block : blocks) text += (block.negative ? " -" : " +") + std::to_string(block.column);
    EXPECT_EQ(text, " +1 +3 +2 -5 +4 -0 +7 -6");
    // The definition once more, in the words of the page.
    const auto mix = [](std::uint64_t x) {
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
        x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
        return x ^ (x >> 31);
    };
    const std::uint64_t golden = 0x9e3779b97f4a7c15u;
    for (std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{7}, ~std::uint64_t{0}})
        for (std::uint64_t row : {0, 1, 300}) {
            const std::uint64_t n = 27, stream = mix(seed + (row + 1) * golden);
            std::vector<std::uint64_t> order(n);
            for (std::uint64_t j = 0; j < n; ++j) order[j] = j;
            for (std::uint64_t j = n - 1; j >= 1; --j) std::swap(order[j], order[mix(stream + (j + 1) * golden) % (j + 1)]);
            const auto found = bank_blocks({16 * 400, static_cast<std::int64_t>(n * 32), 4, seed}, static_cast<std::int64_t>(row));
            for (std::uint64_t j = 0; j < n; ++j) {
                EXPECT_EQ(found[j].column, static_cast<std::int32_t>(order[j]));
                EXPECT_EQ(found[j].negative, mix(stream + (n + j + 1) * golden) >> 63 == 1);
            }
        }
}

TEST(Hashed, EveryBlockOfTheBankIsUsedAsOftenAsTheOthersAndSignsAreEven) {
    const BlockHash hash = {16 * 24, 32 * 40, 4, 11};
    int n_negative = 0;
    for (std::int64_t row = 0; row < hash.n_block_rows(); ++row) {
        std::set<std::int32_t> seen;
        for (const BankBlock& block : bank_blocks(hash, row)) seen.insert(block.column), n_negative += block.negative;
        EXPECT_EQ(seen.size(), 40u);
        EXPECT_EQ(*seen.rbegin(), 39);
    }
    EXPECT_NEAR(n_negative, 24 * 40 / 2, 60);
    EXPECT_NE(bank_blocks(hash, 0), bank_blocks(hash, 1));
}

TEST(Hashed, RowsAreTheBlocksOfTheBankWithTheirSigns) {
    for (const char* scheme : schemes)
        for (std::int64_t n_rows : {5, 16, 40, 100})
            for (std::int64_t n_columns : {1, 32, 76, 300})
                for (std::int64_t shared : {1, 2, 3}) {
                    const BlockHash hash = {n_rows, n_columns, std::min(shared, (n_rows + 15) / 16), 5};
                    SCOPED_TRACE(std::string(scheme) + " " + std::to_string(n_rows) + " x " + std::to_string(n_columns) + " shared " + std::to_string(hash.shared));
                    const Weight bank = random_bank(hash, scheme, 3);
                    const auto weight = make_hashed(hash, bank);
                    ASSERT_TRUE(weight.ok()) << weight.error().to_string();
                    EXPECT_EQ(weight->shape, (Shape{n_rows, n_columns}));
                    EXPECT_EQ(weight->stored_bytes(), bank.stored_bytes() + 32);
                    const auto values = rows_of(*weight), blocks = rows_of(bank);
                    for (std::int64_t row = 0; row < n_rows; ++row) {
                        const auto places = bank_blocks(hash, row / 16);
                        for (std::int64_t column = 0; column < n_columns; ++column) {
                            const BankBlock& block = places[static_cast<std::size_t>(column / 32)];
                            const float stored = blocks[static_cast<std::size_t>((row / 16 / hash.shared * 16 + row % 16) * hash.n_bank_columns() + block.column * 32 + column % 32)];
                            ASSERT_EQ(values[static_cast<std::size_t>(row * n_columns + column)], block.negative ? -stored : stored) << row << ", " << column;
                        }
                    }
                    const Weight dense = written_out(*weight);
                    ASSERT_EQ(dense.plain() != nullptr, bank.plain() != nullptr);
                    ASSERT_EQ(rows_of(dense), values);
                }
}


TEST(Hashed, WhatCannotBeIsRefused) {
    const auto refusal = [](BlockHash hash, const char* scheme) {
        const auto made = make_hashed(hash, random_bank({64, 64, 2, 0}, scheme, 1));
        return made.ok() ? std::string("made") : made.error().to_string();
    };
    EXPECT_EQ(refusal({64, 64, 2, 0}, "bf16"), "made");
    EXPECT_NE(refusal({64, 64, 0, 0}, "bf16").find("expected 1 to 4"), std::string::npos);
    EXPECT_NE(refusal({64, 64, 5, 0}, "bf16").find("expected 1 to 4"), std::string::npos);
    EXPECT_NE(refusal({64, 64, -1, 0}, "bf16").find("expected 1 to 4"), std::string::npos);
    EXPECT_NE(refusal({16 * 1000, 64, 300, 0}, "bf16").find("expected 1 to 256"), std::string::npos);
    EXPECT_NE(refusal({0, 64, 1, 0}, "bf16").find("cannot be hashed"), std::string::npos);
    EXPECT_NE(refusal({64, -3, 1, 0}, "bf16").find("cannot be hashed"), std::string::npos);
    EXPECT_NE(refusal({std::int64_t{1} << 62, std::int64_t{1} << 62, 1, 0}, "bf16").find("cannot be hashed"), std::string::npos);
    EXPECT_NE(refusal({64, 96, 2, 0}, "bf16").find("its hash implies [32, 96]"), std::string::npos);
    for (const char* scheme : {"w4g32a", "n4g32r", "ternary", "k16g32", "w4g48"}) EXPECT_NE(refusal({64, 64, 2, 0}, scheme).find("symmetric integers"), std::string::npos) << scheme;
}

}  // namespace
}  // namespace skiff
