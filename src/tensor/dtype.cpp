#include "tensor/dtype.h"

#include <cmath>
#include <limits>

#include "base/checked.h"

namespace skiff {
namespace {

// A small float with `exponent_bits` and `mantissa_bits`. With `fnuz` there is no negative zero (that code is NaN), no infinity, bias + 1.
struct SmallFloat {
    int exponent_bits, mantissa_bits, bias;
    bool has_infinity;  // the top exponent holds infinity and NaN (IEEE style)
    bool fnuz;
};
constexpr SmallFloat e4m3 = {4, 3, 7, false, false}, e5m2 = {5, 2, 15, true, false};
constexpr SmallFloat e4m3fnuz = {4, 3, 8, false, true}, e5m2fnuz = {5, 2, 16, false, true};

float decode(const SmallFloat& format, std::uint8_t bits) {
    const int mantissa_mask = (1 << format.mantissa_bits) - 1, exponent_mask = (1 << format.exponent_bits) - 1;
    int exponent = (bits >> format.mantissa_bits) & exponent_mask, mantissa = bits & mantissa_mask;
    float sign = bits & 0x80 ? -1.0f : 1.0f;
    if (format.fnuz && bits == 0x80) return std::numeric_limits<float>::quiet_NaN();
    if (exponent == exponent_mask && !format.fnuz) {
        if (format.has_infinity) return mantissa ? std::numeric_limits<float>::quiet_NaN() : sign * std::numeric_limits<float>::infinity();
        if (mantissa == mantissa_mask) return std::numeric_limits<float>::quiet_NaN();
    }
    if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), 1 - format.bias - format.mantissa_bits);
    return sign * std::ldexp(static_cast<float>(mantissa + mantissa_mask + 1), exponent - format.bias - format.mantissa_bits);
}

// Nearest code by search over the 128 magnitudes, which are in order; ties go to the even code.
std::uint8_t encode(const SmallFloat& format, float value) {
    if (std::isnan(value)) return format.fnuz ? 0x80 : 0x7f;
    int last = format.fnuz ? 0x7f : (format.has_infinity ? 0x7b : 0x7e);  // largest finite code
    float magnitude = std::fabs(value);
    int low = 0, high = last;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        (decode(format, static_cast<std::uint8_t>(middle)) <= magnitude ? low : high) = middle;
    }
    float below = decode(format, static_cast<std::uint8_t>(low)), above = decode(format, static_cast<std::uint8_t>(high));
    int code = magnitude - below < above - magnitude ? low : magnitude - below > above - magnitude ? high : (low & 1 ? high : low);
    if (format.has_infinity && high == last && magnitude >= above + (above - below) / 2) code = 0x7c;
    if (format.fnuz && code == 0) return 0;
    return static_cast<std::uint8_t>(code | (std::signbit(value) ? 0x80 : 0));
}

template <class Source>
void integers_to_float(const void* source, std::int64_t n, float* target) {
    const auto* bytes = static_cast<const unsigned char*>(source);
    for (std::int64_t i = 0; i < n; ++i) {
        Source value;
        std::memcpy(&value, bytes + i * static_cast<std::int64_t>(sizeof value), sizeof value);
        target[i] = static_cast<float>(value);
    }
}

template <class Target>
void float_to_integers(const float* source, std::int64_t n, void* target) {
    auto* bytes = static_cast<unsigned char*>(target);
    for (std::int64_t i = 0; i < n; ++i) {
        double rounded = std::nearbyint(static_cast<double>(source[i]));
        double low = static_cast<double>(std::numeric_limits<Target>::min()), high = static_cast<double>(std::numeric_limits<Target>::max());
        Target value = rounded != rounded ? Target(0)
                       : rounded <= low  ? std::numeric_limits<Target>::min()
                       : rounded >= high ? std::numeric_limits<Target>::max()
                                         : static_cast<Target>(rounded);
        std::memcpy(bytes + i * static_cast<std::int64_t>(sizeof value), &value, sizeof value);
    }
}

template <auto Decode, class Bits>
void codes_to_float(const void* source, std::int64_t n, float* target) {
    const auto* bytes = static_cast<const unsigned char*>(source);
    for (std::int64_t i = 0; i < n; ++i) {
        Bits bits;
        std::memcpy(&bits, bytes + i * static_cast<std::int64_t>(sizeof bits), sizeof bits);
        target[i] = Decode(bits);
    }
}

template <auto Encode, class Bits>
void float_to_codes(const float* source, std::int64_t n, void* target) {
    auto* bytes = static_cast<unsigned char*>(target);
    for (std::int64_t i = 0; i < n; ++i) {
        Bits bits = Encode(source[i]);
        std::memcpy(bytes + i * static_cast<std::int64_t>(sizeof bits), &bits, sizeof bits);
    }
}

float e8m0_to_float(std::uint8_t bits) { return bits == 0xff ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0f, bits - 127); }
std::uint8_t float_to_e8m0(float value) {
    if (!(value > 0)) return value == 0 ? 0 : 0xff;
    int exponent = 0;
    float fraction = std::frexp(value, &exponent);  // value = fraction * 2^exponent, fraction in [0.5, 1)
    int code = exponent - 1 + (fraction > 0.75f ? 1 : 0) + 127;
    return static_cast<std::uint8_t>(code < 0 ? 0 : code > 254 ? 254 : code);
}
float e4m3fnuz_to_float(std::uint8_t bits) { return decode(e4m3fnuz, bits); }
std::uint8_t float_to_e4m3fnuz(float value) { return encode(e4m3fnuz, value); }
float e5m2fnuz_to_float(std::uint8_t bits) { return decode(e5m2fnuz, bits); }
std::uint8_t float_to_e5m2fnuz(float value) { return encode(e5m2fnuz, value); }
float bool_to_float(std::uint8_t bits) { return bits ? 1.0f : 0.0f; }
std::uint8_t float_to_bool(float value) { return value != 0.0f; }

