#include "compress/export_hf.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/mapped_file.h"
#include "formats/checkpoint_files.h"

namespace skiff {
namespace {

constexpr std::string_view tokenizer_files[] = {
    "tokenizer.json", "tokenizer.model",         "tokenizer_config.json", "vocab.json",          "merges.txt",
    "vocab.txt",      "special_tokens_map.json", "added_tokens.json",     "chat_template.jinja", "generation_config.json"};

Result<std::optional<DType>> parse_type(const std::string& name) {
    for (const auto& [text, dtype] : {std::pair{"F32", DType::f32}, {"F16", DType::f16}, {"BF16", DType::bf16}})
        if (name == text) return std::optional(dtype);
    if (name == "auto") return std::optional<DType>();
    return usage_error("--type " + name + " cannot be written to a Hugging Face folder; known: auto, F32, F16, BF16");
}

bool is_float_type(DType dtype) { return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16; }

// Blocks and codes of a matrix that is declared the other way round are held as (outputs, inputs). (A square one does not show it.)
bool is_turned(const Weight& weight, const std::string& key, const std::set<std::string>& columns) { return weight.plain() == nullptr && columns.count(key) != 0; }

Result<Weight> as_floats(const Weight& weight) {
    std::vector<float> values(static_cast<std::size_t>(element_count(weight.shape)));
    if (weight.plain() != nullptr) {
        if (!to_floats(*weight.plain(), values)) return unsupported("a type that is no number");
        return make_float_weight(weight.shape, std::move(values));
    }
    for (std::int64_t row = 0; row < weight.n_rows(); ++row) weight.row(row, values.data() + row * weight.n_columns());
    return make_float_weight(weight.shape, std::move(values));
}

Status write_tensor(CheckpointWriter& writer, const TensorDeclaration& declared, Weight weight, bool turned) {
    if (weight.plain() != nullptr && weight.plain()->dtype == declared.dtype) return writer.write(declared.name, weight.plain()->data);
    SKIFF_TRY(auto floats, as_floats(weight));
    if (turned) floats = transposed(floats);
    if (declared.dtype == DType::f32) return writer.write(declared.name, floats.plain()->data);
    constexpr std::size_t batch = std::size_t{1} << 20;
    std::vector<float> values(batch);
    std::vector<std::byte> bytes(batch * 2);
    const auto data = floats.plain()->data;
    for (std::size_t begin = 0; begin < data.size() / 4; begin += batch) {
        const std::size_t n = std::min(batch, data.size() / 4 - begin);
        std::memcpy(values.data(), data.data() + begin * 4, n * 4);
        for (std::size_t i = 0; i < n; ++i)
            if (declared.dtype == DType::f16 && !(std::abs(values[i]) <= 65504))
                return corrupt("number " + std::to_string(begin + i) + " does not fit F16; choose --type BF16 or F32");
        dtype_info(declared.dtype).from_float(values.data(), static_cast<std::int64_t>(n), bytes.data());
        SKIFF_CHECK(writer.write(declared.name, std::span(bytes).first(n * 2)));
    }
    return {};
}

// What a GGUF file says about the end of a text and how to chat.
Status write_gguf_extras(const Checkpoint& checkpoint, const std::string& folder) {
    auto tokenizer = checkpoint.load_tokenizer();
    if (!tokenizer.ok()) return {};
    Json ends = Json::array();
    for (const std::int32_t id : tokenizer->eos_ids()) ends.push_back(id);
    Json generation = Json::object({{"eos_token_id", ends}});
    if (tokenizer->bos_id()) generation.set("bos_token_id", *tokenizer->bos_id());
    SKIFF_CHECK(write_file_atomic(join_path(folder, "generation_config.json"), generation.dump(2) + "\n"));
    if (!tokenizer->chat_template().empty()) SKIFF_CHECK(write_file_atomic(join_path(folder, "chat_template.jinja"), tokenizer->chat_template()));
    return {};
}

}  // namespace

Result<HfExport> plan_hf_export(const Checkpoint& checkpoint, const HfExportOptions& options) {
    SKIFF_TRY(const auto wanted, parse_type(options.type));
    HfExport plan;
    std::map<DType, std::int64_t> weights_by_type;
    std::int64_t n_rounded = 0;
    for (const auto& [key, tensor] : checkpoint.spec.tensors) {
        DType stored = DType::bf16;
        if (checkpoint.kind != Checkpoint::Kind::random) {
            if (!checkpoint.weights->contains(key) && tensor.need == TensorDecl::Need::optional) continue;
            SKIFF_TRY(const auto weight, checkpoint.weights->load(key));
            stored = weight.plain() != nullptr ? weight.plain()->dtype : DType::i8;
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
    if (checkpoint.kind == Checkpoint::Kind::folder)
        for (const std::string_view file : tokenizer_files)
            if (file_exists(join_path(checkpoint.path, std::string(file)))) plan.files.emplace_back(file);
    if (checkpoint.kind == Checkpoint::Kind::gguf)
        plan.notes.push_back(
            "the tokenizer stays in the GGUF file: a folder needs a tokenizer.json, which is not made from it; copy the model's own");
    return plan;
}

Status write_hf_export(const Checkpoint& checkpoint, const HfExport& plan, const std::string& folder, const ProgressSink& progress) {
    SKIFF_TRY(auto writer, CheckpointWriter::create(folder, plan.tensors));
    const std::set<std::string> columns = keys_stored_as_columns(checkpoint.spec);
    std::uint64_t done = 0;
    for (const TensorDeclaration& declared : plan.tensors) {
        SKIFF_TRY(auto weight, checkpoint.weights->load(declared.name));
        const bool turned = is_turned(weight, declared.name, columns);
        if (weight.shape != (turned ? Shape{declared.shape[1], declared.shape[0]} : declared.shape))
            return corrupt("tensor " + declared.name + " has shape " + shape_text(weight.shape) + ", the config implies " +
                           shape_text(declared.shape));
        auto status = write_tensor(writer, declared, std::move(weight), turned);
        if (!status.ok()) return status.take_error().with_context("tensor " + declared.name);
        done += static_cast<std::uint64_t>(dtype_bytes(declared.dtype, element_count(declared.shape)).value_or(0));
        if (progress) progress({"convert", declared.name, done, plan.data_bytes});
        if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted", {}};
    }
    SKIFF_CHECK(writer.commit());
    SKIFF_CHECK(write_file_atomic(join_path(folder, "config.json"), plan.config.dump(2) + "\n"));
    for (const std::string& file : plan.files) {
        SKIFF_TRY(const auto text, read_text_file(join_path(checkpoint.path, file), std::size_t{256} << 20));
        SKIFF_CHECK(write_file_atomic(join_path(folder, file), text));
    }
    return checkpoint.kind == Checkpoint::Kind::gguf ? write_gguf_extras(checkpoint, folder) : Status();
}

}  // namespace skiff
