// Writes a checkpoint as an ONNX graph with its state (keys and values) going in and out: the way to other runtimes, GPUs and NPUs.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/progress.h"
#include "compress/onnx/onnx_forms.h"
#include "model/checkpoint.h"

namespace skiff {

struct OnnxExport {
    OnnxModel model;                            // without initializers
    std::vector<OnnxInitializer> initializers;  // in the order of use
    std::map<std::string, OnnxForms::Count> counts;
    std::vector<std::string> notes;
    std::uint64_t data_bytes = 0;
};

// The graph and what its tensors will be. No weight's numbers are read but those of vectors.
Result<OnnxExport> plan_onnx_export(const Checkpoint& checkpoint, const OnnxExportOptions& options);

// Fills a folder that exists: model.onnx with tensors under 1 KiB, model.onnx.data with the others, one in memory at a time; tokenizer files.
Status write_onnx_export(const Checkpoint& checkpoint, const OnnxExport& plan, const std::string& folder, const ProgressSink& progress);

// model.onnx and model.onnx.data alone.
Status write_onnx_graph(const OnnxExport& plan, const std::string& folder, const ProgressSink& progress);

// Initializers into `model` and, from 1 KiB, into the file `data_path`, which is named as beside the model.
Status write_onnx_tensors(const std::vector<OnnxInitializer>& initializers, OnnxModel& model, const std::string& data_path, const ProgressSink& progress);

}  // namespace skiff
