// Every code of every small float against plain arithmetic on its fields, and rounding against a search over the exact values.
#include "tensor/dtype.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/rng.h"

namespace skiff {
namespace {

struct Layout {
    DType dtype;
    int exponent_bits, mantissa_bits, bias;
    int largest_code;   // of the finite positive ones
    bool has_infinity;  // the code after it
};
constexpr Layout layouts[] = {
    {DType::f16, 5, 10, 15, 0x7bff, true},          {DType::bf16, 8, 7, 127, 0x7f7f, true},        {DType::f8_e4m3, 4, 3, 7, 0x7e, false},
    {DType::f8_e5m2, 5, 2, 15, 0x7b, true},         {DType::f8_e4m3fnuz, 4, 3, 8, 0x7f, false},    {DType::f8_e5m2fnuz, 5, 2, 16, 0x7f, false},
};

double exact_value(const Layout& layout, int code) {  // of a positive finite code
    const int mantissa = code & ((1 << layout.mantissa_bits) - 1), exponent = code >> layout.mantissa_bits;
    const double fraction = std::ldexp(mantissa, -layout.mantissa_bits);
    return exponent == 0 ? std::ldexp(fraction, 1 - layout.bias) : std::ldexp(1 + fraction, exponent - layout.bias);
}

float decode(DType dtype, int code) {
    float value = 0;
    dtype_info(dtype).to_float(&code, 1, &value);
    return value;
}

int encode(DType dtype, float value) {
    int code = 0;
    dtype_info(dtype).from_float(&value, 1, &code);
    return code;
}

// Nearest finite positive code by exact arithmetic, ties to even; beyond the middle between the largest and the next it is infinity or saturates.
int nearest_code(const Layout& layout, const std::vector<double>& values, double magnitude) {
    const auto above = std::lower_bound(values.begin(), values.end(), magnitude);
    if (above == values.end()) {
        const double last = values.back(), step = last - values[values.size() - 2];
        return layout.has_infinity && magnitude >= last + step / 2 ? layout.largest_code + 1 : layout.largest_code;
    }
    const int high = static_cast<int>(above - values.begin());
    if (high == 0) return 0;
    const double to_high = *above - magnitude, to_low = magnitude - values[static_cast<std::size_t>(high - 1)];
    return to_high < to_low ? high : to_high > to_low ? high - 1 : (high & 1 ? high - 1 : high);
}

class SmallFloats : public ::testing::TestWithParam<Layout> {};

TEST_P(SmallFloats, EveryCodeHasItsValueAndReturns) {
    const Layout& layout = GetParam();
    const int sign = 1 << (layout.exponent_bits + layout.mantissa_bits);
    for (int code = 0; code <= layout.largest_code; ++code) {
        ASSERT_EQ(static_cast<double>(decode(layout.dtype, code)), exact_value(layout, code)) << code;
        ASSERT_EQ(encode(layout.dtype, decode(layout.dtype, code)), code);
        const bool no_negative_zero = layout.dtype == DType::f8_e4m3fnuz || layout.dtype == DType::f8_e5m2fnuz;
        if (code == 0 && no_negative_zero) continue;
        ASSERT_EQ(static_cast<double>(decode(layout.dtype, code | sign)), -exact_value(layout, code));
        ASSERT_EQ(encode(layout.dtype, decode(layout.dtype, code | sign)), code | sign);
    }
    for (int code = layout.largest_code + 1; code < sign; ++code) {  // what is left above is infinity, then NaN
        const float value = decode(layout.dtype, code);
        ASSERT_TRUE(layout.has_infinity && code == layout.largest_code + 1 ? std::isinf(value) : std::isnan(value)) << code;
    }
    EXPECT_TRUE(std::isnan(decode(layout.dtype, encode(layout.dtype, std::nanf("")))));
}

TEST_P(SmallFloats, RoundsToNearestEven) {
    const Layout& layout = GetParam();
    const int sign = 1 << (layout.exponent_bits + layout.mantissa_bits);
    std::vector<double> values;
    for (int code = 0; code <= layout.largest_code; ++code) values.push_back(exact_value(layout, code));
    std::vector<float> probes;
    for (std::size_t i = 0; i + 1 < values.size(); ++i) {  // middles, and their neighbours
        const float middle = static_cast<float>((values[i] + values[i + 1]) / 2);
        for (float probe : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, INFINITY)}) probes.push_back(probe);
    }
    const double past = values.back() + (values.back() - values[values.size() - 2]) / 2;
    if (past < 3e38) {
        const float edge = static_cast<float>(past);
        for (float probe : {edge, std::nextafter(edge, 0.0f), std::nextafter(edge, INFINITY), edge * 4}) probes.push_back(probe);
    }
    Rng rng(7);
    for (int i = 0; i < 100000; ++i) {
        const float probe = std::fabs(std::bit_cast<float>(static_cast<std::uint32_t>(rng.next())));
        if (std::isfinite(probe)) probes.push_back(probe);
        probes.push_back(std::fabs(rng.normal()));
    }
    for (float probe : probes) {
        int expected = nearest_code(layout, values, probe);
        ASSERT_EQ(encode(layout.dtype, probe), expected) << std::hexfloat << probe;
        const bool no_negative_zero = layout.dtype == DType::f8_e4m3fnuz || layout.dtype == DType::f8_e5m2fnuz;
        ASSERT_EQ(encode(layout.dtype, -probe), expected == 0 && no_negative_zero ? 0 : expected | sign) << std::hexfloat << -probe;
    }
}

