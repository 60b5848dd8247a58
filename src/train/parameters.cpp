#include "train/parameters.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "base/hash.h"
#include "base/rng.h"
#include "compress/calibrate/walk.h"
#include "model/axes.h"

namespace skiff::train {
namespace {

at::Tensor values_of(const Weight& weight) {
    at::Tensor tensor = at::empty(weight.shape, at::kFloat);
    for (std::int64_t row = 0; row < weight.n_rows(); ++row) weight.row(row, tensor.data_ptr<float>() + row * weight.n_columns());
    return tensor;
}

Weight weight_of(const at::Tensor& value, DType dtype) {
    const at::Tensor host = value.detach().to(at::kCPU, at::kFloat).contiguous();
    const DTypeInfo& info = dtype_info(dtype);
    std::vector<std::byte> bytes(static_cast<std::size_t>(host.numel() * info.bits / 8));
    info.from_float(host.data_ptr<float>(), host.numel(), bytes.data());
    return make_plain_weight(Shape(host.sizes().begin(), host.sizes().end()), dtype, std::move(bytes));
}

// Linear weights of the decoder blocks: neither the embedding table nor the head.
std::set<std::string> block_weights(const ModelSpec& spec) {
    std::set<std::string> keys;
    for (std::size_t i = 1; i + 1 < spec.blocks.size(); ++i)
        for (const Op& op : spec.blocks[i].ops)
            if (const auto* linear = std::get_if<LinearOp>(&op.detail))
                for (const LinearTerm& term : linear->terms)
                    if (term.kind == LinearTerm::Kind::packed) keys.insert(term.weight.key);
    return keys;
}

// What an adapter adds to its weight, in the checkpoint's shape.
at::Tensor change_of(const Adapter& adapter, const at::Tensor& mask) {
    const at::Tensor product = at::mm(adapter.up, adapter.down) * adapter.scale, change = adapter.columns ? product.t() : product;
    return mask.defined() ? change * mask : change;
}

class TrainedWeights final : public WeightSource {
public:
    TrainedWeights(const ParameterSet& set, std::optional<DType> dtype, ParameterSet::Masked masked) : set_(set), dtype_(dtype), masked_(masked) {}
    bool contains(const std::string& key) const override { return set_.find(key) != nullptr; }
    std::vector<std::string> keys() const override {
        std::vector<std::string> names;
        for (const Parameter& parameter : set_.all()) names.push_back(parameter.key);
        return names;
    }
    Result<Weight> load(const std::string& key) const override {
        const Parameter* parameter = set_.find(key);
        if (parameter == nullptr) return not_found("tensor " + key + " is not in the trained model");
        if (parameter->bank) return make_hashed(parameter->bank->hash(), parameter->quant ? parameter->quant->weight() : weight_of(parameter->value, dtype_.value_or(parameter->stored)));
        return stored(*parameter, whole(*parameter));
    }

private:
    Weight whole(const Parameter& parameter) const {
        if (parameter.quant) return parameter.quant->weight();
        at::Tensor value = parameter.value.detach();
        if (auto adapter = set_.adapters().find(parameter.key); adapter != set_.adapters().end()) value = value + change_of(adapter->second, parameter.mask).detach();
        return weight_of(value, dtype_.value_or(parameter.stored));
    }
    // Without the zeros, where they are not written.
    Result<Weight> stored(const Parameter& parameter, Weight weight) const {
        const MaskForm& form = parameter.mask_form;
        if (!parameter.mask.defined() || form.kind == MaskForm::Kind::written_out || masked_ == ParameterSet::Masked::written_out) return weight;
        if (parameter.columns && weight.plain() != nullptr) {
            SKIFF_TRY(auto sparse, with_mask(transposed(weight), parameter.mask.t().to(at::kCPU).contiguous(), form));
            return sparse.plain() != nullptr ? std::move(weight) : std::move(sparse);
        }
        return with_mask(weight, (parameter.columns ? parameter.mask.t() : parameter.mask).to(at::kCPU).contiguous(), form);
    }

