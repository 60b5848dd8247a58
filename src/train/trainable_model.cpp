#include "train/trainable_model.h"

#include <functional>
#include <set>

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace skiff::train {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Runs a function without remembering its insides, and again in the backward pass (Chen et al. 2016).
class Recomputed : public torch::autograd::Function<Recomputed> {
public:
    using Run = std::function<at::Tensor(const at::Tensor&)>;
    static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const Run* run) {
        auto holder = c10::make_intrusive<Holder>();
        holder->run = *run;
        context->save_for_backward({x});
        context->saved_data["run"] = c10::IValue::make_capsule(std::move(holder));
        return (*run)(x);
    }
    static variable_list backward(AutogradContext* context, variable_list gradients) {
        const auto holder = context->saved_data["run"].toCapsule();
        at::Tensor x = context->get_saved_variables()[0].detach().requires_grad_(true);
        const at::AutoGradMode with_grad(true);
        const at::Tensor y = static_cast<const Holder&>(*holder).run(x);
        torch::autograd::backward({y}, {gradients[0]});
        return {x.grad(), {}};
    }

private:
    struct Holder : torch::CustomClassHolder {
        Run run;
    };
};

// Every value that a block reads is its own or its input.
Status check_blocks(const ModelSpec& spec) {
    for (const Block& block : spec.blocks) {
        std::set<ValueId> known = {block.in};
        for (const Op& op : block.ops) {
            for (ValueId value : op.in)
                if (known.count(value) == 0) return unsupported(op.name + " reads a value of another block; such models cannot be trained");
            known.insert(op.out);
        }
    }
    return {};
}

}  // namespace

Result<std::unique_ptr<TrainableModel>> TrainableModel::create(const ModelSpec& spec, ParameterSet parameters, const TrainableOptions& options) {
    if (spec.blocks.size() < 3) return unsupported("a model without decoder blocks cannot be trained");
    SKIFF_CHECK(check_blocks(spec));
    std::unique_ptr<TrainableModel> model(new TrainableModel(spec, std::move(parameters), options));
    SKIFF_TRY(model->blocks_, build_graph(model->spec_, model->whole_, {options.numbers, options.form}));
    return model;
}

Result<std::size_t> TrainableModel::add_leading_units(const std::vector<CutAxis>& axes) {
    if (axes.empty()) return std::size_t{0};
    AxisCut units;
    ModelSpec spec = spec_;
    for (const CutAxis& axis : axes) {
        const auto kept = first_units(axis);
        SKIFF_TRY(const auto cut, coupled_cut(spec_, axis.axis, kept));
        SKIFF_TRY(spec, slice_axis(spec, axis.axis, kept));
        units.insert(cut.begin(), cut.end());
    }
    auto narrow = std::make_unique<Narrow>(Narrow{std::move(spec), ParameterView(parameters_, spec_, units), {}});
    SKIFF_TRY(narrow->blocks, build_graph(narrow->spec, narrow->view, {options_.numbers, options_.form}));
    narrow_.push_back(std::move(narrow));
    return narrow_.size();
}

at::Tensor TrainableModel::run_block(std::size_t block, const BlockInput& input, std::array<at::Tensor, 3>* qkv) const {
    const GraphBlock& steps = input.widths == 0 ? blocks_[block] : narrow_[input.widths - 1]->blocks[block];
    Values values;
    values.tokens = input.tokens;
    values.n_tokens = input.n_tokens;
    values.slices.resize(spec_.values.size());
    if (input.stream.defined()) values.set(spec_.blocks[block].in, input.stream);
    for (const auto& step : steps) step->run(values);
    if (qkv != nullptr)
        for (const auto& step : steps)
            if (const std::array<ValueId, 3>* read = step->attention_inputs())
                for (std::size_t i = 0; i < 3; ++i) (*qkv)[i] = values.get((*read)[i]);
    return values.get(block + 1 == blocks_.size() ? spec_.logits : spec_.blocks[block].out);
}

Pass TrainableModel::observe(const at::Tensor& tokens, const Watch& watch, const SubNetwork& part) const {
    const DroppedBlocks& dropped = part.dropped;
    const std::int64_t n_tokens = tokens.size(1);
    const at::Tensor flat = tokens.reshape({-1});
    Pass pass;
    at::Tensor x = run_block(0, {part.widths, flat, n_tokens, {}});
    if (watch.streams) pass.streams.push_back(x);
    for (std::size_t block = 1; block + 1 < blocks_.size(); ++block) {
        const bool watched = static_cast<std::int64_t>(block) - 1 == watch.attention_block;
        if (block - 1 < dropped.size() && dropped[block - 1]) {
        } else if (options_.recompute_blocks && !watched && at::GradMode::is_enabled() && x.requires_grad()) {
            const Recomputed::Run run = [this, block, flat, n_tokens, widths = part.widths](const at::Tensor& in) { return run_block(block, {widths, flat, n_tokens, in}); };
            x = Recomputed::apply(x, &run);
        } else {
            x = run_block(block, {part.widths, flat, n_tokens, x}, watched ? &pass.qkv : nullptr);
        }
        if (watch.streams) pass.streams.push_back(x);
    }
    pass.hidden = x;
    return pass;
}

