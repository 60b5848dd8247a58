// What comes out of training: samples on the way, a model folder at the end.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>

#include "base/mapped_file.h"
#include "compress/manifest.h"
#include "compress/parent_files.h"
#include "compress/quantize/coded_inputs.h"
#include "formats/checkpoint_files.h"
#include "formats/compressed_tensors.h"
#include "runtime/engine.h"
#include "train/training_setup.h"

namespace skiff::train {
namespace {

constexpr const char* scratch_files[] = {packed_name, packed_validation_name};

const char* config_dtype(DType dtype) { return dtype == DType::f16 ? "float16" : dtype == DType::bf16 ? "bfloat16" : "float32"; }

// Where the file says how the inputs of a weight are coded; else null.
const PlannedTensor* planned_inputs(const TrainingSetup& setup, const Parameter& parameter) {
    if (parameter.inputs != InputForm::fixed && parameter.inputs != InputForm::tokens) return nullptr;
    const auto& plan = setup.quant_plan->tensors;
    return &*std::find_if(plan.begin(), plan.end(), [&](const PlannedTensor& planned) { return planned.key == parameter.key; });
}

// The tensors of a weight that is no plain matrix.
Result<std::vector<StoredTensor>> tensors_of(const TrainingSetup& setup, const Parameter& parameter, const Weight& weight) {
    const PlannedTensor* planned = planned_inputs(setup, parameter);
    if (planned == nullptr) return weight_tensors(module_of_key(parameter.key), weight);
    return coded_input_tensors(*planned, weight, parameter.input_scale ? parameter.input_scale->scale() : 0.0f);
}

// What was trained, a part of the model at a time: the whole is one.
Status for_each_part(const TrainingSetup& setup, const std::function<Status(const ParameterSet&, const MagnitudeMasks*)>& visit) {
    const auto masks_of = [](const std::optional<MagnitudeMasks>& masks) { return masks ? &*masks : nullptr; };
    if (!setup.blockwise) return visit(setup.model->parameters(), masks_of(setup.masks));
    return setup.blockwise->student->for_each_part([&](const Student& part) { return visit(part.model->parameters(), masks_of(part.masks)); });
}

// What is to be written, known before it is.
struct WeightFiles {
    std::map<std::string, std::vector<TensorDeclaration>> declarations;  // by key
    std::map<std::string, SparsePattern> patterns;                       // of the weights that are written without their zeros
    MagnitudeMasks::Count masked;
    double sparsity() const { return masked.all > 0 ? masked.zeros / masked.all : 0; }
};

Status declare_weights(const TrainingSetup& setup, const ParameterSet& parameters, std::optional<DType> dtype, WeightFiles& files) {
    const auto source = parameters.source(dtype);
    for (const Parameter& parameter : parameters.all()) {
        std::vector<TensorDeclaration>& declarations = files.declarations[parameter.key];
        declarations = {{parameter.key, dtype.value_or(parameter.stored), Shape(parameter.value.sizes().begin(), parameter.value.sizes().end())}};
        if (!parameter.bank && !parameter.quant && !parameter.mask.defined()) continue;
        SKIFF_TRY(const auto weight, source->load(parameter.key));  // which tensors it has depends on the mask, and on the type of its scales
        if (weight.plain() != nullptr) continue;
        if (weight.sparse() != nullptr) files.patterns[parameter.key] = weight.sparse()->pattern;
        SKIFF_TRY(const auto parts, tensors_of(setup, parameter, weight));
        declarations.clear();
        for (const StoredTensor& part : parts) declarations.push_back({part.name, part.dtype, part.shape});
    }
    return {};
}

Status write_weights(const TrainingSetup& setup, const ParameterSet& parameters, std::optional<DType> dtype, CheckpointWriter& writer, Manifest& manifest) {
    const auto source = parameters.source(dtype);
    for (const Parameter& parameter : parameters.all()) {
        SKIFF_TRY(const auto weight, source->load(parameter.key));
        if (weight.plain() == nullptr) {
            SKIFF_TRY(const auto parts, tensors_of(setup, parameter, weight));
            for (const StoredTensor& part : parts) SKIFF_CHECK(writer.write(part.name, part.bytes));
        } else {
            SKIFF_CHECK(writer.write(parameter.key, weight.plain()->data));
        }
        ManifestTensor entry;
        entry.key = parameter.key;
        entry.from = parameter.quant ? std::string(dtype_info(parameter.stored).name) : weight.encoding_name();
        const PlannedTensor* planned = planned_inputs(setup, parameter);
        entry.scheme = planned != nullptr ? planned->form : weight.encoding_name();
        entry.n_elements = static_cast<std::uint64_t>(element_count(weight.shape));
        entry.bytes = weight.stored_bytes();
        manifest.tensors.push_back(entry);
    }
    return {};
}

Result<WeightFiles> write_weight_files(const TrainingSetup& setup, std::optional<DType> dtype, Manifest& manifest) {
    WeightFiles files;
    SKIFF_CHECK(for_each_part(setup, [&](const ParameterSet& parameters, const MagnitudeMasks* masks) {
        if (masks != nullptr) {
            const auto count = masks->count();
            files.masked.zeros += count.zeros;
            files.masked.all += count.all;
        }
        return declare_weights(setup, parameters, dtype, files);
    }));
    std::vector<TensorDeclaration> declarations;
    for (const auto& [key, tensors] : files.declarations) declarations.insert(declarations.end(), tensors.begin(), tensors.end());
    SKIFF_TRY(auto writer, CheckpointWriter::create(setup.working_folder, declarations));
    SKIFF_CHECK(for_each_part(setup, [&](const ParameterSet& parameters, const MagnitudeMasks*) { return write_weights(setup, parameters, dtype, writer, manifest); }));
    SKIFF_CHECK(writer.commit());
    std::sort(manifest.tensors.begin(), manifest.tensors.end(), [](const ManifestTensor& a, const ManifestTensor& b) { return a.key < b.key; });
    return files;
}

// What config.json says of the weights: how codes are stored, and that other programs do not read what has no zeros.
Result<Json> config_of(TrainingSetup& setup, const Checkpoint& parent, const TrainOptions& options, const std::map<std::string, SparsePattern>& patterns) {
    Json config = parent.config;
    config.erase("quantization_config");
    if (setup.quant_plan) {
        for (PlannedTensor& planned : setup.quant_plan->tensors) {
            const auto found = patterns.find(planned.key);
            planned.sparse = found != patterns.end() ? std::optional(found->second) : std::nullopt;
        }
        SKIFF_TRY(config, planned_config(parent, *setup.quant_plan, quantize_step(options.quant)));
    } else if (!patterns.empty()) {
        SKIFF_TRY(auto quantization, quantization_config_for({}, {}));
        quantization.set("format", "skiff-quantized");
        config.set("quantization_config", std::move(quantization));
    }
    return config;
}

// LoRA as the peft package keeps it: adapter_model.safetensors and adapter_config.json.
Status write_adapter(const TrainingSetup& setup, const Checkpoint& parent, const TrainOptions& options) {
    std::vector<TensorDeclaration> declarations;
    std::vector<at::Tensor> tensors;
    Json modules = Json::array();
    std::vector<std::string> module_names;
    for (const auto& [key, adapter] : setup.model->parameters().adapters()) {
        const std::string module = key.ends_with(".weight") ? key.substr(0, key.size() - 7) : key;
        for (const auto& [suffix, tensor] : {std::pair(".lora_A.weight", adapter.down), std::pair(".lora_B.weight", adapter.up)}) {
            tensors.push_back(tensor.detach().to(at::kCPU).contiguous());
            declarations.push_back({"base_model.model." + module + suffix, DType::f32, Shape(tensor.sizes().begin(), tensor.sizes().end())});
        }
        const std::string name = module.substr(module.rfind('.') + 1);
        if (std::find(module_names.begin(), module_names.end(), name) == module_names.end()) {
            module_names.push_back(name);
            modules.push_back(name);
        }
    }
    SKIFF_TRY(auto writer, SafetensorsWriter::create(join_path(setup.working_folder, "adapter_model.safetensors"), declarations));
    for (std::size_t i = 0; i < tensors.size(); ++i)
        SKIFF_CHECK(writer.write(declarations[i].name, std::span(static_cast<const std::byte*>(tensors[i].data_ptr()), static_cast<std::size_t>(tensors[i].numel()) * 4)));
    SKIFF_CHECK(writer.commit());
    const Json config = Json::object({{"peft_type", "LORA"},
                                      {"task_type", "CAUSAL_LM"},
                                      {"base_model_name_or_path", parent.path},
                                      {"r", options.lora_rank},
                                      {"lora_alpha", options.lora_alpha},
                                      {"lora_dropout", 0.0},
                                      {"bias", "none"},
                                      {"fan_in_fan_out", !keys_stored_as_columns(parent.spec).empty()},
                                      {"inference_mode", true},
                                      {"target_modules", modules}});
    return write_file_atomic(join_path(setup.working_folder, "adapter_config.json"), config.dump(2) + "\n");
}

// Where a text of the model begins and ends, for programs that ask this file.
Status write_generation_config(const TrainingSetup& setup, const Json& config) {
    Json generation = Json::object();
    for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"})
        if (config.contains(key) && !config[key].is_null()) generation.set(key, config[key]);
    if (generation.size() == 0) return {};
    return write_file_atomic(join_path(setup.working_folder, "generation_config.json"), generation.dump(2) + "\n");
}

// `zeros`: share of the masked matrices.
Json step_json(const TrainOptions& options, const TrainingSetup& setup, const TrainReport& report, double zeros) {
    constexpr const char* schedules[] = {"constant", "cosine", "linear", "wsd"};
    Json step = Json::object({{"kind", "train"},
                              {"optimizer", options.optimizer == TrainOptions::Optimizer::muon ? "muon" : "adamw"},
                              {"steps", options.n_steps},
                              {"batch", options.batch},
                              {"context", setup.window},
                              {"tokens", report.n_tokens},
                              {"corpus_tokens", report.corpus_tokens},
                              {"corpus_hash", hash_of_tokens(*setup.data)},
                              {"learning_rate", options.schedule.peak},
                              {"schedule", schedules[static_cast<std::size_t>(options.schedule.kind)]},
                              {"warmup", options.schedule.warmup_steps},
                              {"weight_decay", options.weight_decay},
                              {"precision", setup.trainable.numbers == at::kBFloat16 ? "bf16" : "f32"},
                              {"parameters", report.n_parameters},
                              {"trained_parameters", report.n_trained},
                              {"last_loss", report.last_loss}});
    if (setup.validation) step.set("validation_loss", report.validation_loss);
    if (!setup.distillation.is_null()) {
        step.set("kind", "distill");
        step.set("distillation", setup.distillation);
    }
    if (options.sparsify.any()) {
        Json sparsity = sparsity_json(options.sparsify, setup.masks_hash);
        sparsity.set("zeros", zeros);
        step.set("sparsity", sparsity);
    }
    if (setup.elastic) step.set("elastic", setup.elastic->describe());
    if (options.quant.schemes) {
        step.set("kind", "qat");
        step.set("quantization", quantization_json(options.quant));
    }
    if (options.lora_rank > 0) step.set("lora_rank", options.lora_rank);
    if (options.layer_drop > 0) step.set("layer_drop", options.layer_drop);
    if (options.n_ranks > 1) step.set("ranks", static_cast<std::int64_t>(options.n_ranks));
    return step;
}

}  // namespace

Result<std::optional<DType>> stored_dtype(const TrainOptions& options) {
    if (options.dtype == "auto") return std::optional<DType>();
    const auto dtype = dtype_from_name(options.dtype);
    if (dtype != DType::f32 && dtype != DType::f16 && dtype != DType::bf16) return usage_error("--dtype " + options.dtype + ": expected auto, F32, F16 or BF16");
    return dtype;
}

Result<std::string> sample_text(const TrainingSetup& setup, const TrainOptions& options) {
    Checkpoint checkpoint;
    checkpoint.path = setup.tokenizer_folder;
    checkpoint.name = "in training";
    checkpoint.spec = setup.model->parameters().with_input_scales(setup.model->spec());
    checkpoint.weights = setup.model->parameters().source(DType::f32, ParameterSet::Masked::written_out);
    EngineOptions engine_options;
    engine_options.n_threads = options.n_threads;
    engine_options.n_context = setup.window;
    SKIFF_TRY(auto engine, Engine::load(std::move(checkpoint), engine_options));
    SKIFF_TRY(const auto prompt, engine->tokenizer()->encode(options.sample_prompt));
    GenerateOptions generate;
    generate.max_tokens = options.sample_tokens;
    generate.sampling.temperature = 0.7f;
    generate.sampling.seed = options.seed;
    SKIFF_TRY(const auto result, engine->generate(prompt, generate, [](std::string_view) { return true; }));
    return options.sample_prompt + result.text;
}

Status write_trained(TrainingSetup& setup, const Checkpoint& parent, const TrainOptions& options, TrainReport& report) {
    const bool adapter_only = options.lora_rank > 0 && options.lora_output == TrainOptions::LoraOutput::adapter;
    Manifest manifest;
    manifest.tool = std::string("skiff ") + SKIFF_VERSION;
    manifest.seed = options.seed;
    manifest.parent.name = parent.name;
    manifest.parent.architecture = parent.spec.architecture;
    describe_history(parent.manifest, manifest.parent);
    if (parent.kind != Checkpoint::Kind::random) {
        SKIFF_TRY(manifest.parent.content_hash, parent.content_hash());
        manifest.parent.n_elements = static_cast<std::uint64_t>(parent.spec.n_parameters());
        manifest.parent.bytes = parent.weight_bytes();
    }
    if (adapter_only) {
        report.step = step_json(options, setup, report, 0);
        SKIFF_CHECK(write_adapter(setup, parent, options));
    } else {
        SKIFF_TRY(auto dtype, stored_dtype(options));
        if (!dtype && parent.kind == Checkpoint::Kind::random) dtype = DType::bf16;
        SKIFF_TRY(const auto written, write_weight_files(setup, dtype, manifest));
        report.step = step_json(options, setup, report, written.sparsity());
        SKIFF_TRY(Json config, config_of(setup, parent, options, written.patterns));
        if (dtype) {
            config.erase("dtype");
            config.set("torch_dtype", config_dtype(*dtype));
        }
        SKIFF_CHECK(write_file_atomic(join_path(setup.working_folder, "config.json"), config.dump(2) + "\n"));
        if (parent.kind == Checkpoint::Kind::random) SKIFF_CHECK(write_generation_config(setup, config));
        Checkpoint files = parent;
        if (!options.data.tokenizer.empty()) {
            files.kind = Checkpoint::Kind::folder;
            files.path = setup.tokenizer_folder;
        }
        if (files.kind != Checkpoint::Kind::random) SKIFF_CHECK(copy_parent_files(files, setup.working_folder));
    }
    manifest.steps.push_back(report.step);
    SKIFF_CHECK(write_file_atomic(join_path(setup.working_folder, manifest_file_name), manifest_json(manifest).dump(1) + "\n"));
    setup.data.reset();
    setup.validation.reset();
    // The model is complete before what it could be made from again goes.
    SKIFF_CHECK(setup.directory->commit());
    for (const std::string& name : state_files(options.output)) std::remove(join_path(options.output, name).c_str());
    for (const char* name : scratch_files) std::remove(join_path(options.output, name).c_str());
    return {};
}

}  // namespace skiff::train
