#include "compress/export_quantized.h"

#include <algorithm>

#include "base/mapped_file.h"
#include "compress/export_folder.h"
#include "compress/tensor_plan.h"
#include "formats/awq.h"
#include "formats/gptq.h"
#include "formats/packed_inputs.h"
#include "model/extra_terms.h"
#include "model/input_order.h"
#include "tensor/blocks_to_codes.h"

namespace skiff {

struct QuantizedForm {
    std::string_view name;
    Status (*check)(const Scheme& scheme, const Shape& shape);
    std::vector<TensorDeclaration> (*declarations)(const std::string& module, const Scheme& scheme, const Shape& shape);
    // `model`: all modules, which decide the form of one.
    Result<std::vector<StoredTensor>> (*tensors)(const std::string& module, const Weight& weight, const std::vector<std::int32_t>& order, const GptqModel& model);
    Result<Json> (*config)(const GptqModel& model);
    std::string_view config_file;  // that programs read which know no quantization_config; empty: none
};

namespace {

Result<std::vector<StoredTensor>> to_gptq(const std::string& module, const Weight& weight, const std::vector<std::int32_t>& order, const GptqModel& model) {
    return gptq_tensors(module, weight, model.form(), order);
}
Result<Json> config_of_gptq(const GptqModel& model) { return gptq_config(model); }

Result<std::vector<StoredTensor>> to_awq(const std::string& module, const Weight& weight, const std::vector<std::int32_t>&, const GptqModel&) {
    return awq_tensors(module, weight);
}
Result<Json> config_of_awq(const GptqModel& model) {
    const auto& [first, scheme] = *model.modules.begin();
    for (const auto& [name, other] : model.modules)
        if (other.group_size != scheme.group_size)
            return unsupported("AWQ has one group size for all modules, but " + first + " is " + scheme.name() + " and " + name + " is " + other.name() + "; quantize all to one scheme, or take --to gptq");
    if (model.reordered) return unsupported("AWQ has no words for columns reordered by activation; take --to gptq");
    return awq_config(scheme.group_size, model.plain);
}

constexpr QuantizedForm forms[] = {
    {"gptq", check_gptq, gptq_declarations, to_gptq, config_of_gptq, "quantize_config.json"},
    {"awq", check_awq, awq_declarations, to_awq, config_of_awq, ""},
};

// The weight as codes, where it is codes or blocks of GGUF that are nothing else.
Result<Weight> load_codes(const Checkpoint& checkpoint, const std::string& key) {
    SKIFF_TRY(auto weight, checkpoint.weights->load(key));
    if (auto codes = codes_of_blocks(weight)) return std::move(*codes);
    return weight;
}

DType half_type(const Json& config) {
    for (const char* key : {"dtype", "torch_dtype"})
        if (config[key].is_string() && config[key].text() == "bfloat16") return DType::bf16;
    return DType::f16;
}

std::uint64_t bytes_of(const TensorDeclaration& tensor) { return static_cast<std::uint64_t>(dtype_bytes(tensor.dtype, element_count(tensor.shape)).value_or(0)); }

class Planner {
public:
    Planner(const Checkpoint& checkpoint, const QuantizedForm& form) : checkpoint_(checkpoint), uses_(tensor_uses(checkpoint.spec)) { plan_.form = &form; }

