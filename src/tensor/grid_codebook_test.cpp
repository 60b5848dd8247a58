// Codebook grids and relative scales: errors on Gaussian weights that are known from a dense search, and every edge of the numbers.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/rng.h"
#include "tensor/weight.h"

namespace skiff {
namespace {

std::vector<float> normal_values(std::size_t n, std::uint64_t seed, float scale = 0.02f) {
    Rng rng(seed);
    std::vector<float> values(n);
    for (float& value : values) value = scale * rng.normal();
    return values;
}

// A scheme of each codebook, in groups of 32.
std::vector<Scheme> codebook_schemes() {
    std::vector<Scheme> schemes;
    for (const auto& codebook : codebooks()) schemes.push_back(*parse_scheme(std::string(codebook.name) + "g32"));
    schemes.push_back(*parse_scheme("mxfp4"));
    return schemes;
}

double squared_error(const Grid& grid, const std::vector<float>& group, const GroupParams& params, const std::vector<float>& importance = {}) {
    double error = 0;
    for (std::size_t i = 0; i < group.size(); ++i) {
        const int code = grid.round(group[i], params);
        EXPECT_GE(code, 0);
        EXPECT_LT(code, grid.n_codes());
        const double difference = static_cast<double>(group[i]) - static_cast<double>(grid.value(code, params));
        error += (importance.empty() ? 1.0 : static_cast<double>(importance[i])) * difference * difference;
    }
    return error;
}

TEST(CodebookGrid, RoundsToTheNearestLevel) {
    Rng rng(1);
    for (const Scheme& scheme : codebook_schemes()) {
        auto grid = make_grid(scheme, ScaleRule::search);
        EXPECT_EQ(grid->n_codes(), static_cast<int>(scheme.codebook->levels.size()));
        for (float scale : {0.37f, -0.021f, 3e-7f}) {
            std::vector<float> values(61);
            for (float& value : values) value = 40 * scale * rng.normal() / (scheme.codebook->integral() ? 1 : 30);
            std::vector<std::uint8_t> codes(values.size());
            grid->round_group(values, {scale, 0, 0}, codes.data());
            for (std::size_t i = 0; i < values.size(); ++i) {
                float least = std::numeric_limits<float>::infinity();
                for (float level : scheme.codebook->levels) least = std::min(least, std::fabs(level * scale - values[i]));
                const float own = std::fabs(grid->value(codes[i], {scale, 0, 0}) - values[i]);
                ASSERT_LE(own, least * 1.00001f + 1e-12f) << scheme.name() << " " << values[i] / scale;
                ASSERT_EQ(grid->round(values[i], {scale, 0, 0}), codes[i]);
            }
        }
    }
}

TEST(CodebookGrid, SearchIsNeverWorseThanMinMax) {
    Rng rng(3);
    for (const Scheme& scheme : codebook_schemes()) {
        auto plain = make_grid(scheme, ScaleRule::min_max), search = make_grid(scheme, ScaleRule::search);
        double plain_sum = 0, search_sum = 0;
        for (int trial = 0; trial < 300; ++trial) {
            const std::size_t n = 1 + rng.below(140);
            auto group = normal_values(n, rng.next(), std::ldexp(1.0f, static_cast<int>(rng.below(12)) - 6));
            if (trial % 5 == 0) group[rng.below(n)] *= 20;
            std::vector<float> importance;
            if (trial % 2) {
                importance = normal_values(n, rng.next(), 1);
                for (float& weight : importance) weight *= weight;
            }
            const double before = squared_error(*plain, group, plain->fit(group, importance), importance);
            const double after = squared_error(*search, group, search->fit(group, importance), importance);
            ASSERT_LE(after, before * (1 + 1e-5)) << scheme.name() << " trial " << trial;
            plain_sum += before;
            search_sum += after;
        }
        EXPECT_LT(search_sum, plain_sum) << scheme.name();
    }
}

TEST(CodebookGrid, SearchIsCloseToADenseScan) {
    for (Scheme scheme : codebook_schemes()) {
        if (scheme.codebook->is_float8()) continue;  // its steps follow the size of a weight: of very many scales some are lucky, none is right
        if (scheme.scale_dtype == DType::f16) scheme.scale_dtype = DType::f32;
        auto grid = make_grid(scheme, ScaleRule::search);
        const bool powers_of_two = scheme.scale_dtype == DType::f8_e8m0;
        double found = 0, dense = 0;
        for (std::uint64_t seed = 0; seed < 60; ++seed) {
            const auto group = normal_values(32, seed);
            found += squared_error(*grid, group, grid->fit(group, {}));
            double best = std::numeric_limits<double>::infinity();
            float reach = 0;
            for (float level : scheme.codebook->levels) reach = std::max(reach, std::fabs(level));
            for (int step = 1; step <= 800; ++step)
                for (float sign : {1.0f, -1.0f}) {
                    const float scale = sign * 0.1f * static_cast<float>(step) / 800 / reach;
                    if (powers_of_two && (sign < 0 || step > 20)) continue;
                    best = std::min(best, squared_error(*grid, group, {powers_of_two ? std::ldexp(1.0f, -step) : scale, 0, 0}));
                }
            dense += best;
        }
        EXPECT_LT(found, dense * 1.01) << scheme.name();
    }
}

TEST(CodebookGrid, ErrorsOfGaussianWeights) {
    // Root mean square errors relative to the weights'. Those of n4, n3, n2 and b2 were found by a dense search over 20,000 groups, those of
    // FP8, clusters, nf4, ternary, binary and n4g32t by this one, those of the other tables of scales by Lloyd's iteration; the bound is 1 %.
    constexpr struct {
        const char* name;
        double error;
    } known[] = {{"n4g32", 0.0730},  {"n4g32r", 0.0730}, {"n3g32r", 0.1520}, {"n2g16r", 0.2810},  {"n2g32r", 0.3080}, {"n2g64r", 0.3245},
                 {"iq4nl", 0.0732},  {"nf4", 0.0827},    {"mxfp4", 0.1117},  {"ternary", 0.4326}, {"binary", 0.6004}, {"w4g32r", 0.0810},
                 {"w3g32r", 0.1626}, {"w5g32r", 0.0402}, {"w6g32r", 0.0199}, {"w2g32r", 0.3317}, {"n4g16t", 0.0692}, {"n3g16t", 0.1387},
                 {"n2g16t", 0.2840}, {"n4g32t", 0.0776}, {"b2g16r", 0.3102}, {"b2g32r", 0.3272},
                 {"e4m3", 0.0262},   {"e5m2", 0.0516},   {"k4", 0.3424},     {"k16", 0.0956},    {"k16tensor", 0.0974}, {"k64tensor", 0.0253}, {"k256tensor", 0.0063}};
    const std::int64_t n_rows = 48, n_columns = 4096;
    const auto values = normal_values(static_cast<std::size_t>(n_rows * n_columns), 4, 1);
    const Weight source = make_float_weight({n_rows, n_columns}, values);
    std::vector<float> row(static_cast<std::size_t>(n_columns));
    for (const auto& [name, expected] : known) {
        auto encoded = encode_nearest(source, *parse_scheme(name), ScaleRule::search);
        ASSERT_TRUE(encoded.ok()) << name;
        double error = 0, power = 0;
        for (std::int64_t r = 0; r < n_rows; ++r) {
            encoded->row(r, row.data());
            for (std::int64_t c = 0; c < n_columns; ++c) {
                const double x = static_cast<double>(values[static_cast<std::size_t>(r * n_columns + c)]);
                error += std::pow(static_cast<double>(row[static_cast<std::size_t>(c)]) - x, 2);
                power += x * x;
            }
        }
        EXPECT_NEAR(std::sqrt(error / power), expected, expected * 0.01) << name;
    }
}

TEST(CodebookGrid, ZeroAndConstantGroups) {
    for (const Scheme& scheme : codebook_schemes())
        for (ScaleRule rule : {ScaleRule::min_max, ScaleRule::search}) {
            auto grid = make_grid(scheme, rule);
            const GroupParams empty = grid->fit(std::vector<float>(32, 0.0f), {});
            EXPECT_EQ(grid->value(grid->round(0, empty), empty), 0) << scheme.name();
            if (rule == ScaleRule::min_max) continue;
            for (float constant : {0.375f, -0.375f, 1.0f, -3.0f}) {
                const GroupParams params = grid->fit(std::vector<float>(32, constant), {});
                EXPECT_NEAR(grid->value(grid->round(constant, params), params), constant, std::fabs(constant) * 0x1p-11f) << scheme.name();
            }
        }
}

TEST(CodebookGrid, NoInputGivesNaN) {
    const float extremes[] = {std::numeric_limits<float>::max(), -std::numeric_limits<float>::max(), 1e-45f, -1e-38f, 1e-20f, 65504, 1e9f, 0, -0.0f,
                              std::numeric_limits<float>::infinity(), std::nanf("")};
    Rng rng(9);
    for (const Scheme& codebook_scheme : codebook_schemes())
        for (DType scale_dtype : {DType::f16, DType::bf16, DType::f32, DType::i8, DType::f8_e8m0})
            for (ScaleRule rule : {ScaleRule::min_max, ScaleRule::search}) {
                Scheme scheme = codebook_scheme;
                scheme.scale_dtype = scale_dtype;
                auto grid = make_grid(scheme, rule);
                RowParams params;
                for (int trial = 0; trial < 100; ++trial) {
                    std::vector<float> row(1 + rng.below(80));
                    for (float& x : row) x = extremes[rng.below(std::size(extremes) - 2)];
                    if (trial % 10 == 0) row[0] = extremes[std::size(extremes) - 1 - rng.below(2)];
                    fit_row(*grid, scheme, row, {}, params);
                    for (std::size_t i = 0; i < row.size(); ++i) {
                        const GroupParams& own = params.groups[i / 32];
                        ASSERT_TRUE(std::isfinite(own.scale)) << scheme.name();
                        if (std::isnan(row[i])) continue;
                        const int code = grid->round(row[i], own);
                        ASSERT_TRUE(code >= 0 && code < grid->n_codes());
                        ASSERT_FALSE(std::isnan(grid->value(code, own)));
                    }
                }
            }
}

TEST(CodebookGrid, ImportanceMovesTheError) {
    const auto group = normal_values(64, 5);
    std::vector<float> importance(64, 1e-3f);
    importance[7] = 1000;
    auto grid = make_grid(*parse_scheme("n3g64"), ScaleRule::search);
    const GroupParams params = grid->fit(group, importance), even = grid->fit(group, {});
    EXPECT_LE(squared_error(*grid, {group[7]}, params), squared_error(*grid, {group[7]}, even));
    EXPECT_LT(squared_error(*grid, group, params, importance), squared_error(*grid, group, even, importance));
}

TEST(RelativeScales, AreMultiplesOfTheSuperScale) {
    for (const char* name : {"n4g32r", "w4g32r", "n2g16rs64", "w3g32ar", "ternaryg32r", "nf4g32r"}) {
        const Scheme scheme = *parse_scheme(name);
        for (float spread : {1.0f, 1e-3f, 1e-30f, 1e30f}) {
            auto row = normal_values(200, 11, spread);
            for (std::size_t i = 64; i < 96; ++i) row[i] *= 0.001f;  // a group next to which the others are huge
            for (std::size_t i = 96; i < 128; ++i) row[i] = 0;
            auto grid = make_grid(scheme, ScaleRule::search);
            RowParams params;
            fit_row(*grid, scheme, row, {}, params);
            ASSERT_EQ(params.super_scales.size(), static_cast<std::size_t>(scheme.n_supers(200)));
            int largest = 0;
            for (std::size_t g = 0; g < params.groups.size(); ++g) {
                const GroupParams& group = params.groups[g];
                const float super_scale = params.super_scales[static_cast<std::size_t>(scheme.super_of(static_cast<std::int64_t>(g) * scheme.group_size))];
                EXPECT_EQ(group.scale, super_scale * static_cast<float>(group.scale_code)) << name;
                largest = std::max(largest, std::abs(group.scale_code));
            }
            EXPECT_LE(largest, 127) << name;
            EXPECT_GE(largest, 123) << name;
            auto encoded = encode_nearest(make_float_weight({1, 200}, row), scheme, ScaleRule::search);
            ASSERT_TRUE(encoded.ok());
            EXPECT_EQ(encoded->codes()->super_scales.shape, (Shape{1, scheme.n_supers(200)}));
            EXPECT_EQ(encoded->codes()->scheme, scheme);
            std::vector<float> decoded(200);
            encoded->row(0, decoded.data());
            for (std::size_t i = 0; i < 200; ++i) {
                const GroupParams& group = params.groups[i / static_cast<std::size_t>(scheme.group_size)];
                ASSERT_EQ(decoded[i], grid->value(grid->round(row[i], group), group)) << name << " " << spread;
            }
        }
    }
}

TEST(TableScales, AreOfTheTableWhateverTheRow) {
    for (const char* name : {"n4g16t", "n3g16t", "n2g16ts32", "w4g16t", "w3g16at", "nf4g32t"}) {
        const Scheme scheme = *parse_scheme(name);
        for (float spread : {1.0f, 1e-3f, 1e-30f, 1e30f}) {
            auto row = normal_values(200, 12, spread);
            for (std::size_t i = 64; i < 96; ++i) row[i] *= 0.001f;
            row[3] = 0.5f * spread;  // 25 times the others
            auto grid = make_grid(scheme, ScaleRule::search);
            RowParams params;
            fit_row(*grid, scheme, row, {}, params);
            auto encoded = encode_nearest(make_float_weight({1, 200}, row), scheme, ScaleRule::search);
            ASSERT_TRUE(encoded.ok());
            EXPECT_EQ(encoded->codes()->scales.shape, (Shape{1, (scheme.n_groups(200) + 1) / 2}));
            EXPECT_EQ(encoded->codes()->super_scales.dtype, DType::bf16);
            std::vector<float> decoded(200);
            encoded->row(0, decoded.data());
            double error = 0, power = 0;
            for (std::size_t i = 0; i < 200; ++i) {
                const GroupParams& group = params.groups[i / static_cast<std::size_t>(scheme.group_size)];
                const float super_scale = params.super_scales[static_cast<std::size_t>(scheme.super_of(static_cast<std::int64_t>(i)))];
                ASSERT_EQ(group.scale, super_scale * scheme.scale_book->levels[static_cast<std::size_t>(group.scale_code)]) << name;
                ASSERT_EQ(super_scale, bf16_to_float(float_to_bf16(super_scale)));
                ASSERT_EQ(decoded[i], grid->value(grid->round(row[i], group), group)) << name << " " << spread;
                error += std::pow(static_cast<double>(decoded[i]) / spread - static_cast<double>(row[i]) / spread, 2);
                power += std::pow(static_cast<double>(row[i]) / spread, 2);
            }
            EXPECT_LT(error, 0.35 * power) << name << " " << spread;
        }
    }
    RowParams params;  // nothing to fit
    const Scheme scheme = *parse_scheme("n4g16t");
    fit_row(*make_grid(scheme, ScaleRule::search), scheme, std::vector<float>(64, 0.0f), {}, params);
    for (const GroupParams& group : params.groups) EXPECT_EQ(group.scale, 0);
}

TEST(TableScales, TheTableSuitsIntegerKernels) {
    for (const Codebook& book : scale_books()) {
        ASSERT_EQ(book.levels.size(), 16u);
        for (float level : book.levels) {
            EXPECT_EQ(level * 128, std::nearbyint(level * 128)) << book.name;
            EXPECT_LE(std::fabs(level * 128), 127) << book.name;
        }
    }
}

TEST(RelativeScales, WhatCannotBeChosenIsRefused) {
    const Weight source = make_float_weight({2, 64}, normal_values(128, 1));
    Scheme unsigned_scales = *parse_scheme("n4g32r");
    unsigned_scales.scale_dtype = DType::u8;
    EXPECT_EQ(encode_nearest(source, unsigned_scales, ScaleRule::search).error().code, ErrorCode::usage);
    EXPECT_EQ(encode_nearest(source, *parse_scheme("w4g32mr"), ScaleRule::search).error().code, ErrorCode::unsupported);
    Scheme powers_of_two = *parse_scheme("w4g32");
    powers_of_two.scale_dtype = DType::f8_e8m0;
    EXPECT_EQ(encode_nearest(source, powers_of_two, ScaleRule::search).error().code, ErrorCode::usage);
}

}  // namespace
}  // namespace skiff
