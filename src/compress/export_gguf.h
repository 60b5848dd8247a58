// Writes a checkpoint as a GGUF file. Planning looks at every tensor and writes nothing; writing holds one tensor in memory at a time.
#pragma once

#include <string>
#include <vector>

#include "base/progress.h"
#include "formats/gguf_writer.h"
#include "model/checkpoint.h"
#include "model/gguf_maps.h"

namespace skiff {

struct GgufExportOptions {
    // A type that can be written ("Q4_K"), or "auto": what keeps the numbers as they are. Of the other two, "auto" is the type itself from
    // 8 bit on, else Q8_0, with K types Q6_K.
    std::string type = "auto";
    std::string head_type = "auto";
    std::string embedding_type = "auto";
};

struct GgufExport {
    GgufLayout layout;
    struct Tensor {
        std::vector<std::string> keys;  // one, or all experts in order; none: `values`
        GgufChange change = GgufChange::none;
        std::vector<float> values;
    };
    std::vector<Tensor> tensors;     // as in the layout
    std::vector<std::string> notes;  // where numbers change, and what other programs will not do
    std::uint64_t data_bytes = 0;
    std::int64_t head_dim = 1;
};

// The types that --type takes, without "auto".
std::vector<std::string> gguf_export_types();

Result<GgufExport> plan_gguf_export(const Checkpoint& checkpoint, const GgufExportOptions& options);

// Replaces a file of that name at the end. The result does not depend on the number of threads.
Status write_gguf_export(const Checkpoint& checkpoint, const GgufExport& plan, const std::string& path, int n_threads, const ProgressSink& progress);

}  // namespace skiff