INSTANTIATE_TEST_SUITE_P(All, SmallFloats, ::testing::ValuesIn(layouts),
                         [](const auto& layout) { return std::string(dtype_info(layout.param.dtype).name); });

TEST(DType, EveryIntegerTypeConvertsAndSaturates) {
    for (const auto& info : dtype_table()) {
        if (info.is_float || info.to_float == nullptr || info.dtype == DType::boolean) continue;
        const bool is_signed = info.name[0] == 'I';
        const double high = std::ldexp(1.0, info.bits - (is_signed ? 1 : 0));
        const float source[] = {0, 1, 2.5f, 3.5f, -1, 1e30f, -1e30f};
        std::uint64_t stored[8] = {};
        float back[7];
        info.from_float(source, 7, stored);
        info.to_float(stored, 7, back);
        EXPECT_EQ(back[1], 1) << info.name;
        EXPECT_EQ(back[2], 2) << info.name;
        EXPECT_EQ(back[3], 4) << info.name;
        EXPECT_EQ(back[4], is_signed ? -1 : 0) << info.name;
        EXPECT_EQ(back[5], static_cast<float>(high - 1)) << info.name;
        EXPECT_EQ(back[6], is_signed ? static_cast<float>(-high) : 0) << info.name;
    }
}

TEST(DType, PowersOfTwoOfE8M0) {
    for (int code = 0; code < 255; ++code) {
        EXPECT_EQ(static_cast<double>(decode(DType::f8_e8m0, code)), std::ldexp(1.0, code - 127));
        EXPECT_EQ(encode(DType::f8_e8m0, decode(DType::f8_e8m0, code)), code);
    }
    EXPECT_TRUE(std::isnan(decode(DType::f8_e8m0, 255)));
}

TEST(DType, NamesAndBytes) {
    EXPECT_EQ(dtype_table().size(), 22u);
    for (const auto& info : dtype_table()) EXPECT_EQ(dtype_from_name(info.name), info.dtype);
    EXPECT_EQ(dtype_from_name("bf16"), std::nullopt);
    EXPECT_EQ(dtype_bytes(DType::f4, 3), std::nullopt);
    EXPECT_EQ(dtype_bytes(DType::f6_e2m3, 4), 3);
    EXPECT_EQ(dtype_bytes(DType::f32, std::numeric_limits<std::int64_t>::max() / 8), std::nullopt);
}

}  // namespace
}  // namespace skiff