    Result<QuantizedExport> run() {
        if (checkpoint_.kind == Checkpoint::Kind::random) return usage_error("a random model is not quantized; give a quantized folder or GGUF file");
        SKIFF_CHECK(check_operators());
        plan_.orders = reordered_weights(checkpoint_.spec);
        for (const auto& [key, tensor] : checkpoint_.spec.tensors) {
            if (key.ends_with(input_permutation_end) || (!checkpoint_.weights->contains(key) && tensor.need == TensorDecl::Need::optional)) continue;
            auto added = add(key, tensor);
            if (!added.ok()) return added.take_error().with_context("tensor " + key);
        }
        if (model_.modules.empty())
            return usage_error("the model has no quantized weights to write as " + std::string(plan_.form->name) + "; quantize it first: skiff quantize " + checkpoint_.path + " --scheme w4g128 -o FOLDER");
        model_.reordered = !plan_.orders.empty();
        model_.made = how_codes_were_chosen();
        plan_.modules = model_.modules;
        for (const TensorDeclaration& tensor : plan_.tensors) plan_.data_bytes += bytes_of(tensor);
        SKIFF_TRY(auto quantization, plan_.form->config(model_));
        plan_.config = checkpoint_.config;
        if (!all_bf16_) {  // loaders turn the scales into the type that the model computes in
            plan_.config.erase("dtype");
            plan_.config.set("torch_dtype", "float16");
        }
        plan_.config.set("quantization_config", std::move(quantization));
        plan_.files = files_to_copy(checkpoint_);
        if (n_rounded_ > 0)
            plan_.notes.push_back((n_rounded_ == 1 ? std::string("an embedding or head is") : std::to_string(n_rounded_) + " embeddings and heads are") + " rounded to 16 bits; quantize with --compat to leave them in 16 bits from the start");
        if (checkpoint_.kind == Checkpoint::Kind::gguf) plan_.notes.push_back("the tokenizer stays in the GGUF file; copy the tokenizer.json of the model that it was made from");
        return std::move(plan_);
    }

private:
    // By the manifest; or by what the checkpoint itself says, where it is GPTQ's already.
    Json::Object how_codes_were_chosen() const {
        Json::Object made;
        const Json &steps = checkpoint_.manifest["steps"], &before = checkpoint_.config["quantization_config"];
        for (const Json& step : steps.items()) {
            if (step["kind"].text() != "quantize") continue;
            made.clear();
            if (step["method"].text() != "gptq") continue;
            made.emplace_back("damp_percent", step["method_options"]["damping"]);
            made.emplace_back("true_sequential", false);  // all inputs of a block are measured before any of its weights are rounded
        }
        if (steps.size() > 0 || before["quant_method"].text() != "gptq") return made;
        for (const char* key : {"damp_percent", "true_sequential"})
            if (!before[key].is_null()) made.emplace_back(key, before[key]);
        return made;
    }

    Status check_operators() const {
        for (const Block& block : checkpoint_.spec.blocks)
            for (const Op& op : block.ops)
                if (const auto* linear = std::get_if<LinearOp>(&op.detail); linear != nullptr && (linear->terms.size() > 1 || linear->terms[0].kind != LinearTerm::Kind::packed || linear->transform.kind == InputTransform::Kind::scale))
                    return unsupported("operator " + op.name + " has more than one term, factors or scales its input, for which " + std::string(plan_.form->name) + " has no words; take --to hf");
        return {};
    }

    Status add(const std::string& key, const TensorDecl& tensor) {
        SKIFF_TRY(const auto weight, load_codes(checkpoint_, key));
        const TensorUse use = uses_.at(key);
        const std::string module = module_of_key(key);
        const bool is_inner = use == TensorUse::linear || use == TensorUse::router;
        if (is_inner && module != key && weight.plain() == nullptr) {
            if (weight.codes() == nullptr) return unsupported(weight.encoding_name() + " blocks have no codes of their own; take --to hf, or quantize the 16 bit model");
            const Scheme& scheme = weight.codes()->scheme;
            SKIFF_CHECK(plan_.form->check(scheme, weight.shape));
            SKIFF_CHECK(scales_as_f16(*weight.codes()));
            all_bf16_ = all_bf16_ && scheme.scale_dtype == DType::bf16;
            model_.modules[module] = scheme;
            for (TensorDeclaration& declared : plan_.form->declarations(module, scheme, weight.shape)) {
                plan_.module_bytes[module] += bytes_of(declared);
                plan_.tensors.push_back(std::move(declared));
            }
        } else {
            const bool is_plain = weight.plain() != nullptr && is_float_type(weight.plain()->dtype);
            const DType dtype = is_plain ? weight.plain()->dtype : half_type(checkpoint_.config);
            n_rounded_ += !is_plain;
            plan_.plain[key] = dtype;
            plan_.tensors.push_back({key, dtype, checkpoint_.spec.shape(tensor)});
            if ((is_inner || use == TensorUse::head) && module != key) model_.plain.push_back(module);
        }
        release_pages(weight);
        return {};
    }

