#include "tensor/scheme.h"

namespace skiff {
namespace {

Scheme floats(DType dtype, int bits) { return {NumberKind::floating, dtype, bits, true, 0, DType::f16}; }

// Integer and codebook presets are named by what they are; the words without a group size are short for these.
struct Named {
    std::string_view name, content, summary;
};
constexpr Named coded[] = {
    {"w8", "w8", "8-bit codes, one scale per row"},
    {"w8a", "w8a", "8-bit codes, one scale and zero per row"},
    {"w8g32", "w8g32", "8-bit codes, one scale per 32 weights"},
    {"w8g32a", "w8g32a", "8-bit codes, one scale and zero per 32 weights"},
    {"w4g32", "w4g32", "4-bit codes, one scale per 32 weights"},
    {"w4g32a", "w4g32a", "4-bit codes, one scale and zero per 32 weights"},
    {"w4g64", "w4g64", "4-bit codes, one scale per 64 weights"},
    {"w4g64a", "w4g64a", "4-bit codes, one scale and zero per 64 weights"},
    {"w4g128", "w4g128", "4-bit codes, one scale per 128 weights"},
    {"w4g128a", "w4g128a", "4-bit codes, one scale and zero per 128 weights"},
};

std::vector<SchemePreset> all_presets() {
    std::vector<SchemePreset> presets = {
        {"fp32", floats(DType::f32, 32), "32-bit floats"},
        {"fp16", floats(DType::f16, 16), "16-bit floats of IEEE: 11 significant bits, up to 65504"},
        {"bf16", floats(DType::bf16, 16), "16-bit brain floats: 8 significant bits, the range of fp32"},
    };
    for (const Named& named : coded) presets.push_back({named.name, *scheme_of_content(named.content), named.summary});
    return presets;
}

}  // namespace

std::span<const SchemePreset> scheme_presets() {
    static const std::vector<SchemePreset> presets = all_presets();
    return presets;
}

}  // namespace skiff
