#include "compress/onnx/onnx_export.h"

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "compress/onnx/onnx_operators.h"
#include "compress/parent_files.h"

namespace skiff {
namespace {

constexpr std::uint64_t external_from_bytes = 1024;   // readers of the graph need the small ones at once
constexpr std::uint64_t page_bytes = 4096;            // tensors begin on pages, so that they can be mapped
constexpr std::size_t write_bytes = std::size_t{1} << 20;
constexpr std::string_view model_name = "model.onnx", data_name = "model.onnx.data";

Status run_source(const OnnxInitializer& initializer, const OnnxDataSink& sink) {
    std::uint64_t n = 0;
    auto status = initializer.source([&](std::span<const std::byte> bytes) {
        n += bytes.size();
        return sink(bytes);
    });
    if (!status.ok()) return status.take_error().with_context("tensor " + initializer.tensor.name);
    if (n != initializer.size_bytes)
        return runtime_error("tensor " + initializer.tensor.name + " has " + std::to_string(n) + " bytes, its shape says " + std::to_string(initializer.size_bytes));
    return {};
}

void add_notes(const Checkpoint& checkpoint, const OnnxExportOptions& options, OnnxExport& plan) {
    std::map<std::string, bool> said;
    for (const Block& block : checkpoint.spec.blocks)
        for (const Op& op : block.ops) {
            const auto* attention = std::get_if<AttentionOp>(&op.detail);
            const auto* rope = std::get_if<RopeOp>(&op.detail);
            if (attention != nullptr && attention->window > 0 && !said["window"]) {
                said["window"] = true;
                plan.notes.push_back("attention windows are in the mask; the state keeps all positions");
            }
            if (std::holds_alternative<RouteOp>(op.detail) && !said["experts"]) {
                said["experts"] = true;
                plan.notes.push_back("all experts are computed for every token; those not chosen have the weight 0");
            }
            if (rope != nullptr && !rope->inv_freq.empty() && !said["rope"]) {
                said["rope"] = true;
                const std::int64_t n = options.context > 0 ? options.context : checkpoint.spec.max_positions;
                plan.notes.push_back("sequences may have up to " + std::to_string(n) + " tokens");
                if (!rope->long_inv_freq.empty())
                    plan.notes.push_back("rope has its frequencies for texts of " + std::string(n > rope->long_above ? "more than " : "up to ") +
                                         std::to_string(rope->long_above) + " tokens; --context chooses");
            }
        }
    if (checkpoint.kind == Checkpoint::Kind::gguf) plan.notes.push_back("the tokenizer stays in the GGUF file");
}

}  // namespace

Result<OnnxExport> plan_onnx_export(const Checkpoint& checkpoint, const OnnxExportOptions& options) {
    OnnxGraphBuilder graph;
    OnnxOperators operators(graph, options, checkpoint.spec, checkpoint.weights);
    auto status = operators.add_model();
    if (!status.ok()) return status.take_error().with_context(checkpoint.path);
    OnnxExport plan;
    plan.model = graph.finish();
    plan.model.graph_name = checkpoint.name;
    plan.initializers = graph.take_initializers();
    plan.counts = operators.forms().counts();
    for (const OnnxInitializer& initializer : plan.initializers) plan.data_bytes += initializer.size_bytes;
    add_notes(checkpoint, options, plan);
    return plan;
}

Status write_onnx_tensors(const std::vector<OnnxInitializer>& initializers, OnnxModel& model, const std::string& data_path, const ProgressSink& progress) {
    std::uint64_t total = 0, done = 0;
    bool any_external = false;
    for (const OnnxInitializer& initializer : initializers) {
        total += initializer.size_bytes;
        any_external = any_external || initializer.size_bytes >= external_from_bytes;
    }
    std::optional<AtomicFile> file;
    if (any_external) {
        SKIFF_TRY(auto made, AtomicFile::create(data_path));
        file.emplace(std::move(made));
    }
    for (const OnnxInitializer& initializer : initializers) {
        OnnxTensor tensor = initializer.tensor;
        if (initializer.size_bytes < external_from_bytes) {
            SKIFF_CHECK(run_source(initializer, [&](std::span<const std::byte> bytes) -> Status {
                tensor.data.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
                return {};
            }));
        } else {
            SKIFF_CHECK(file->pad_to(page_bytes));
            tensor.external = OnnxTensor::External{data_path.substr(data_path.rfind('/') + 1), file->size_bytes(), initializer.size_bytes};
            std::string pending;  // rows are small, writes should not be
            SKIFF_CHECK(run_source(initializer, [&](std::span<const std::byte> bytes) -> Status {
                pending.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
                if (pending.size() < write_bytes) return {};
                auto status = file->write(pending);
                pending.clear();
                return status;
            }));
            SKIFF_CHECK(file->write(pending));
        }
        model.initializers.push_back(std::move(tensor));
        done += initializer.size_bytes;
        if (progress) progress({"convert", initializer.tensor.name, done, total});
        if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted", {}};
    }
    return file ? file->commit() : Status();
}

Status write_onnx_graph(const OnnxExport& plan, const std::string& folder, const ProgressSink& progress) {
    OnnxModel model = plan.model;
    SKIFF_CHECK(write_onnx_tensors(plan.initializers, model, join_path(folder, std::string(data_name)), progress));
    SKIFF_TRY(const auto bytes, serialize_onnx(model));
    return write_file_atomic(join_path(folder, std::string(model_name)), bytes);
}

Status write_onnx_export(const Checkpoint& checkpoint, const OnnxExport& plan, const std::string& folder, const ProgressSink& progress) {
    SKIFF_CHECK(write_onnx_graph(plan, folder, progress));
    Json config = checkpoint.config;
    config.erase("quantization_config");
    SKIFF_CHECK(write_file_atomic(join_path(folder, "config.json"), config.dump(2) + "\n"));
    return copy_parent_files(checkpoint, folder);
}

}  // namespace skiff
