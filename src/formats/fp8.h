// FP8 weights with scales beside them: per tensor, per row of outputs, or per block of rows and columns (DeepSeek's weight_scale_inv).
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "formats/compressed_tensors.h"
#include "tensor/weight.h"

namespace skiff {

// `<module>.weight` of F8_E4M3 or F8_E5M2 times `.weight_scale` or `.weight_scale_inv` (both multiply). It stays codes, with a scale in F32 for each row and the
// columns of a block: the same products, rounded to F32 as other programs round them. Where groups or scales are none that the kernels have, it becomes these
// products; in BF16 where all are numbers of that type. Nothing where the weight is no FP8 or has no scales.
Result<std::optional<Weight>> read_fp8_weight(const std::string& module, const TensorLookup& lookup, const Fp8Blocks& blocks);

}  // namespace skiff