    const ParameterSet& set_;
    std::optional<DType> dtype_;
    ParameterSet::Masked masked_;
};

class InitialWeights final : public WeightSource {
public:
    InitialWeights(const ModelSpec& spec, std::uint64_t seed) : seed_(seed) {
        for (const auto& [key, tensor] : spec.tensors) shapes_.emplace(key, Declared{spec.shape(tensor), tensor.role, 0.02f});
        // A linear operator whose result is added to something is the last of a residual branch.
        std::set<ValueId> added;
        for (const Block& block : spec.blocks)
            for (const Op& op : block.ops)
                if (std::holds_alternative<AddOp>(op.detail)) added.insert(op.in.begin(), op.in.end());
        // A norm that adds an offset to its weight (Gemma) begins at one with it.
        for (const Block& block : spec.blocks)
            for (const Op& op : block.ops)
                if (const auto* norm = std::get_if<NormOp>(&op.detail); norm != nullptr && !norm->weight.empty())
                    if (auto found = shapes_.find(norm->weight.key); found != shapes_.end()) found->second.norm = 1 - norm->weight_offset;
        const float less = 0.02f / std::sqrt(2.0f * static_cast<float>(std::max<std::int64_t>(1, spec.n_layers)));
        for (const Block& block : spec.blocks)
            for (const Op& op : block.ops)
                if (const auto* linear = std::get_if<LinearOp>(&op.detail); linear != nullptr && added.count(op.out) != 0)
                    for (const LinearTerm& term : linear->terms) shapes_[term.weight.key].deviation = less;
    }
    bool contains(const std::string& key) const override { return shapes_.count(key) != 0; }
    std::vector<std::string> keys() const override {
        std::vector<std::string> names;
        for (const auto& [key, declared] : shapes_) names.push_back(key);
        return names;
    }
    Result<Weight> load(const std::string& key) const override {
        auto found = shapes_.find(key);
        if (found == shapes_.end()) return not_found("tensor " + key + " is not in the fresh model");
        const Declared& declared = found->second;
        std::vector<float> values(static_cast<std::size_t>(element_count(declared.shape)), declared.role == TensorDecl::Role::norm ? declared.norm : 0.0f);
        if (declared.role == TensorDecl::Role::linear || declared.role == TensorDecl::Role::embedding) {
            Rng rng(hash64(std::as_bytes(std::span(key)), seed_));
            for (float& value : values) value = declared.deviation * rng.normal();
        }
        return make_float_weight(declared.shape, std::move(values));
    }

private:
    struct Declared {
        Shape shape;
        TensorDecl::Role role = TensorDecl::Role::other;
        float deviation = 0.02f, norm = 1;
    };
    std::map<std::string, Declared> shapes_;
    std::uint64_t seed_;
};

}  // namespace

at::Tensor selected_rows(const at::Tensor& matrix, const RowMap& rows) {
    if (rows.block == 0) return matrix;
    if (rows.contiguous()) return rows.n_rows() == matrix.size(0) ? matrix : matrix.narrow(0, rows.begin, rows.n_rows());
    std::vector<std::int64_t> order(static_cast<std::size_t>(rows.n_rows()));
    for (std::int64_t i = 0; i < rows.n_rows(); ++i) order[static_cast<std::size_t>(i)] = rows.at(i);
    return matrix.index_select(0, at::tensor(order).to(matrix.device()));
}

Result<ParameterSet> ParameterSet::load(const ModelSpec& spec, const WeightSource& source, at::Device device, HashedWeights hashed) {
    ParameterSet set;
    const std::set<std::string> columns = keys_stored_as_columns(spec);
    for (const auto& [key, declared] : spec.tensors) {
        if (!source.contains(key)) {
            if (declared.need == TensorDecl::Need::optional) continue;
            return not_found("tensor " + key + " is missing");
        }
        auto weight = source.load(key);
        if (!weight.ok()) return weight.take_error().with_context(key);
        const bool turned = weight->plain() == nullptr && columns.count(key) != 0;  // held as (outputs, inputs)
        if (Shape shape = spec.shape(declared); weight->shape != (turned ? Shape{shape[1], shape[0]} : shape))
            return corrupt("tensor " + key + " has shape " + shape_text(weight->shape) + ", the model implies " + shape_text(spec.shape(declared)));
        Parameter parameter;
        parameter.key = key;
        parameter.role = declared.role;
        parameter.columns = columns.count(key) != 0;
        parameter.stored = weight->plain() != nullptr ? weight->plain()->dtype : DType::bf16;
        if (weight->plain() == nullptr) parameter.zeros = Parameter::Zeros::rounded;
        if (const Sparse* sparse = weight->sparse()) {
            if (!sparse->scheme.is_coded()) parameter.stored = sparse->scheme.dtype;
            parameter.zeros = Parameter::Zeros::listed;
            parameter.mask_form = {MaskForm::Kind::sparse, sparse->pattern};
        }
        if (const Hashed* shared = weight->hashed()) {
            parameter.stored = shared->bank->plain() != nullptr ? shared->bank->plain()->dtype : DType::bf16;
            if (hashed == HashedWeights::stay) parameter.bank = std::make_shared<const HashedBank>(shared->hash, turned, device);
        }
        at::Tensor values = values_of(parameter.bank ? *weight->hashed()->bank : *weight);
        if (turned && !parameter.bank) values = values.t().contiguous();
        if (weight->sparse() != nullptr) {
            const at::Tensor kept = kept_in(*weight);
            parameter.kept = (turned ? kept.t().contiguous() : kept).to(device);
        }
        parameter.value = values.to(device).set_requires_grad(true);
        release_pages(*weight);
        set.index_[key] = set.parameters_.size();
        set.parameters_.push_back(std::move(parameter));
    }
    set.refresh();
    return set;
}

bool ParameterSet::any_hashed() const {
    return std::any_of(parameters_.begin(), parameters_.end(), [](const Parameter& parameter) { return parameter.bank != nullptr; });
}

const Parameter* ParameterSet::find(const std::string& key) const {
    auto found = index_.find(key);
    return found == index_.end() ? nullptr : &parameters_[found->second];
}
Parameter* ParameterSet::find(const std::string& key) { return const_cast<Parameter*>(std::as_const(*this).find(key)); }

at::Tensor ParameterSet::merged(const std::string& key) const {
    const Parameter* parameter = find(key);
    return parameter->value + change_of(adapters_.at(key), parameter->mask);
}

std::size_t ParameterSet::keep_zeros(double at_least_share) {
    std::size_t n_masked = 0;
    for (Parameter& parameter : parameters_) {
        if (parameter.zeros == Parameter::Zeros::listed) {
            parameter.mask = std::exchange(parameter.kept, at::Tensor());
            ++n_masked;
            continue;
        }
        // Rounding has zeros of its own: a tenth of all weights in four bits, a third in three values.
        if (parameter.role != TensorDecl::Role::linear || parameter.zeros == Parameter::Zeros::rounded) continue;
        const at::Tensor kept = parameter.value.detach() != 0;
        const double zeros = 1.0 - static_cast<double>(kept.sum().item<std::int64_t>()) / static_cast<double>(std::max<std::int64_t>(1, kept.numel()));
        if (zeros < at_least_share) continue;
        parameter.mask = kept.to(at::kFloat);
        ++n_masked;
    }
    return n_masked;
}

void ParameterSet::train_zeros() {
    for (Parameter& parameter : parameters_) {
        if (parameter.zeros != Parameter::Zeros::listed) continue;
        parameter.kept = at::Tensor();
        parameter.mask_form = {};
    }
}

void ParameterSet::apply_masks() {
    at::NoGradGuard no_grad;
    for (Parameter& parameter : parameters_)
        if (parameter.mask.defined()) parameter.value.masked_fill_(parameter.mask == 0, 0);
}

Status ParameterSet::quantize(const std::string& key, const Scheme& scheme, FakeQuant::Codes codes, Tables tables) {
    Parameter* parameter = find(key);
    if (parameter == nullptr) return not_found("tensor " + key + " is not in the model");
    if (parameter->mask.defined()) SKIFF_CHECK(check_zero_level(scheme));
    if (parameter->mask.defined() && parameter->mask_form.kind == MaskForm::Kind::sparse) SKIFF_CHECK(sparse_defined_on(scheme));
    SKIFF_TRY(parameter->quant, FakeQuant::create(parameter->value, parameter->columns && !parameter->bank, scheme, codes, tables));
    return {};
}

Status ParameterSet::round_inputs(const ModelSpec& spec, const std::function<InputForm(const std::string& key)>& form_of) {
    for (Parameter& parameter : parameters_)
        if (parameter.quant) parameter.inputs = form_of(parameter.key);
    std::map<ValueId, std::shared_ptr<FixedInputScale>> scales;
    for (const Block& block : spec.blocks)
        for (const auto& [key, value] : linear_inputs(block)) {
            Parameter* parameter = find(key);
            if (parameter == nullptr || parameter->inputs != InputForm::fixed) continue;
            std::shared_ptr<FixedInputScale>& scale = scales[value];
            if (!scale) scale = std::make_shared<FixedInputScale>();
            if (parameter->input_scale && parameter->input_scale != scale)
                return unsupported("--activations static-...: layers that use the same weights (" + key + ") have inputs of different sizes, and such a weight has one scale for them; take int8, or convert --to hf first, which writes copies");
            parameter->input_scale = scale;
        }
    for (const Parameter& parameter : parameters_)
        if (parameter.inputs == InputForm::fixed && !parameter.input_scale) return unsupported("tensor " + parameter.key + ": no linear operator reads its inputs as they are, so that they have no scale to fix");
    return {};
}

Status ParameterSet::begin_input_scales(const InputScaleRule& rule) {
    std::set<const FixedInputScale*> begun;
    for (const Parameter& parameter : parameters_) {
        if (!parameter.input_scale || !begun.insert(parameter.input_scale.get()).second) continue;
        Status status = parameter.input_scale->begin(rule);
        if (!status.ok()) return status.take_error().with_context("inputs of " + parameter.key);
    }
    return {};
}

ModelSpec ParameterSet::with_input_scales(const ModelSpec& spec) const {
    ModelSpec result = spec;
    for (Block& block : result.blocks)
        for (Op& op : block.ops) {
            auto* linear = std::get_if<LinearOp>(&op.detail);
            const Parameter* parameter = linear == nullptr || linear->terms.empty() ? nullptr : find(linear->terms[0].weight.key);
            if (parameter != nullptr && parameter->input_scale) linear->input_scale = parameter->input_scale->scale();
        }
    return result;
}

void ParameterSet::refresh() {
    const at::NoGradGuard no_grad;
    for (Parameter& parameter : parameters_) {
        if (!parameter.quant && !parameter.bank) continue;
        at::Tensor now = parameter.quant ? parameter.quant->forward() : parameter.value.detach();
        if (parameter.bank) now = parameter.bank->matrix(now);
        if (parameter.effective.defined()) parameter.effective.detach().copy_(now);
        else parameter.effective = now.set_requires_grad(true);
    }
}

void ParameterSet::collect_gradients() {
    for (Parameter& parameter : parameters_) {
        if ((!parameter.quant && !parameter.bank) || !parameter.effective.grad().defined()) continue;
        const at::Tensor gradient = parameter.bank ? parameter.bank->gradient(parameter.effective.grad()) : parameter.effective.grad();
        if (parameter.quant) parameter.quant->backward(gradient);
        else if (parameter.value.requires_grad()) parameter.value.mutable_grad() = parameter.value.grad().defined() ? parameter.value.grad() + gradient : gradient;
        parameter.effective.mutable_grad() = at::Tensor();
    }
}

std::set<std::string> ParameterSet::keys_of_blocks(const ModelSpec& spec) const {
    std::set<std::string> keys;
    for (std::size_t i = 1; i + 1 < spec.blocks.size(); ++i)
        for (Op op : spec.blocks[i].ops) for_each_tensor_ref(op, [&](const TensorRef& ref) { keys.insert(ref.key); });
    return keys;
}

Result<std::size_t> ParameterSet::add_adapters(const ModelSpec& spec, const AdapterOptions& options) {
    const std::set<std::string> transposed = keys_stored_as_columns(spec), candidates = block_weights(spec);
    for (Parameter& parameter : parameters_) {
        parameter.value.set_requires_grad(false);
        if (candidates.count(parameter.key) == 0) continue;
        const bool wanted = options.names.empty() || std::any_of(options.names.begin(), options.names.end(), [&](const std::string& name) {
            return parameter.key.find(name) != std::string::npos;
        });
        if (!wanted) continue;
        std::int64_t outputs = parameter.value.size(0), inputs = parameter.value.size(1);
        if (transposed.count(parameter.key) != 0) std::swap(outputs, inputs);
        if (options.rank > std::min(outputs, inputs))
            return usage_error("LoRA rank " + std::to_string(options.rank) + " is more than " + parameter.key + " has (" + std::to_string(std::min(outputs, inputs)) + ")");
        // Kaiming-uniform with a = sqrt(5), as the method's authors start: within +-1/sqrt(inputs).
        Rng rng(hash64(std::as_bytes(std::span(parameter.key)), options.seed));
        at::Tensor down = at::empty({options.rank, inputs}, at::kFloat);
        const double bound = 1.0 / std::sqrt(static_cast<double>(inputs));
        for (std::int64_t i = 0; i < down.numel(); ++i) down.data_ptr<float>()[i] = static_cast<float>((2 * rng.uniform() - 1) * bound);
        const at::Device device = parameter.value.device();
        adapters_[parameter.key] = {down.to(device).set_requires_grad(true), at::zeros({outputs, options.rank}, at::kFloat).to(device).set_requires_grad(true),
                                    static_cast<float>(options.alpha / static_cast<double>(options.rank)), transposed.count(parameter.key) != 0};
    }
    if (adapters_.empty()) return usage_error("no linear weight of the blocks matches the names given for LoRA");
    return adapters_.size();
}

std::vector<ParameterSet::Trained> ParameterSet::trained(const ModelSpec& spec) const {
    const std::set<std::string> in_blocks = block_weights(spec);
    std::vector<Trained> result;
    for (const Parameter& parameter : parameters_)
        if (parameter.value.requires_grad()) result.push_back({parameter.key, parameter.role, parameter.value, parameter.mask, in_blocks.count(parameter.key) != 0});
    for (const Parameter& parameter : parameters_)
        if (parameter.quant && parameter.quant->ratio().defined()) result.push_back({parameter.key + ".scale", TensorDecl::Role::other, parameter.quant->ratio(), {}, false});
    for (const Parameter& parameter : parameters_)
        if (parameter.quant && parameter.quant->levels().defined()) result.push_back({parameter.key + ".levels", TensorDecl::Role::other, parameter.quant->levels(), {}, false});
    std::set<const FixedInputScale*> known;
    for (const Parameter& parameter : parameters_)
        if (parameter.input_scale && known.insert(parameter.input_scale.get()).second)
            result.push_back({parameter.key + ".input_scale", TensorDecl::Role::other, parameter.input_scale->ratio(), {}, false});
    for (const auto& [key, adapter] : adapters_) {
        result.push_back({key + ".lora_down", TensorDecl::Role::linear, adapter.down, {}, true});
        result.push_back({key + ".lora_up", TensorDecl::Role::linear, adapter.up, {}, true});
    }
    return result;
}

std::shared_ptr<WeightSource> ParameterSet::source(std::optional<DType> dtype, Masked masked) const { return std::make_shared<TrainedWeights>(*this, dtype, masked); }

std::shared_ptr<WeightSource> initial_weights(const ModelSpec& spec, std::uint64_t seed) { return std::make_shared<InitialWeights>(spec, seed); }

}  // namespace skiff::train
