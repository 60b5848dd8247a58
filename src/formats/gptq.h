// GPTQ checkpoints (Frantar et al. 2022) as AutoGPTQ, GPTQModel and optimum write them: docs/formats/gptq.md.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "formats/compressed_tensors.h"
#include "formats/quantized_reader.h"

namespace skiff {

// Zeros are stored less one in the first form of the format, as they are in the second.
enum class GptqForm : std::uint8_t { v1, v2 };

// Nothing, or why the format has no words for codes of this scheme and shape, and what to do.
Status check_gptq(const Scheme& scheme, const Shape& shape);

// The tensors of one module, ready to be written: qweight, qzeros, scales, g_idx. `order`: the input of each column, or empty.
Result<std::vector<StoredTensor>> gptq_tensors(const std::string& module, const Weight& weight, GptqForm form, const std::vector<std::int32_t>& order);
std::vector<TensorDeclaration> gptq_declarations(const std::string& module, const Scheme& scheme, const Shape& shape);

// The quantization_config for modules of these schemes; `plain` names the linear modules that stay as they are. The commonest bits and group size
// are said for all, the others in "dynamic". `reordered`: some module has an order.
struct GptqModel {
    std::map<std::string, Scheme> modules;
    std::vector<std::string> plain;
    bool reordered = false;
    // Of the GPTQ that chose the codes, where one did and it is known: "damp_percent", "true_sequential". Both are notes, which no reader computes with.
    Json::Object made;
    GptqForm form() const;  // v1 where everything is symmetric: its zeros mean the same to all readers
};
Json gptq_config(const GptqModel& model);

}  // namespace skiff
