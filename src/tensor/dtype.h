// Element types: every type that safetensors names, with conversion to and from float where numbers make sense.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>

namespace skiff {

enum class DType : std::uint8_t {
    boolean, f4, f6_e2m3, f6_e3m2, u8, i8, f8_e5m2, f8_e4m3, f8_e8m0, f8_e4m3fnuz, f8_e5m2fnuz,
    i16, u16, f16, bf16, i32, u32, f32, c64, f64, i64, u64,
};

struct DTypeInfo {
    DType dtype;
    std::string_view name;  // safetensors' spelling: "BF16"
    int bits;
    bool is_float;
    // n elements; nullptr where a float makes no sense (complex, packed 4 and 6 bit types have their own codecs)
    void (*to_float)(const void* source, std::int64_t n, float* target);
    void (*from_float)(const float* source, std::int64_t n, void* target);  // round to nearest, ties to even; saturates where the type has no infinity
};

std::span<const DTypeInfo> dtype_table();
const DTypeInfo& dtype_info(DType dtype);
std::optional<DType> dtype_from_name(std::string_view name);
std::optional<std::int64_t> dtype_bytes(DType dtype, std::int64_t n_elements);  // nothing on overflow or when bits do not fill whole bytes

// bf16 is the upper half of a float.
inline float bf16_to_float(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
inline std::uint16_t float_to_bf16(float value) {
    std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<std::uint16_t>((bits >> 16) | 0x40);  // NaN stays NaN
    return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float f16_to_float(std::uint16_t bits);
std::uint16_t float_to_f16(float value);
float f8_e4m3_to_float(std::uint8_t bits);
std::uint8_t float_to_f8_e4m3(float value);
float f8_e5m2_to_float(std::uint8_t bits);
std::uint8_t float_to_f8_e5m2(float value);

}  // namespace skiff
