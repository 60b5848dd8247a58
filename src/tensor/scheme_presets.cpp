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
    {"w6g32r", "w6g32r", "6-bit codes, an 8-bit scale per 32 weights, relative to the row's"},
    {"w5g32r", "w5g32r", "5-bit codes, an 8-bit scale per 32 weights, relative to the row's"},
    {"w4g32", "w4g32", "4-bit codes, one scale per 32 weights"},
    {"w4g32a", "w4g32a", "4-bit codes, one scale and zero per 32 weights"},
    {"w4g32r", "w4g32r", "4-bit codes, an 8-bit scale per 32 weights, relative to the row's"},
    {"w4g64", "w4g64", "4-bit codes, one scale per 64 weights"},
    {"w4g64a", "w4g64a", "4-bit codes, one scale and zero per 64 weights"},
    {"w4g128", "w4g128", "4-bit codes, one scale per 128 weights"},
    {"w4g128a", "w4g128a", "4-bit codes, one scale and zero per 128 weights"},
    {"w3g32r", "w3g32r", "3-bit codes, an 8-bit scale per 32 weights, relative to the row's"},
    {"w2g32r", "w2g32r", "2-bit codes, an 8-bit scale per 32 weights, relative to the row's"},
    {"n4g32r", "n4g32r", "4-bit codes of 16 uneven levels made for Gaussian weights, relative scales per 32"},
    {"n3g32r", "n3g32r", "3-bit codes of 8 uneven levels made for Gaussian weights, relative scales per 32"},
    {"n2g16r", "n2g16r", "2-bit codes of 4 uneven levels made for Gaussian weights, relative scales per 16"},
    {"n2g32r", "n2g32r", "2-bit codes of 4 uneven levels made for Gaussian weights, relative scales per 32"},
    {"n2g64r", "n2g64r", "2-bit codes of 4 uneven levels made for Gaussian weights, relative scales per 64"},
    {"b2g16r", "b2g16r", "2-bit codes of 4 even levels around zero (-1.5, -0.5, 0.5, 1.5), relative scales per 16: the grid of ParetoQ for skiff qat"},
    {"b2g32r", "b2g32r", "2-bit codes of 4 even levels around zero (-1.5, -0.5, 0.5, 1.5), relative scales per 32: likewise"},
    {"n4g16t", "n4g16t", "4-bit codes of n4's levels, a 4-bit scale of either sign per 16 weights, relative to the row's"},
    {"n3g16t", "n3g16t", "3-bit codes of n3's levels, a 4-bit scale of either sign per 16 weights, relative to the row's"},
    {"n2g16t", "n2g16t", "2-bit codes of n2's levels, a 4-bit scale of either sign per 16 weights, relative to the row's"},
    {"iq4nl", "iq4nlg32", "the 16 levels of GGUF's IQ4_NL, one scale per 32 weights"},
    {"nf4", "nf4g64", "NormalFloat: quantiles of a Gaussian, one scale per 64 weights"},
    {"mxfp4", "mxfp4", "4-bit floats (E2M1) with a power of two per 32 weights, the OCP microscaling format"},
    {"e4m3", "e4m3g0", "8-bit floats with 3 bits of mantissa, up to 448, one scale per row"},
    {"e5m2", "e5m2g0", "8-bit floats with 2 bits of mantissa, up to 57344, one scale per row"},
    {"k4", "k4", "2-bit indices into 4 learnt levels of the row"},
    {"k16", "k16", "4-bit indices into 16 learnt levels of the row"},
    {"k16tensor", "k16tensor", "4-bit indices into 16 learnt levels of the tensor"},
    {"k64tensor", "k64tensor", "6-bit indices into 64 learnt levels of the tensor"},
    {"k256tensor", "k256tensor", "8-bit indices into 256 learnt levels of the tensor"},
    {"v8k256", "v8k256", "vectors of 8 weights, one of 256 learnt ones for each: 1 bit a weight, one scale per row"},
    {"v2k16", "v2k16", "vectors of 2 weights, one of 16 learnt ones for each: 2 bits, one scale per row"},
    {"v4k256", "v4k256", "vectors of 4 weights, one of 256 learnt ones for each: 2 bits, one scale per row"},
    {"v4k256g16t", "v4k256g16t", "vectors of 4 weights, one of 256 learnt ones for each, a 4-bit scale of either sign per 16 weights"},
    {"v8k256x2", "v8k256x2", "vectors of 8 weights, the sum of two of 256 learnt ones for each: 2 bits, one scale per row"},
    {"v2k64", "v2k64", "vectors of 2 weights, one of 64 learnt ones for each: 3 bits, one scale per row"},
    {"v2k64g16t", "v2k64g16t", "vectors of 2 weights, one of 64 learnt ones for each, a 4-bit scale of either sign per 16 weights"},
    {"ternary", "ternaryg128", "-1, 0 or 1, one scale per 128 weights"},
    {"binary", "binaryg128", "-1 or 1, one scale per 128 weights"},
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
