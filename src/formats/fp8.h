// FP8 weights with scales beside them: per tensor, per row of outputs, or per block of rows and columns (DeepSeek's weight_scale_inv).
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "formats/compressed_tensors.h"
#include "tensor/weight.h"

namespace skiff {

struct Fp8Blocks {
    std::int64_t rows = 128, columns = 128;  // that share a scale where the scales are a matrix of blocks
};

// `<module>.weight` of F8_E4M3 or F8_E5M2 times `.weight_scale` or `.weight_scale_inv` (both multiply), each product rounded to F32 as other programs
// round it; BF16 where all products are numbers of that type. Nothing where the weight is no FP8 or has no scales.
Result<std::optional<Weight>> read_fp8_weight(const std::string& module, const TensorLookup& lookup, const Fp8Blocks& blocks);

}  // namespace skiff
