#include "compress/export_hf.h"

#include <algorithm>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "compress/export_folder.h"
#include "compress/manifest.h"

namespace skiff {
namespace {

Result<std::optional<DType>> parse_type(const std::string& name) {
    for (const auto& [text, dtype] : {std::pair{"F32", DType::f32}, {"F16", DType::f16}, {"BF16", DType::bf16}})
        if (name == text) return std::optional(dtype);
    if (name == "auto") return std::optional<DType>();
    return usage_error("--type " + name + " cannot be written to a Hugging Face folder; known: auto, F32, F16, BF16");
}

Status write_manifest(const Checkpoint& checkpoint, const std::string& type, std::vector<ManifestTensor> tensors, const std::string& folder) {
    Manifest manifest;
    manifest.tool = "skiff " SKIFF_VERSION;
    ManifestParent& parent = manifest.parent;
    parent.name = checkpoint.name;
    SKIFF_TRY(parent.content_hash, checkpoint.content_hash());
    parent.architecture = checkpoint.spec.architecture;
    for (const auto& [key, tensor] : checkpoint.spec.tensors) {
        if (!checkpoint.weights->contains(key)) continue;
        SKIFF_TRY(const auto weight, checkpoint.weights->load(key));
        parent.n_elements += static_cast<std::uint64_t>(element_count(weight.shape));
        parent.bytes += weight.stored_bytes();
    }
    describe_history(checkpoint.manifest, parent);
    manifest.steps.push_back(Json::object({{"kind", "convert"}, {"to", "hf"}, {"type", type}}));
    manifest.tensors = std::move(tensors);
    return write_file_atomic(join_path(folder, manifest_file_name), manifest_json(manifest).dump(1) + "\n");
}

}  // namespace

Result<HfExport> plan_hf_export(const Checkpoint& checkpoint, const HfExportOptions& options) {
    SKIFF_TRY(const auto wanted, parse_type(options.type));
    HfExport plan;
    plan.type = options.type;
    std::map<DType, std::int64_t> weights_by_type;
    for (const Block& block : checkpoint.spec.blocks)
        for (const Op& op : block.ops)
            if (const auto* linear = std::get_if<LinearOp>(&op.detail); linear != nullptr && (linear->terms.size() > 1 || linear->terms[0].kind != LinearTerm::Kind::packed))
                return unsupported("operator " + op.name + " is a product or a sum of several matrices, for which other programs have no words; this model runs as it is, in skiff");
    std::int64_t n_rounded = 0;
    for (const auto& [key, tensor] : checkpoint.spec.tensors) {
        DType stored = DType::bf16;
        if (checkpoint.kind != Checkpoint::Kind::random) {
            if (!checkpoint.weights->contains(key) && tensor.need == TensorDecl::Need::optional) continue;
            SKIFF_TRY(const auto weight, checkpoint.weights->load(key));
            const auto* sparse = weight.sparse();
            const Weight* numbers = weight.hashed() != nullptr ? weight.hashed()->bank.get() : &weight;  // hashed blocks are written out
            stored = numbers->plain() != nullptr ? numbers->plain()->dtype : sparse != nullptr && sparse->scheme.kind == NumberKind::floating ? sparse->scheme.dtype : DType::i8;
        }
        const DType dtype = wanted ? *wanted : is_float_type(stored) ? stored : DType::f16;
        n_rounded += !is_float_type(stored) && dtype != DType::f32;
        const Shape shape = checkpoint.spec.shape(tensor);
        plan.tensors.push_back({key, dtype, shape});
        plan.data_bytes += static_cast<std::uint64_t>(dtype_bytes(dtype, element_count(shape)).value_or(0));
        if (shape.size() > 1) weights_by_type[dtype] += element_count(shape);
    }
    if (n_rounded > 0)
        plan.notes.push_back(std::to_string(n_rounded) + " quantized tensors are rounded to 16 bits; --type F32 keeps their values exactly");
    plan.config = checkpoint.config;
    plan.config.erase("quantization_config");
    plan.config.erase("dtype");
    const auto most =
        std::max_element(weights_by_type.begin(), weights_by_type.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    const DType dtype = most == weights_by_type.end() ? DType::f32 : most->first;
    plan.config.set("torch_dtype", dtype == DType::f32 ? "float32" : dtype == DType::f16 ? "float16" : "bfloat16");
    plan.files = files_to_copy(checkpoint);
    if (checkpoint.kind == Checkpoint::Kind::gguf)
        plan.notes.push_back(
            "the tokenizer stays in the GGUF file: a folder needs a tokenizer.json, which is not made from it; copy the model's own");
    return plan;
}

Status write_hf_export(const Checkpoint& checkpoint, const HfExport& plan, const std::string& folder, const ProgressSink& progress) {
    SKIFF_TRY(auto writer, CheckpointWriter::create(folder, plan.tensors));
    const std::set<std::string> columns = keys_stored_as_columns(checkpoint.spec);
    std::uint64_t done = 0;
    std::vector<ManifestTensor> tensors;
    for (const TensorDeclaration& declared : plan.tensors) {
        SKIFF_TRY(auto weight, checkpoint.weights->load(declared.name));
        const auto bytes = static_cast<std::uint64_t>(dtype_bytes(declared.dtype, element_count(declared.shape)).value_or(0));
        ManifestTensor tensor{declared.name, weight.encoding_name(), std::string(dtype_info(declared.dtype).name), static_cast<std::uint64_t>(element_count(declared.shape)), bytes, 0, ""};
        const auto loss = write_plain_tensor(writer, declared, std::move(weight), columns);
        if (!loss.ok()) return Error(loss.error()).with_context("tensor " + declared.name);
        tensor.relative_squared_error = loss->relative();
        tensors.push_back(std::move(tensor));
        done += bytes;
        if (progress) progress({"convert", declared.name, done, plan.data_bytes});
        if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted", {}};
    }
    SKIFF_CHECK(writer.commit());
    if (!checkpoint.manifest.is_null()) SKIFF_CHECK(write_manifest(checkpoint, plan.type, std::move(tensors), folder));
    return write_folder_files(checkpoint, plan.config, plan.files, folder);
}

}  // namespace skiff