at::Tensor TrainableModel::embedded(const at::Tensor& tokens) const { return run_block(0, {0, tokens.reshape({-1}), tokens.size(1), {}}); }

at::Tensor TrainableModel::decoder_block(std::int64_t block, const at::Tensor& tokens, const at::Tensor& in) const {
    return run_block(static_cast<std::size_t>(block) + 1, {0, tokens.reshape({-1}), tokens.size(1), in});
}

at::Tensor TrainableModel::head(const at::Tensor& hidden) const { return run_block(blocks_.size() - 1, {0, {}, hidden.size(0), hidden}); }

Status TrainableModel::check_watch(const Watch& watch) const {
    if (watch.attention_block < 0) return {};
    for (const auto& step : blocks_[static_cast<std::size_t>(watch.attention_block) + 1])
        if (step->attention_inputs() != nullptr) return {};
    return unsupported("block " + std::to_string(watch.attention_block) + " has no attention to compare");
}

// Few enough tokens that their logits stay in a cache's reach, enough that the head's gradient is not summed too often.
std::int64_t TrainableModel::head_chunk() const {
    const std::int64_t bytes_per_token = spec_.n_vocab * (options_.numbers == at::kFloat ? 4 : 2);
    return std::clamp<std::int64_t>((16 << 20) / bytes_per_token, 512, 4096);
}

at::Tensor TrainableModel::logits(const at::Tensor& tokens) const { return head(observe(tokens, {}).hidden); }

double TrainableModel::add_gradients(const at::Tensor& inputs, const at::Tensor& targets, double scale, const SubNetwork& part, const InsideLoss& inside_loss) const {
    const at::Tensor flat_targets = targets.reshape({-1});
    const LogitsLoss loss = [&](const at::Tensor& logits, std::int64_t first) { return cross_entropy(logits, flat_targets.narrow(0, first, logits.size(0)), scale, options_.form); };
    return add_gradients(inputs, loss, part, {}, inside_loss);
}

double TrainableModel::add_gradients(const at::Tensor& inputs, const LogitsLoss& logits_loss, const SubNetwork& part, const Watch& watch, const InsideLoss& inside_loss) const {
    const at::AutoGradMode with_grad(true);
    const Pass pass = observe(inputs, watch, part);
    const at::Tensor& x = pass.hidden;
    const at::Tensor leaf = x.detach();
    at::Tensor gradient = at::empty_like(leaf);
    double total = 0;
    for (std::int64_t begin = 0; begin < leaf.size(0); begin += head_chunk()) {
        const std::int64_t n = std::min(head_chunk(), leaf.size(0) - begin);
        const at::Tensor chunk = leaf.narrow(0, begin, n).detach().requires_grad_(true);
        const at::Tensor loss = logits_loss(head(chunk), begin);
        total += loss.item<double>();
        torch::autograd::backward({loss});
        gradient.narrow(0, begin, n).copy_(chunk.grad());
    }
    const at::Tensor inside = inside_loss ? inside_loss(pass) : at::Tensor();
    if (inside.defined()) total += inside.item<double>();
    variable_list roots, seeds;
    if (x.requires_grad()) {
        roots.push_back(x);
        seeds.push_back(gradient);
    }
    if (inside.defined() && inside.requires_grad()) {
        roots.push_back(inside);
        seeds.push_back(at::ones_like(inside));
    }
    if (!roots.empty()) torch::autograd::backward(roots, seeds);
    return total;
}

double TrainableModel::loss_sum(const at::Tensor& inputs, const at::Tensor& targets, const SubNetwork& part) const {
    const at::NoGradGuard no_grad;
    return head_loss_sum(observe(inputs, {}, part).hidden, targets);
}

double TrainableModel::head_loss_sum(const at::Tensor& hidden, const at::Tensor& targets) const {
    const at::NoGradGuard no_grad;
    const at::Tensor flat_targets = targets.reshape({-1});
    double total = 0;
    for (std::int64_t begin = 0; begin < hidden.size(0); begin += head_chunk()) {
        const std::int64_t n = std::min(head_chunk(), hidden.size(0) - begin);
        total += cross_entropy(head(hidden.narrow(0, begin, n)), flat_targets.narrow(0, begin, n), 1, options_.form).item<double>();
    }
    return total;
}

}  // namespace skiff::train
