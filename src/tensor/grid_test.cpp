#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/rng.h"
#include "tensor/scheme.h"

namespace skiff {
namespace {

Scheme scheme_of(const char* name) {
    auto scheme = parse_scheme(name);
    EXPECT_TRUE(scheme.ok()) << name;
    return scheme.ok() ? *scheme : Scheme{};
}

std::vector<float> normal_values(std::size_t n, std::uint64_t seed, float scale = 0.02f, float shift = 0) {
    Rng rng(seed);
    std::vector<float> values(n);
    for (float& value : values) value = shift + scale * rng.normal();
    return values;
}

// In double, from the codes and parameters alone.
double squared_error(const Grid& grid, const std::vector<float>& group, const GroupParams& params, const std::vector<float>& importance = {}) {
    double error = 0;
    for (std::size_t i = 0; i < group.size(); ++i) {
        const int code = grid.round(group[i], params);
        EXPECT_GE(code, 0);
        EXPECT_LT(code, grid.n_codes());
        const double difference = static_cast<double>(group[i]) - static_cast<double>(code - params.zero) * static_cast<double>(params.scale);
        error += (importance.empty() ? 1.0 : static_cast<double>(importance[i])) * difference * difference;
    }
    return error;
}

TEST(Schemes, PresetNamesRoundTrip) {
    for (const auto& preset : scheme_presets()) {
        EXPECT_EQ(*parse_scheme(preset.scheme.name()), preset.scheme);
        EXPECT_TRUE(preset.scheme.name().starts_with(preset.name)) << preset.name;
        auto parsed = parse_scheme(preset.name);
        ASSERT_TRUE(parsed.ok()) << preset.name;
        EXPECT_EQ(*parsed, preset.scheme);
    }
    for (const char* name : {"w3g96", "w1", "w5a", "w2g16a"}) EXPECT_EQ(scheme_of(name).name(), name);
    for (const char* name : {"", "w", "w0", "w9", "w4g", "w4g0", "w4ga", "w4g32b", "W4", "w04", "w4g65537", "w4g99999999999999999999"}) {
        auto parsed = parse_scheme(name);
        ASSERT_FALSE(parsed.ok()) << name;
        EXPECT_EQ(parsed.error().code, ErrorCode::usage);
        EXPECT_NE(parsed.error().message.find("w4g128a"), std::string::npos);
    }
}

TEST(Schemes, BitsPerWeight) {
    EXPECT_DOUBLE_EQ(scheme_of("bf16").bits_per_weight(100), 16);
    EXPECT_DOUBLE_EQ(scheme_of("w4g32").bits_per_weight(1024), 4.5);
    EXPECT_DOUBLE_EQ(scheme_of("w4g32a").bits_per_weight(1024), 4.625);
    EXPECT_DOUBLE_EQ(scheme_of("w8").bits_per_weight(1024), 8 + 16.0 / 1024);
    EXPECT_DOUBLE_EQ(scheme_of("w4g32").bits_per_weight(33), (160 + 32) / 33.0);
    EXPECT_EQ(scheme_of("w4g32").n_groups(33), 2);
}

TEST(IntegerGrid, SearchIsNeverWorseThanMinMax) {
    Rng rng(3);
    for (const char* name : {"w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8", "w1a", "w2a", "w3a", "w4a", "w5a", "w6a", "w7a", "w8a"}) {
        const Scheme scheme = scheme_of(name);
        auto plain = make_grid(scheme, ScaleRule::min_max), search = make_grid(scheme, ScaleRule::search);
        double plain_sum = 0, search_sum = 0;
        for (int trial = 0; trial < 400; ++trial) {
            const std::size_t n = 1 + rng.below(140);
            auto group = normal_values(n, rng.next(), std::ldexp(1.0f, static_cast<int>(rng.below(12)) - 6), trial % 3 == 1 ? 0.5f : 0);
            if (trial % 5 == 0) group[rng.below(n)] *= 20;  // an outlier
            std::vector<float> importance;
            if (trial % 2) {
                importance = normal_values(n, rng.next(), 1);
                for (float& weight : importance) weight *= weight;
            }
            const double before = squared_error(*plain, group, plain->fit(group, importance), importance);
            const double after = squared_error(*search, group, search->fit(group, importance), importance);
            ASSERT_LE(after, before * (1 + 1e-9)) << name << " trial " << trial;
            plain_sum += before;
            search_sum += after;
        }
        EXPECT_LT(search_sum, plain_sum) << name;
    }
}

// Gaussian weights, groups of 32: the search must come close to the best of a dense scan over scales (and zeros).
TEST(IntegerGrid, SearchIsCloseToADenseScan) {
    for (const char* name : {"w2", "w3", "w4", "w8", "w2a", "w4a"}) {
        Scheme scheme = scheme_of(name);
        scheme.scale_dtype = DType::f32;
        auto grid = make_grid(scheme, ScaleRule::search);
        double found = 0, dense = 0;
        for (std::uint64_t seed = 0; seed < 40; ++seed) {
            const auto group = normal_values(32, seed);
            float largest = 0;
            for (float x : group) largest = std::max(largest, std::fabs(x));
            found += squared_error(*grid, group, grid->fit(group, {}));
            double best = std::numeric_limits<double>::infinity();
            const int first_zero = scheme.symmetric ? 1 << (scheme.bits - 1) : 0, last_zero = scheme.symmetric ? first_zero : (1 << scheme.bits) - 1;
            for (int zero = first_zero; zero <= last_zero; ++zero)
                for (int step = 1; step <= 1500; ++step)
                    for (float sign : {1.0f, -1.0f}) {
                        if (sign < 0 && !scheme.symmetric) continue;
                        const float scale = sign * largest * static_cast<float>(step) / 1000 / std::ldexp(1.0f, scheme.bits - 1);
                        best = std::min(best, squared_error(*grid, group, {scale, zero}));
                    }
            dense += best;
        }
        EXPECT_LT(found, dense * (scheme.bits == 8 ? 1.04 : 1.02)) << name;
    }
}

TEST(IntegerGrid, ErrorFallsWithBits) {
    const auto group = normal_values(128, 11);
    for (const char* suffix : {"", "a"}) {
        double previous = std::numeric_limits<double>::infinity();
        for (int bits = 1; bits <= 8; ++bits) {
            auto grid = make_grid(scheme_of(("w" + std::to_string(bits) + suffix).c_str()), ScaleRule::search);
            const double error = squared_error(*grid, group, grid->fit(group, {}));
            EXPECT_LT(error, previous * 0.7) << bits << suffix;
            previous = error;
        }
    }
}

TEST(IntegerGrid, TheExtremeMayTakeTheLowestCode) {
    // Multiples of -1/8 up to the positive extreme 1: exact only with scale -1/8.
    std::vector<float> group;
    for (int level = -8; level <= 7; ++level) group.push_back(static_cast<float>(-level) / 8);
    auto grid = make_grid(scheme_of("w4"), ScaleRule::search);
    const GroupParams params = grid->fit(group, {});
    EXPECT_EQ(params.scale, -0.125f);
    EXPECT_EQ(squared_error(*grid, group, params), 0);
}

TEST(IntegerGrid, ZeroAndConstantGroups) {
    for (const char* name : {"w4", "w4a", "w8", "w8a", "w1", "w2a"})
        for (ScaleRule rule : {ScaleRule::min_max, ScaleRule::search}) {
            auto grid = make_grid(scheme_of(name), rule);
            const std::vector<float> zeros(32, 0.0f);
            const GroupParams empty = grid->fit(zeros, {});
            EXPECT_EQ(grid->value(grid->round(0, empty), empty), 0) << name;
            if (rule == ScaleRule::min_max) continue;
            for (float constant : {0.375f, -0.375f, 1.0f, -3.0f, bf16_to_float(0x3c23), -bf16_to_float(0x3c23)}) {
                const std::vector<float> same(32, constant);
                const GroupParams params = grid->fit(same, {});
                EXPECT_EQ(grid->value(grid->round(constant, params), params), constant) << name;
            }
            // Not a value of f16 itself, but a small multiple of one.
            const float product = 3 * f16_to_float(0x2c01);
            if (name == std::string("w4") || name == std::string("w8a")) {
                const GroupParams params = grid->fit(std::vector<float>(8, product), {});
                EXPECT_EQ(grid->value(grid->round(product, params), params), product) << name;
            }
        }
}

TEST(IntegerGrid, ImportanceMovesTheError) {
    const auto group = normal_values(64, 5);
    std::vector<float> importance(64, 1e-3f);
    importance[7] = 1000;
    auto grid = make_grid(scheme_of("w3"), ScaleRule::search);
    const GroupParams params = grid->fit(group, importance), even = grid->fit(group, {});
    EXPECT_LE(squared_error(*grid, {group[7]}, params), squared_error(*grid, {group[7]}, even));
    const std::vector<float> none(64, 0.0f);  // all zero: as if there were none
    EXPECT_EQ(grid->fit(group, none).scale, even.scale);
}

TEST(IntegerGrid, NoInputGivesNaN) {
    const float extremes[] = {std::numeric_limits<float>::max(), -std::numeric_limits<float>::max(), 1e-45f, -1e-38f, 1e-20f, 65504, 1e9f, 0, -0.0f,
                              std::numeric_limits<float>::infinity(), std::nanf("")};
    Rng rng(9);
    for (const char* name : {"w1", "w4", "w8", "w1a", "w4a", "w8a"})
        for (DType scale_dtype : {DType::f16, DType::bf16, DType::f32})
            for (ScaleRule rule : {ScaleRule::min_max, ScaleRule::search}) {
                Scheme scheme = scheme_of(name);
                scheme.scale_dtype = scale_dtype;
                auto grid = make_grid(scheme, rule);
                for (int trial = 0; trial < 300; ++trial) {
                    std::vector<float> group(1 + rng.below(40));
                    for (float& x : group) x = extremes[rng.below(std::size(extremes) - 2)];
                    if (trial % 10 == 0) group[0] = extremes[std::size(extremes) - 1 - rng.below(2)];
                    const GroupParams params = grid->fit(group, {});
                    ASSERT_TRUE(std::isfinite(params.scale)) << name;
                    for (float x : group) {
                        if (std::isnan(x)) continue;
                        const int code = grid->round(x, params);
                        ASSERT_TRUE(code >= 0 && code < grid->n_codes());
                        ASSERT_FALSE(std::isnan(grid->value(code, params)));
                    }
                }
            }
}

TEST(FloatGrid, CodesAreBitPatterns) {
    auto grid = make_grid(scheme_of("bf16"), ScaleRule::search);
    EXPECT_EQ(grid->round(1.0f, {}), 0x3f80);
    EXPECT_EQ(grid->value(0x3f80, {}), 1.0f);
    EXPECT_EQ(grid->n_codes(), 65536);
}

}  // namespace
}  // namespace skiff
