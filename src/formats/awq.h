// AWQ checkpoints (Lin et al. 2024) as AutoAWQ writes them, of the versions GEMM and GEMV: docs/formats/awq.md.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "formats/compressed_tensors.h"
#include "formats/quantized_reader.h"

namespace skiff {

// Nothing, or why the format has no words for codes of this scheme and shape, and what to do.
Status check_awq(const Scheme& scheme, const Shape& shape);

// The tensors of one module of the version GEMM: qweight, qzeros, scales.
Result<std::vector<StoredTensor>> awq_tensors(const std::string& module, const Weight& weight);
std::vector<TensorDeclaration> awq_declarations(const std::string& module, const Scheme& scheme, const Shape& shape);

// The quantization_config; group_size 0: the whole row, the same for all modules. `plain` names the linear modules that stay as they are.
Json awq_config(std::int64_t group_size, const std::vector<std::string>& plain);

}  // namespace skiff
