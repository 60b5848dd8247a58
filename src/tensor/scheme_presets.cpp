#include "tensor/scheme.h"

namespace skiff {
namespace {

constexpr Scheme floats(DType dtype, int bits) { return {NumberKind::floating, dtype, bits, true, 0, DType::f16}; }
constexpr Scheme integers(int bits, std::int64_t group_size) { return {NumberKind::integer, DType::bf16, bits, true, group_size, DType::f16}; }
constexpr Scheme asymmetric(int bits, std::int64_t group_size) { return {NumberKind::integer, DType::bf16, bits, false, group_size, DType::f16}; }

constexpr SchemePreset presets[] = {
    {"fp32", floats(DType::f32, 32), "32-bit floats"},
    {"fp16", floats(DType::f16, 16), "16-bit floats of IEEE: 11 significant bits, up to 65504"},
    {"bf16", floats(DType::bf16, 16), "16-bit brain floats: 8 significant bits, the range of fp32"},
    {"w8", integers(8, 0), "8-bit codes, one scale per row"},
    {"w8a", asymmetric(8, 0), "8-bit codes, one scale and zero per row"},
    {"w8g32", integers(8, 32), "8-bit codes, one scale per 32 weights"},
    {"w8g32a", asymmetric(8, 32), "8-bit codes, one scale and zero per 32 weights"},
    {"w4g32", integers(4, 32), "4-bit codes, one scale per 32 weights"},
    {"w4g32a", asymmetric(4, 32), "4-bit codes, one scale and zero per 32 weights"},
    {"w4g64", integers(4, 64), "4-bit codes, one scale per 64 weights"},
    {"w4g64a", asymmetric(4, 64), "4-bit codes, one scale and zero per 64 weights"},
    {"w4g128", integers(4, 128), "4-bit codes, one scale per 128 weights"},
    {"w4g128a", asymmetric(4, 128), "4-bit codes, one scale and zero per 128 weights"},
};

}  // namespace

std::span<const SchemePreset> scheme_presets() { return presets; }

}  // namespace skiff
