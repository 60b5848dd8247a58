// Writes a checkpoint as a Hugging Face folder of plain weights: what a GGUF file or a quantized model is for programs that know neither.
#pragma once

#include <string>
#include <vector>

#include "base/progress.h"
#include "formats/safetensors.h"
#include "model/checkpoint.h"

namespace skiff {

struct HfExportOptions {
    std::string type = "auto";  // F32, F16 or BF16; auto: plain weights as they are, others F16
};

struct HfExport {
    std::vector<TensorDeclaration> tensors;
    Json config;
    std::vector<std::string> files;  // copied from the source folder
    std::vector<std::string> notes;
    std::uint64_t data_bytes = 0;
    std::string type;  // as it was asked for
};

Result<HfExport> plan_hf_export(const Checkpoint& checkpoint, const HfExportOptions& options);

// Fills a folder that exists, such as AtomicDirectory's working one. Of a model with a manifest it gets one too, which goes on with the steps: {"kind": "convert", "to": "hf", "type"}.
Status write_hf_export(const Checkpoint& checkpoint, const HfExport& plan, const std::string& folder, const ProgressSink& progress);

}  // namespace skiff