    const Checkpoint& checkpoint_;
    std::map<std::string, TensorUse> uses_;
    GptqModel model_;
    QuantizedExport plan_;
    int n_rounded_ = 0;
    bool all_bf16_ = true;
};

Result<std::vector<std::int32_t>> load_order(const Checkpoint& checkpoint, const QuantizedExport& plan, const std::string& key) {
    std::vector<std::int32_t> order;
    const auto found = plan.orders.find(key);
    if (found == plan.orders.end()) return order;
    SKIFF_TRY(const auto stored, checkpoint.weights->load(found->second));
    std::vector<float> values;
    if (stored.plain() == nullptr || !to_floats(*stored.plain(), values)) return corrupt("tensor " + found->second + ": expected plain numbers");
    for (const float value : values) order.push_back(static_cast<std::int32_t>(value));
    return order;
}

}  // namespace

const QuantizedForm* find_quantized_form(const std::string& name) {
    for (const QuantizedForm& form : forms)
        if (form.name == name) return &form;
    return nullptr;
}

Result<QuantizedExport> plan_quantized_export(const Checkpoint& checkpoint, const std::string& form) {
    const QuantizedForm* row = find_quantized_form(form);
    if (row == nullptr) return usage_error("no form of quantized checkpoints is called \"" + form + "\"");
    return Planner(checkpoint, *row).run();
}

Status write_quantized_export(const Checkpoint& checkpoint, const QuantizedExport& plan, const std::string& folder, const ProgressSink& progress) {
    SKIFF_TRY(auto writer, CheckpointWriter::create(folder, plan.tensors));
    const std::set<std::string> columns = keys_stored_as_columns(checkpoint.spec);
    GptqModel model;
    model.modules = plan.modules;
    std::uint64_t done = 0;
    const auto advance = [&](const std::string& key, std::uint64_t bytes) {
        done += bytes;
        if (progress) progress({"convert", key, done, plan.data_bytes});
    };
    for (const auto& [key, dtype] : plan.plain) {
        if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted", {}};
        SKIFF_TRY(auto weight, checkpoint.weights->load(key));
        const Shape shape = checkpoint.spec.shape(checkpoint.spec.tensors.at(key));
        auto status = write_plain_tensor(writer, {key, dtype, shape}, std::move(weight), columns);
        if (!status.ok()) return status.take_error().with_context("tensor " + key);
        advance(key, bytes_of({key, dtype, shape}));
    }
    for (const auto& [module, scheme] : plan.modules) {
        if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted", {}};
        const std::string key = module + ".weight";
        SKIFF_TRY(const auto weight, load_codes(checkpoint, key));
        SKIFF_TRY(const auto order, load_order(checkpoint, plan, key));
        SKIFF_TRY(const auto tensors, plan.form->tensors(module, weight, order, model));
        for (const StoredTensor& tensor : tensors) {
            SKIFF_CHECK(writer.write(tensor.name, tensor.bytes));
            advance(key, tensor.bytes.size());
        }
        release_pages(weight);
    }
    SKIFF_CHECK(writer.commit());
    if (!plan.form->config_file.empty())
        SKIFF_CHECK(write_file_atomic(join_path(folder, std::string(plan.form->config_file)), plan.config["quantization_config"].dump(2) + "\n"));
    return write_folder_files(checkpoint, plan.config, plan.files, folder);
}

}  // namespace skiff
