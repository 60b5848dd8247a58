// Rounding to nearest: the grid's scales are fitted group by group, and each weight takes the closest value.
#include "compress/method.h"

namespace skiff {

Status nearest_defined_on(const Scheme& scheme) {
    if (scheme.kind == NumberKind::floating) {
        const bool stored = scheme.dtype == DType::f32 || scheme.dtype == DType::f16 || scheme.dtype == DType::bf16;
        if (!stored) return unsupported("weights are not stored as " + scheme.name() + " here; take fp32, fp16 or bf16");
        return {};
    }
    if (scheme.minimums) return unsupported("weights with minimums (" + scheme.name() + ") are read from GGUF files, not made; take w" + std::to_string(scheme.bits) + "g32a");
    if (scheme.kind == NumberKind::vectors) return decodes(scheme) ? Status() : unsupported(scheme.name() + " is no scheme of vectors");
    if (scheme.bits < 1 || scheme.bits > 8) return unsupported(scheme.name() + ": codes have 1 to 8 bits");
    return {};
}

Status codes_defined_on(const Scheme& scheme) {
    if (scheme.kind == NumberKind::floating) return unsupported("each number of " + scheme.name() + " is rounded by itself, so that no choice is left to a method; take --method nearest");
    if (scheme.kind == NumberKind::clusters) return unsupported("the levels of " + scheme.name() + " are found for each weight, so that codes are not chosen among given ones; take --method kmeans");
    if (scheme.kind == NumberKind::vectors) return unsupported("the books of " + scheme.name() + " are found for each weight, so that codes are not chosen among given ones; take --method gptq or kmeans");
    return nearest_defined_on(scheme);
}

Result<Weight> nearest_encode(const MethodInput& input) {
    return encode_nearest(input.weight, input.scheme, input.scale_rule, {}, &input.pool);
}

}  // namespace skiff