constexpr DTypeInfo table[] = {
    {DType::boolean, "BOOL", 8, false, codes_to_float<bool_to_float, std::uint8_t>, float_to_codes<float_to_bool, std::uint8_t>},
    {DType::f4, "F4", 4, true, nullptr, nullptr},
    {DType::f6_e2m3, "F6_E2M3", 6, true, nullptr, nullptr},
    {DType::f6_e3m2, "F6_E3M2", 6, true, nullptr, nullptr},
    {DType::u8, "U8", 8, false, integers_to_float<std::uint8_t>, float_to_integers<std::uint8_t>},
    {DType::i8, "I8", 8, false, integers_to_float<std::int8_t>, float_to_integers<std::int8_t>},
    {DType::f8_e5m2, "F8_E5M2", 8, true, codes_to_float<f8_e5m2_to_float, std::uint8_t>, float_to_codes<float_to_f8_e5m2, std::uint8_t>},
    {DType::f8_e4m3, "F8_E4M3", 8, true, codes_to_float<f8_e4m3_to_float, std::uint8_t>, float_to_codes<float_to_f8_e4m3, std::uint8_t>},
    {DType::f8_e8m0, "F8_E8M0", 8, true, codes_to_float<e8m0_to_float, std::uint8_t>, float_to_codes<float_to_e8m0, std::uint8_t>},
    {DType::f8_e4m3fnuz, "F8_E4M3FNUZ", 8, true, codes_to_float<e4m3fnuz_to_float, std::uint8_t>, float_to_codes<float_to_e4m3fnuz, std::uint8_t>},
    {DType::f8_e5m2fnuz, "F8_E5M2FNUZ", 8, true, codes_to_float<e5m2fnuz_to_float, std::uint8_t>, float_to_codes<float_to_e5m2fnuz, std::uint8_t>},
    {DType::i16, "I16", 16, false, integers_to_float<std::int16_t>, float_to_integers<std::int16_t>},
    {DType::u16, "U16", 16, false, integers_to_float<std::uint16_t>, float_to_integers<std::uint16_t>},
    {DType::f16, "F16", 16, true, codes_to_float<f16_to_float, std::uint16_t>, float_to_codes<float_to_f16, std::uint16_t>},
    {DType::bf16, "BF16", 16, true, codes_to_float<bf16_to_float, std::uint16_t>, float_to_codes<float_to_bf16, std::uint16_t>},
    {DType::i32, "I32", 32, false, integers_to_float<std::int32_t>, float_to_integers<std::int32_t>},
    {DType::u32, "U32", 32, false, integers_to_float<std::uint32_t>, float_to_integers<std::uint32_t>},
    {DType::f32, "F32", 32, true,
     [](const void* source, std::int64_t n, float* target) { std::memcpy(target, source, static_cast<std::size_t>(n) * 4); },
     [](const float* source, std::int64_t n, void* target) { std::memcpy(target, source, static_cast<std::size_t>(n) * 4); }},
    {DType::c64, "C64", 64, false, nullptr, nullptr},
    {DType::f64, "F64", 64, true, integers_to_float<double>,
     [](const float* source, std::int64_t n, void* target) {
         for (std::int64_t i = 0; i < n; ++i) {
             double value = source[i];
             std::memcpy(static_cast<char*>(target) + i * 8, &value, 8);
         }
     }},
    {DType::i64, "I64", 64, false, integers_to_float<std::int64_t>, float_to_integers<std::int64_t>},
    {DType::u64, "U64", 64, false, integers_to_float<std::uint64_t>, float_to_integers<std::uint64_t>},
};

}  // namespace

float f16_to_float(std::uint16_t bits) {
    std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000) << 16, exponent = (bits >> 10) & 31, mantissa = bits & 0x3ff;
    if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000 | (mantissa << 13));
    if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
    float magnitude = static_cast<float>(mantissa) * 0x1.0p-24f;
    return sign ? -magnitude : magnitude;
}

std::uint16_t float_to_f16(float value) {
    std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
    auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000);
    std::uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return sign | 0x7e00;
    if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 and above round to infinity
    if (magnitude < 0x38800000) {                       // subnormal: a float add rounds to the nearest multiple of 2^-24
        float shifted = std::bit_cast<float>(magnitude) + 0.5f;
        return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000));
    }
    std::uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
    return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}

float f8_e4m3_to_float(std::uint8_t bits) { return decode(e4m3, bits); }
std::uint8_t float_to_f8_e4m3(float value) { return encode(e4m3, value); }
float f8_e5m2_to_float(std::uint8_t bits) { return decode(e5m2, bits); }
std::uint8_t float_to_f8_e5m2(float value) { return encode(e5m2, value); }

std::span<const DTypeInfo> dtype_table() { return table; }
const DTypeInfo& dtype_info(DType dtype) { return table[static_cast<std::size_t>(dtype)]; }

std::optional<DType> dtype_from_name(std::string_view name) {
    for (const auto& info : table)
        if (info.name == name) return info.dtype;
    return std::nullopt;
}

std::optional<std::int64_t> dtype_bytes(DType dtype, std::int64_t n_elements) {
    auto bits = checked_mul<std::int64_t>(n_elements, dtype_info(dtype).bits);
    if (!bits || *bits % 8 != 0) return std::nullopt;
    return *bits / 8;
}

}  // namespace skiff
