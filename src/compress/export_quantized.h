// Writes a quantized checkpoint in the form of another program, integers and scales as they are: GPTQ, AWQ. Planning looks at every tensor and writes
// nothing; what the form has no words for is an error that says so.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/progress.h"
#include "compress/export_hf.h"
#include "model/checkpoint.h"

namespace skiff {

// A form: its name for --to, and what it can say of one module. The table is in export_quantized.cpp.
struct QuantizedForm;
const QuantizedForm* find_quantized_form(const std::string& name);

struct QuantizedExport {
    const QuantizedForm* form = nullptr;
    std::map<std::string, Scheme> modules;             // module -> its codes
    std::map<std::string, std::uint64_t> module_bytes;
    std::map<std::string, std::string> orders;         // key of a weight whose columns are reordered -> key of their order
    std::vector<TensorDeclaration> tensors;            // all, in the order in which they are written
    std::map<std::string, DType> plain;                // key -> type of the tensors that hold plain numbers
    Json config;
    std::vector<std::string> files, notes;
    std::uint64_t data_bytes = 0;
};

Result<QuantizedExport> plan_quantized_export(const Checkpoint& checkpoint, const std::string& form);

// Fills a folder that exists, such as AtomicDirectory's working one.
Status write_quantized_export(const Checkpoint& checkpoint, const QuantizedExport& plan, const std::string& folder, const ProgressSink& progress);

}  // namespace skiff
