#include "tensor/weight.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"

namespace skiff {
namespace {

std::vector<float> normal_values(std::size_t n, std::uint64_t seed, float scale = 0.02f) {
    Rng rng(seed);
    std::vector<float> values(n);
    for (float& value : values) value = scale * rng.normal();
    return values;
}

std::vector<float> all_rows(const Weight& weight) {
    std::vector<float> values(static_cast<std::size_t>(weight.n_rows() * weight.n_columns()));
    for (std::int64_t row = 0; row < weight.n_rows(); ++row) weight.row(row, values.data() + row * weight.n_columns());
    return values;
}

TEST(PackCodes, RoundTripAtEveryWidth) {
    Rng rng(1);
    for (int bits = 1; bits <= 8; ++bits)
        for (std::int64_t n : {1, 7, 8, 31, 32, 33, 64, 172, 896}) {
            std::vector<std::uint8_t> codes(static_cast<std::size_t>(n)), back(codes.size());
            for (auto& code : codes) code = static_cast<std::uint8_t>(rng.below(1u << bits));
            const std::int64_t size = packed_row_bytes(bits, n);
            ASSERT_EQ(size, (n * bits + 31) / 32 * 4);
            std::vector<std::byte> packed(static_cast<std::size_t>(size), std::byte{0xff});
            pack_codes(codes.data(), bits, n, packed.data());
            unpack_codes(packed.data(), bits, n, back.data());
            ASSERT_EQ(codes, back) << bits << " bits, " << n;
            // Independent of the packer: bit k of code i is bit i*bits + k of the row, and the rest is zero.
            for (std::int64_t bit = 0; bit < size * 8; ++bit) {
                const int stored = (static_cast<int>(packed[static_cast<std::size_t>(bit / 8)]) >> (bit % 8)) & 1;
                const int expected = bit / bits < n ? (codes[static_cast<std::size_t>(bit / bits)] >> (bit % bits)) & 1 : 0;
                ASSERT_EQ(stored, expected) << bits << " bits, bit " << bit;
            }
        }
}

TEST(EncodeNearest, MatchesTheGridElementByElement) {
    const std::int64_t n_rows = 5, n_columns = 172;
    const auto values = normal_values(n_rows * n_columns, 2);
    const Weight source = make_float_weight({n_rows, n_columns}, values);
    for (const auto& preset : scheme_presets()) {
        const Scheme& scheme = preset.scheme;
        if (scheme.kind == NumberKind::clusters || scheme.kind == NumberKind::vectors) continue;  // its levels are found for the whole weight, not by a grid of groups
        for (ScaleRule rule : {ScaleRule::min_max, ScaleRule::search}) {
            auto encoded = encode_nearest(source, scheme, rule);
            ASSERT_TRUE(encoded.ok()) << encoded.error().to_string();
            auto grid = make_grid(encoded->codes() ? encoded->codes()->scheme : scheme, rule);
            const auto decoded = all_rows(*encoded);
            const std::int64_t group_size = scheme.group_size ? scheme.group_size : n_columns;
            for (std::int64_t row = 0; row < n_rows; ++row) {
                RowParams fitted;
                if (encoded->codes()) fit_row(*grid, scheme, std::span<const float>(values).subspan(static_cast<std::size_t>(row * n_columns), n_columns), {}, fitted);
                for (std::int64_t begin = 0; begin < n_columns; begin += group_size) {
                    const auto size = static_cast<std::size_t>(std::min(group_size, n_columns - begin));
                    const std::span<const float> group(values.data() + row * n_columns + begin, size);
                    const GroupParams params = encoded->codes() ? fitted.groups[static_cast<std::size_t>(begin / group_size)] : grid->fit(group, {});
                    for (std::size_t i = 0; i < size; ++i)
                        ASSERT_EQ(decoded[static_cast<std::size_t>(row * n_columns + begin) + i], grid->value(grid->round(group[i], params), params))
                            << preset.name;
                }
            }
            const double stored_bits = static_cast<double>(encoded->stored_bytes()) * 8;
            if (scheme.symmetric) { EXPECT_DOUBLE_EQ(stored_bits / static_cast<double>(n_rows * n_columns), scheme.bits_per_weight(n_columns)); }
            EXPECT_EQ(encoded->encoding_name(), encoded->codes() ? scheme.name() : std::string(dtype_info(scheme.dtype).name));
        }
    }
}

TEST(EncodeNearest, ErrorOfGaussianWeights) {
    // Relative root mean square errors of rounding a Gaussian; known within a few percent.
    const auto values = normal_values(64 * 1024, 4);
    const Weight source = make_float_weight({64, 1024}, values);
    double power = 0;
    for (float value : values) power += static_cast<double>(value) * static_cast<double>(value);
    const auto relative_error = [&](const char* name) {
        auto encoded = encode_nearest(source, *parse_scheme(name), ScaleRule::search);
        double error = 0;
        const auto decoded = all_rows(*encoded);
        for (std::size_t i = 0; i < values.size(); ++i) error += std::pow(static_cast<double>(decoded[i]) - static_cast<double>(values[i]), 2);
        return std::sqrt(error / power);
    };
    EXPECT_LT(relative_error("w8g32"), 0.006);
    EXPECT_LT(relative_error("w8"), 0.011);
    EXPECT_LT(relative_error("w4g32"), 0.082);
    EXPECT_LT(relative_error("w4g32a"), 0.078);
    EXPECT_LT(relative_error("w4g128"), 0.104);
    EXPECT_LT(relative_error("w4g32"), relative_error("w4g128"));
    EXPECT_LT(relative_error("w4g32a"), relative_error("w4g32"));
    EXPECT_LT(relative_error("bf16"), 0.003);
}

TEST(EncodeNearest, ThreadsDoNotChangeABit) {
    const Weight source = make_float_weight({37, 896}, normal_values(37 * 896, 6));
    ThreadPool pool(3);
    for (const char* name : {"w8", "w4g32", "w4g128a", "w3g100a", "fp16", "w4g32r", "n4g32r", "n3g40", "mxfp4", "ternaryg128", "nf4g64"}) {
        auto alone = encode_nearest(source, *parse_scheme(name), ScaleRule::search);
        auto together = encode_nearest(source, *parse_scheme(name), ScaleRule::search, {}, &pool);
        ASSERT_TRUE(alone.ok() && together.ok());
        const auto same = [](const TensorView& a, const TensorView& b) {
            return a.dtype == b.dtype && a.shape == b.shape && std::equal(a.data.begin(), a.data.end(), b.data.begin(), b.data.end());
        };
        if (alone->plain()) {
            EXPECT_TRUE(same(*alone->plain(), *together->plain()));
            continue;
        }
        EXPECT_TRUE(same(alone->codes()->packed, together->codes()->packed)) << name;
        EXPECT_TRUE(same(alone->codes()->scales, together->codes()->scales)) << name;
        EXPECT_TRUE(same(alone->codes()->zeros, together->codes()->zeros)) << name;
        EXPECT_TRUE(same(alone->codes()->super_scales, together->codes()->super_scales)) << name;
    }
}

TEST(EncodeNearest, ScalesBeyondF16AreStoredAsF32) {
    const Scheme scheme = *parse_scheme("w4g32");
    for (float factor : {1e-8f, 1e-30f, 1e7f, 1e30f}) {
        auto values = normal_values(4 * 64, 8, 1.0f);
        for (std::size_t i = 64; i < 96; ++i) values[i] *= factor;
        auto encoded = encode_nearest(make_float_weight({4, 64}, values), scheme, ScaleRule::search);
        ASSERT_TRUE(encoded.ok());
        EXPECT_EQ(encoded->codes()->scales.dtype, DType::f32);
        EXPECT_EQ(encoded->codes()->scheme.scale_dtype, DType::f32);
        EXPECT_EQ(encoded->encoding_name(), "w4g32");
        const auto decoded = all_rows(*encoded);
        double error = 0, power = 0;
        for (std::size_t i = 64; i < 96; ++i) {
            error += std::pow(static_cast<double>(decoded[i]) - static_cast<double>(values[i]), 2);
            power += std::pow(static_cast<double>(values[i]), 2);
        }
        EXPECT_LT(std::sqrt(error / power), 0.1) << factor;
    }
    auto small = encode_nearest(make_float_weight({4, 64}, normal_values(256, 8, 0.01f)), *parse_scheme("w8g32"), ScaleRule::search);
    EXPECT_EQ(small->codes()->scales.dtype, DType::f16);
}

TEST(EncodeNearest, RefusesWhatIsNotFiniteAndWhatDoesNotFit) {
    ThreadPool pool(2);
    for (const char* name : {"w4g32", "bf16"})
        for (float bad : {std::nanf(""), INFINITY, -INFINITY}) {
            auto values = normal_values(6 * 40, 1);
            values[3 * 40 + 17] = bad;
            values[5 * 40 + 1] = bad;
            auto encoded = encode_nearest(make_float_weight({6, 40}, values), *parse_scheme(name), ScaleRule::search, {}, &pool);
            ASSERT_FALSE(encoded.ok());
            EXPECT_EQ(encoded.error().code, ErrorCode::corrupt);
            EXPECT_NE(encoded.error().message.find("row 3, column 17"), std::string::npos) << encoded.error().message;
        }
    const Weight cube = make_float_weight({2, 3, 4}, normal_values(24, 1));
    EXPECT_EQ(encode_nearest(cube, *parse_scheme("w8"), ScaleRule::search).error().code, ErrorCode::usage);
    EXPECT_TRUE(encode_nearest(cube, *parse_scheme("fp16"), ScaleRule::search).ok());
    const Weight matrix = make_float_weight({2, 12}, normal_values(24, 1));
    const std::vector<float> too_short(5, 1.0f);
    EXPECT_EQ(encode_nearest(matrix, *parse_scheme("w8"), ScaleRule::search, too_short).error().code, ErrorCode::usage);
    const Weight empty = make_float_weight({0, 12}, {});
    EXPECT_TRUE(encode_nearest(empty, *parse_scheme("w8"), ScaleRule::search).ok());
}

}  // namespace
}  // namespace skiff
