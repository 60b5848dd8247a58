// Sparse weights: what is kept comes back exactly, masks and lists of a file are checked, and targets keep what they say.
#include "tensor/sparse.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/rng.h"
#include "tensor/prune_target.h"
#include "tensor/weight.h"

namespace skiff {
namespace {

std::vector<float> normal_values(std::size_t n, std::uint64_t seed) {
    Rng rng(seed);
    std::vector<float> values(n);
    for (float& value : values) value = 0.02f * rng.normal();
    return values;
}

std::vector<float> magnitudes(const std::vector<float>& values) {
    std::vector<float> scores;
    for (float value : values) scores.push_back(std::fabs(value));
    return scores;
}

std::vector<float> all_rows(const Weight& weight) {
    std::vector<float> values(static_cast<std::size_t>(weight.n_rows() * weight.n_columns()));
    for (std::int64_t row = 0; row < weight.n_rows(); ++row) weight.row(row, values.data() + row * weight.n_columns());
    return values;
}

constexpr const char* targets[] = {"0%", "50%", "75%", "100%", "2:4", "4:8", "1:4", "4x1:50%", "1x4:50%", "block16x32:50%", "block8x3:25%", "1xchannel:50%", "channelx1:30%"};
constexpr const char* schemes[] = {"fp32", "bf16", "fp16", "w8", "w8g32", "w4g32", "w4g32r", "w3g16", "w2g64", "nf4", "ternary"};

TEST(Sparse, KeptValuesComeBackExactlyAndTheOthersAreZero) {
    for (const char* text : targets)
        for (const char* name : schemes)
            for (std::int64_t n_columns : {1, 33, 76, 128}) {
                const std::int64_t n_rows = 21;
                SCOPED_TRACE(std::string(text) + " " + name + " " + std::to_string(n_columns));
                const auto values = normal_values(static_cast<std::size_t>(n_rows * n_columns), 3);
                auto dense = encode_nearest(make_float_weight({n_rows, n_columns}, values), *parse_scheme(name), ScaleRule::min_max);
                ASSERT_TRUE(dense.ok());
                const PruneTarget target = parse_prune_target(text)->resolved(n_rows, n_columns);
                auto bitmask = choose_units(target, magnitudes(values), n_rows, n_columns);
                auto sparse = make_sparse(*dense, target.pattern, std::move(bitmask));
                ASSERT_TRUE(sparse.ok()) << sparse.error().to_string();
                const Sparse& store = *sparse->sparse();
                EXPECT_EQ(store.n_values(), target.n_kept_units(n_rows, n_columns) * target.pattern.unit_values());
                const auto before = all_rows(*dense), after = all_rows(*sparse), written_out = all_rows(densified(*sparse));
                for (std::int64_t row = 0; row < n_rows; ++row)
                    for (std::int64_t column = 0; column < n_columns; ++column) {
                        const auto at = static_cast<std::size_t>(row * n_columns + column);
                        const bool kept = store.keeps(row / target.pattern.unit_rows, column / target.pattern.unit_columns);
                        ASSERT_EQ(after[at], kept ? before[at] : 0.0f) << row << ", " << column;
                        ASSERT_EQ(written_out[at], after[at]);
                    }
            }
}

// At 50 % single weights of 8 bits take 5 bits instead of 8, of 4 bits 3 instead of 4.
TEST(Sparse, BytesAreThoseOfTheFormat) {
    const auto values = normal_values(64 * 256, 4);
    for (const auto& [name, text, bits] : {std::tuple{"w8", "50%", 5.0}, {"w4", "50%", 3.0}, {"w8", "2:4", 5.0}, {"w8", "block16x32:50%", 4.0 + 1.0 / 512}, {"bf16", "75%", 5.0}}) {
        auto dense = encode_nearest(make_float_weight({64, 256}, values), *parse_scheme(name), ScaleRule::min_max);
        const PruneTarget target = *parse_prune_target(text);
        auto sparse = make_sparse(*dense, target.pattern, choose_units(target, magnitudes(values), 64, 256));
        const Sparse& store = *sparse->sparse();
        EXPECT_EQ(static_cast<double>(store.bitmask.data.size() + store.values.data.size()) * 8, bits * 64 * 256) << name << ' ' << text;
        EXPECT_EQ(sparse->stored_bytes(), store.bitmask.data.size() + store.values.data.size() + store.scales.data.size());
    }
}

TEST(Sparse, MasksOfAFileAreChecked) {
    const auto begins = [](const SparsePattern& pattern, std::vector<std::byte> bits, Shape shape, std::int64_t n_rows, std::int64_t n_columns) {
        return sparse_begins(pattern, TensorView{DType::u8, std::move(shape), bits}, n_rows, n_columns);
    };
    const auto message = [](const auto& result) { return result.ok() ? std::string("ok") : result.error().message; };
    const std::byte all{255}, low{0x33};
    EXPECT_EQ((*begins({}, {low, low}, {2, 1}, 2, 8)), (std::vector<std::int64_t>{0, 4, 8}));
    EXPECT_NE(message(begins({}, {all}, {1, 1}, 1, 7)).find("behind the last"), std::string::npos);
    EXPECT_NE(message(begins({}, {all}, {1, 1}, 1, 9)).find("expected U8 [1, 2]"), std::string::npos);
    EXPECT_NE(message(begins({1, 1, 2, 4}, {std::byte{0x73}}, {1, 1}, 1, 8)).find("keeps 3 of the 4"), std::string::npos);
    EXPECT_TRUE(begins({1, 1, 2, 4}, {low}, {1, 1}, 1, 8).ok());
    EXPECT_NE(message(begins({0, 1, 0, 0}, {all}, {1, 1}, 1, 8)).find("is none"), std::string::npos);
    EXPECT_NE(message(begins({1, 1, 5, 4}, {all}, {1, 1}, 1, 8)).find("is none"), std::string::npos);
    EXPECT_NE(message(begins({1, 1, 1, 0}, {all}, {1, 1}, 1, 8)).find("is none"), std::string::npos);
}

TEST(Sparse, SchemesWithoutACommonZeroAreRefused) {
    for (const char* name : {"w4g32a", "n4g32r", "binary", "iq4nl"}) {
        const Status status = sparse_defined_on(*parse_scheme(name));
        ASSERT_FALSE(status.ok()) << name;
        EXPECT_NE(status.error().message.find("no code for zero"), std::string::npos);
    }
    for (const char* name : schemes) EXPECT_TRUE(sparse_defined_on(*parse_scheme(name)).ok()) << name;
}

TEST(Outliers, RowsComeBackAndHostileListsAreRefused) {
    const Weight weight = make_outliers({3, 10}, DType::f16, {1, 2, -3}, {0, 9, 4}, {0, 2, 2, 3});
    ASSERT_TRUE(check_outliers(*weight.outliers(), 3, 10).ok());
    EXPECT_EQ(all_rows(weight), (std::vector<float>{1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -3, 0, 0, 0, 0, 0}));
    const auto refused = [](std::vector<std::int32_t> columns, std::vector<std::int64_t> rows, std::int64_t n_rows = 3) {
        const Weight hostile = make_outliers({n_rows, 10}, DType::f32, {1, 2, 3}, std::move(columns), std::move(rows));
        return !check_outliers(*hostile.outliers(), n_rows, 10).ok();
    };
    EXPECT_FALSE(refused({0, 9, 4}, {0, 2, 2, 3}));
    EXPECT_TRUE(refused({0, 10, 4}, {0, 2, 2, 3}));  // a column behind the last
    EXPECT_TRUE(refused({0, -1, 4}, {0, 2, 2, 3}));
    EXPECT_TRUE(refused({5, 5, 4}, {0, 2, 2, 3}));   // twice
    EXPECT_TRUE(refused({0, 9, 4}, {0, 2, 1, 3}));   // rows that go back
    EXPECT_TRUE(refused({0, 9, 4}, {0, 2, 2, 4}));   // more than there are
    EXPECT_TRUE(refused({0, 9, 4}, {0, 2, 2, 2}));   // fewer
    EXPECT_TRUE(refused({0, 9, 4}, {1, 2, 2, 3}));
    EXPECT_TRUE(refused({0, 9, 4}, {0, 2, 3}));
    EXPECT_TRUE(refused({0, 9, 4}, {0, 2, 2, 3, 3}));
}

TEST(PruneTarget, NamesReadBack) {
    for (const char* text : {"50%", "62.5%", "2:4", "4:8", "4x1:50%", "block16x32:75%", "1xchannel:50%", "channelx1:10%"}) EXPECT_EQ(parse_prune_target(text)->name(), text);
    EXPECT_EQ(parse_prune_target("4x1")->name(), "4x1:50%");
    EXPECT_EQ(parse_prune_target("16x32:75%")->name(), "block16x32:75%");
    for (const char* text : {"", "50", "101%", "-1%", "nan%", "5:4", "0:4", "2:4:50%", "4x", "x1", "block", "4x1:", "4x1:50", "blockx", "99999999999x1"}) EXPECT_FALSE(parse_prune_target(text).ok()) << text;
}

TEST(PruneTarget, TheBestStayAndTheFirstOfEqualOnes) {
    const std::vector<float> scores = {1, 4, 2, 3, /**/ 5, 5, 5, 5};
    EXPECT_EQ(choose_units(*parse_prune_target("50%"), scores, 2, 4), (std::vector<std::byte>{std::byte{0b1010}, std::byte{0b0011}}));
    EXPECT_EQ(choose_units(*parse_prune_target("1:4"), scores, 2, 4), (std::vector<std::byte>{std::byte{0b0010}, std::byte{0b0001}}));
    PruneTarget layer = *parse_prune_target("50%");
    layer.scope = PruneTarget::Scope::layer;
    EXPECT_EQ(choose_units(layer, scores, 2, 4), (std::vector<std::byte>{std::byte{0}, std::byte{0b1111}}));
    EXPECT_EQ(choose_units(*parse_prune_target("2x1:50%"), scores, 2, 4), (std::vector<std::byte>{std::byte{0b1010}}));
    ThreadPool pool(3);
    const auto values = magnitudes(normal_values(40 * 100, 5));
    EXPECT_EQ(choose_units(*parse_prune_target("4x1:50%"), values, 40, 100), choose_units(*parse_prune_target("4x1:50%"), values, 40, 100, &pool));
}

}  // namespace
}  // namespace skiff
