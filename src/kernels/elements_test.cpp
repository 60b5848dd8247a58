// Element-wise kernels, norm, rope and activation quantization: every row of every table against the mathematics in double or against the reference row.
#include "kernels/kernels_testing.h"

namespace skiff {
namespace {

using testing::for_each_row;
using testing::normal_values;
using testing::odd_widths;
using testing::relative_error;
using testing::same_bits;

double exact_activation(Activation kind, double x) {
    switch (kind) {
        case Activation::silu: return x / (1 + std::exp(-x));
        case Activation::gelu_erf: return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
        case Activation::gelu_tanh: return x / (1 + std::exp(-2 * 0.79788456080286535588 * (x + 0.044715 * x * x * x)));
        case Activation::quick_gelu: return x / (1 + std::exp(-1.702 * x));
        case Activation::relu: return std::max(x, 0.0);
        case Activation::sigmoid: return 1 / (1 + std::exp(-x));
        case Activation::tanh: return std::tanh(x);
    }
    return 0;
}

constexpr Activation all_activations[] = {Activation::silu,       Activation::gelu_erf, Activation::gelu_tanh, Activation::quick_gelu,
                                          Activation::relu, Activation::sigmoid,  Activation::tanh};

// Relative to the true value, or 1e-12 absolute; the reference's own float formulas cancel for negative arguments, so there the bound is 1e-7 |x| absolute.
TEST(Activation, every_row_follows_the_mathematics) {
    std::vector<float> x;
    for (double value = -12; value <= 12; value += 0.0037) x.push_back(static_cast<float>(value));
    for (float value : {-100.0f, -87.5f, -30.0f, 30.0f, 88.5f, 100.0f, 1e-20f, -1e-6f, 0.0f}) x.push_back(value);
    const auto n = static_cast<std::int64_t>(x.size());
    for_each_row(activation_kernels(), [&](const auto& row) {
        for (Activation kind : all_activations) {
            std::vector<float> y(x.size());
            row.fn({x.data(), nullptr, y.data(), 0, kind}, {0, n});
            double worst = 0;
            for (std::size_t i = 0; i < x.size(); ++i) {
                const double exact = exact_activation(kind, x[i]), absolute = row.isa == Isa::generic ? 1.5e-7 * std::fabs(x[i]) : 1e-12;
                const double steepness = std::max(1.0, std::fabs(static_cast<double>(x[i])) / 8);  // e^x magnifies the rounding of x
                worst = std::max(worst, (std::fabs(y[i] - exact) - absolute) / (std::fabs(exact) * steepness + 1e-37));
            }
            EXPECT_LE(worst, 2e-6) << "activation " << static_cast<int>(kind);
        }
    });
}

TEST(Activation, special_values) {
    const float infinity = INFINITY;
    for_each_row(activation_kernels(), [&](const auto& row) {
        std::vector<float> x(8, NAN), y(8);
        for (Activation kind : {Activation::silu, Activation::gelu_erf, Activation::gelu_tanh, Activation::sigmoid, Activation::tanh}) {
            row.fn({x.data(), nullptr, y.data(), 0, kind}, {0, 8});
            EXPECT_TRUE(std::isnan(y[3])) << static_cast<int>(kind);
        }
        x.assign(8, infinity);
        row.fn({x.data(), nullptr, y.data(), 0, Activation::sigmoid}, {0, 8});
        EXPECT_EQ(y[0], 1.0f);
        row.fn({x.data(), nullptr, y.data(), 0, Activation::tanh}, {0, 8});
        EXPECT_EQ(y[0], 1.0f);
        x.assign(8, -infinity);
        row.fn({x.data(), nullptr, y.data(), 0, Activation::sigmoid}, {0, 8});
        EXPECT_LE(y[0], 1e-37f);
    });
}

// Any split of a range gives the bits of the whole.
template <class Kernels>
void expect_split_invariant(const Kernels& kernels) {
    const auto a = normal_values(1000, 1, 3), b = normal_values(1000, 2);
    for_each_row(kernels, [&](const auto& row) {
        std::vector<float> whole(1000), parts(1000);
        const ElementArgs args = {a.data(), b.data(), whole.data(), 1.7f, Activation::silu};
        row.fn(args, {0, 1000});
        for (std::int64_t begin = 0, step = 1; begin < 1000; begin += step, ++step)
            row.fn({a.data(), b.data(), parts.data(), 1.7f, Activation::silu}, {begin, std::min<std::int64_t>(begin + step, 1000)});
        EXPECT_TRUE(same_bits(whole, parts));
    });
}

TEST(Elements, splits_do_not_change_bits) {
    expect_split_invariant(activation_kernels());
    expect_split_invariant(multiply_kernels());
    expect_split_invariant(add_kernels());
    expect_split_invariant(scale_kernels());
    expect_split_invariant(softcap_kernels());
}

TEST(Elements, arithmetic_rows_equal_the_operation) {
    for (std::int64_t n : odd_widths) {
        const auto a = normal_values(n, 3), b = normal_values(n, 4);
        std::vector<float> y(a.size());
        const ElementArgs args = {a.data(), b.data(), y.data(), 0.37f, Activation::silu};
        const auto expect = [&](auto operation) {
            for (std::size_t i = 0; i < a.size(); ++i) ASSERT_EQ(y[i], operation(a[i], b[i])) << i << " of " << n;
        };
        for_each_row(multiply_kernels(), [&](const auto& row) { row.fn(args, {0, n}); expect([](float p, float q) { return p * q; }); });
        for_each_row(add_kernels(), [&](const auto& row) { row.fn(args, {0, n}); expect([](float p, float q) { return p + q; }); });
        for_each_row(scale_kernels(), [&](const auto& row) { row.fn(args, {0, n}); expect([](float p, float) { return p * 0.37f; }); });
    }
}

TEST(Softcap, every_row_within_2e6_of_the_mathematics) {
    const auto a = normal_values(1000, 5, 60);
    for_each_row(softcap_kernels(), [&](const auto& row) {
        std::vector<float> y(a.size()), exact;
        for (float x : a) exact.push_back(static_cast<float>(30 * std::tanh(static_cast<double>(x) / 30)));
        row.fn({a.data(), nullptr, y.data(), 30, Activation::silu}, {0, 1000});
        EXPECT_LE(relative_error(y, exact, 1e-6), 2e-6);
    });
}

TEST(Norm, every_row_against_the_reference) {
    for (NormKind kind : {NormKind::rms, NormKind::layer})
        for (std::int64_t width : odd_widths) {
            const std::int64_t n = 5;
            auto x = normal_values(n * width, 6, 4);
            for (auto& value : x) value += 0.5f;
            const auto weight = normal_values(width, 7), bias = normal_values(width, 8);
            for (int operands = 0; operands < 3; ++operands) {
                const NormArgs plain = {x.data(), operands > 0 ? weight.data() : nullptr, operands > 1 ? bias.data() : nullptr, nullptr, width, 1e-5f, kind};
                std::vector<float> expected(x.size());
                NormArgs args = plain;
                args.y = expected.data();
                norm_kernels()[0].fn(args, {0, n});
                for_each_row(norm_kernels(), [&](const auto& row) {
                    std::vector<float> y(x.size()), in_place = x;
                    args.x = x.data(), args.y = y.data();
                    row.fn(args, {0, 2});
                    row.fn(args, {2, n});
                    EXPECT_LE(relative_error(y, expected, 1.0), 4e-6) << "width " << width;
                    args.x = args.y = in_place.data();
                    row.fn(args, {0, n});
                    EXPECT_TRUE(same_bits(y, in_place));
                });
            }
        }
}

TEST(Rope, every_row_against_double_precision) {
    struct Case {
        std::int64_t n_heads, head_dim, rotary_dim;
    };
    for (Case c : {Case{2, 8, 8}, Case{3, 64, 64}, Case{1, 80, 20}, Case{4, 128, 64}, Case{2, 6, 6}, Case{1, 96, 96}})
        for (RopeStyle style : {RopeStyle::half, RopeStyle::interleaved}) {
            const std::vector<std::int32_t> positions = {0, 1, 7, 511, 4095, 131071};
            const auto n = static_cast<std::int64_t>(positions.size()), width = c.n_heads * c.head_dim, half = c.rotary_dim / 2;
            std::vector<float> inv_freq(static_cast<std::size_t>(half));
            for (std::int64_t i = 0; i < half; ++i) inv_freq[static_cast<std::size_t>(i)] = static_cast<float>(std::pow(10000.0, -static_cast<double>(i) / half));
            const auto x = normal_values(n * width, 9);
            auto expected = x;
            for (std::int64_t t = 0; t < n; ++t)
                for (std::int64_t head = 0; head < c.n_heads; ++head)
                    for (std::int64_t i = 0; i < half; ++i) {
                        const float angle = static_cast<float>(positions[static_cast<std::size_t>(t)]) * inv_freq[static_cast<std::size_t>(i)];  // a float, as Hugging Face computes it
                        const double cosine = std::cos(static_cast<double>(angle)) * 1.2, sine = std::sin(static_cast<double>(angle)) * 1.2;
                        const auto base = static_cast<std::size_t>(t * width + head * c.head_dim);
                        const auto p = base + static_cast<std::size_t>(style == RopeStyle::half ? i : 2 * i), q = base + static_cast<std::size_t>(style == RopeStyle::half ? i + half : 2 * i + 1);
                        expected[p] = static_cast<float>(x[p] * cosine - x[q] * sine);
                        expected[q] = static_cast<float>(x[q] * cosine + x[p] * sine);
                    }
            for_each_row(rope_kernels(), [&](const auto& row) {
                auto y = x;
                const RopeArgs args = {y.data(), positions.data(), inv_freq.data(), c.n_heads, c.head_dim, c.rotary_dim, 1.2f, style};
                row.fn(args, {0, 4});
                row.fn(args, {4, n});
                EXPECT_LE(relative_error(y, expected, 1.0), 1e-6) << "head_dim " << c.head_dim << " rotary " << c.rotary_dim;
            });
        }
}

TEST(Quantize, every_row_gives_the_bits_of_the_reference) {
    for (float fixed : {0.0f, 0.05f})
    for (std::int64_t width : odd_widths) {
        const std::int64_t n = 3, padded = (width + 63) / 64 * 64;
        auto x = normal_values(n * width, 10, 5);
        x[0] = 0;
        if (width > 500) std::fill(x.begin() + 64, x.begin() + 96, 0.0f), x[130] = 1e-38f, x[200] = INFINITY, x[300] = NAN;
        const auto size = static_cast<std::size_t>(n * padded);
        std::vector<std::int8_t> expected_codes(size);
        std::vector<float> expected_scales(size / 32);
        std::vector<std::int16_t> expected_sums(size / 8);
        quantize_kernels()[0].fn({x.data(), expected_codes.data(), expected_scales.data(), expected_sums.data(), width, padded, fixed}, {0, n});
        for_each_row(quantize_kernels(), [&](const auto& row) {
            std::vector<std::int8_t> codes(size, 77);
            std::vector<float> scales(size / 32);
            std::vector<std::int16_t> sums(size / 8);
            row.fn({x.data(), codes.data(), scales.data(), sums.data(), width, padded, fixed}, {0, n});
            EXPECT_EQ(codes, expected_codes);
            EXPECT_EQ(sums, expected_sums);
            for (std::size_t i = 0; i < scales.size(); ++i) {
                EXPECT_TRUE(scales[i] == expected_scales[i] || (std::isnan(scales[i]) && std::isnan(expected_scales[i]))) << i;
                for (std::size_t k = 0; k < 32 && std::isfinite(scales[i]); ++k) {
                    const std::size_t column = i * 32 % static_cast<std::size_t>(padded) + k, token = i * 32 / static_cast<std::size_t>(padded);
                    const float exact = column < static_cast<std::size_t>(width) ? x[token * static_cast<std::size_t>(width) + column] : 0;
                    const float clipped = fixed > 0 ? std::clamp(exact, -127 * fixed, 127 * fixed) : exact;
                    EXPECT_LE(std::fabs(scales[i] * codes[i * 32 + k] - clipped), scales[i] * 0.5001f + 1e-30f);
                    if (fixed > 0) {
                        EXPECT_EQ(scales[i], fixed);
                    }
                }
            }
        });
    }
}

}  // namespace
}  // namespace skiff
