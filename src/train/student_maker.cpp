#include "train/student_maker.h"

#include <map>

namespace skiff::train {

StudentMaker::StudentMaker(const Checkpoint& parent, const TrainOptions& options, const Settings& settings)
    : parent_(parent), options_(options), settings_(settings), source_(parent.kind == Checkpoint::Kind::random ? initial_weights(parent.spec, options.seed) : parent.weights) {}

Result<Student> StudentMaker::make(const ModelSpec& spec) const {
    Student student;
    SKIFF_TRY(auto parameters, ParameterSet::load(spec, *source_, settings_.trainable.device, ParameterSet::HashedWeights::stay));
    SKIFF_CHECK(check_hashed(parameters));
    for (const Parameter& parameter : parameters.all()) student.n_hashed += parameter.bank ? 1 : 0;
    student.n_pruned = keep_zeros(parameters);
    SKIFF_TRY(student.n_rounded, round(spec, parameters));
    if (options_.lora_rank > 0) {
        SKIFF_TRY(student.n_adapters, parameters.add_adapters(spec, {options_.lora_rank, options_.lora_alpha, options_.lora_names, options_.seed}));
    }
    SKIFF_TRY(student.model, TrainableModel::create(spec, std::move(parameters), settings_.trainable));
    if (options_.sparsify.any()) {
        student.masks.emplace(spec, student.model->parameters(), options_.sparsify);
        if (settings_.mask_from != nullptr) {
            SKIFF_CHECK(student.masks->take_from(*settings_.mask_from));
            student.model->parameters().refresh();
        }
    }
    return student;
}

// What works on whole matrices has no words for a bank.
Status StudentMaker::check_hashed(const ParameterSet& parameters) const {
    if (!parameters.any_hashed()) return {};
    const char* asked = options_.lora_rank > 0 ? "--lora" : options_.sparsify.any() ? "--sparsity" : options_.elastic.rule != ElasticOptions::Rule::off ? "--elastic" : nullptr;
    if (asked != nullptr) return unsupported(std::string(asked) + ": " + parent_.name + " has hashed weights, of which the bank is trained and not the matrix; leave it out, or write the blocks out first with skiff convert --to hf");
    return {};
}

std::size_t StudentMaker::keep_zeros(ParameterSet& parameters) const {
    // An adapter on its own knows no zeros; one that is merged changes only what is left.
    const bool stays_apart = options_.lora_rank > 0 && options_.lora_output == TrainOptions::LoraOutput::adapter;
    if (options_.zeros == TrainOptions::Zeros::keep && !stays_apart) return parameters.keep_zeros(0.05);
    parameters.train_zeros();
    return 0;
}

bool multiplies_e4m3(const PlannedTensor& planned) { return planned.use == TensorUse::linear && planned.scheme && multiplies_e4m3(*planned.scheme); }

// How linear operators read their inputs with such a weight.
InputForm StudentMaker::input_form(const PlannedTensor& planned) const {
    using Activations = QuantTrainOptions::Activations;
    switch (options_.quant.activations) {
        case Activations::floats: return InputForm::floats;
        case Activations::fp8: return multiplies_e4m3(planned) ? InputForm::e4m3 : InputForm::floats;
        case Activations::int8: break;
    }
    if (planned.inputs == QuantizedModule::Inputs::fixed) return InputForm::fixed;
    if (planned.inputs == QuantizedModule::Inputs::by_token) return InputForm::tokens;
    const bool float8 = planned.scheme->kind == NumberKind::codebook && planned.scheme->codebook->is_float8();
    return float8 ? InputForm::floats : InputForm::blocks;  // the kernels of 8-bit floats multiply floats
}

Result<std::size_t> StudentMaker::round(const ModelSpec& spec, ParameterSet& parameters) const {
    if (settings_.quant_plan == nullptr) return std::size_t{0};
    const bool scales_only = options_.quant.train == QuantTrainOptions::Train::scales;
    if (scales_only)
        for (Parameter& parameter : parameters.all()) parameter.value.set_requires_grad(false);
    std::map<std::string, InputForm> forms;
    for (const PlannedTensor& planned : settings_.quant_plan->tensors) {
        if (!planned.becomes_codes() || parameters.find(planned.key) == nullptr) continue;
        auto status = parameters.quantize(planned.key, *planned.scheme, scales_only ? FakeQuant::Codes::stay : FakeQuant::Codes::follow,
                                          options_.quant.activations == QuantTrainOptions::Activations::int8 ? Tables::bytes : Tables::exact);
        if (!status.ok()) return status.take_error().with_context("tensor " + planned.key);
        if (planned.sparse) leave_out_zeros(*parameters.find(planned.key), *planned.sparse);
        forms[planned.key] = input_form(planned);
    }
    SKIFF_CHECK(parameters.round_inputs(spec, [&](const std::string& key) { return forms.at(key); }));
    parameters.refresh();
    return forms.size();
}

}  // namespace skiff::train
