// What was stored with a bitmask is trained under that mask and stored with it again, also as codes; what rounding made zero is not taken for pruned; schemes
// in which zeros would not stay are refused.
#include "train/train_testing.h"

#include <set>

#include "plan/session.h"
#include "tensor/prune_target.h"
#include "train/magnitude_masks.h"
#include "train/optimizer.h"

namespace skiff::train {
namespace {

// A tiny model whose linear weights of the blocks are what `make` makes of the (outputs, inputs) matrices.
class ChangedModel final : public WeightSource {
public:
    template <class F>
    ChangedModel(const Checkpoint& checkpoint, F make) : source_(checkpoint.weights) {
        const auto columns = keys_stored_as_columns(checkpoint.spec);
        for (std::size_t i = 1; i + 1 < checkpoint.spec.blocks.size(); ++i)
            for (const Op& op : checkpoint.spec.blocks[i].ops)
                if (const auto* linear = std::get_if<LinearOp>(&op.detail)) {
                    const std::string& key = linear->terms[0].weight.key;
                    auto weight = source_->load(key);
                    changed_.insert_or_assign(key, make(columns.count(key) != 0 ? transposed(*weight) : *weight));
                }
    }
    bool contains(const std::string& key) const override { return source_->contains(key); }
    Result<Weight> load(const std::string& key) const override {
        const auto found = changed_.find(key);
        return found == changed_.end() ? source_->load(key) : Result<Weight>(found->second);
    }
    std::vector<std::string> keys() const override { return source_->keys(); }
    const std::map<std::string, Weight>& changed() const { return changed_; }

private:
    std::shared_ptr<WeightSource> source_;
    std::map<std::string, Weight> changed_;
};

Weight sparse_weight(const Weight& dense, const std::string& target_text) {
    const PruneTarget target = parse_prune_target(target_text)->resolved(dense.n_rows(), dense.n_columns());
    const at::Tensor scores = tensor_of(dense).abs();
    auto bits = choose_units(target, std::span(scores.data_ptr<float>(), static_cast<std::size_t>(scores.numel())), dense.n_rows(), dense.n_columns());
    return *make_sparse(dense, target.pattern, std::move(bits));
}
Weight encoded(const Weight& dense, const char* scheme) { return *encode_nearest(dense, *parse_scheme(scheme), ScaleRule::search); }

Checkpoint open_checkpoint(const std::string& name) {
    auto checkpoint = Checkpoint::open(tiny_model_path(name));
    EXPECT_TRUE(checkpoint.ok()) << name;
    return std::move(*checkpoint);
}

const at::Tensor& some_tokens() {
    static const at::Tensor tokens = (at::arange(0, 20, at::kLong) * 7 % 57 + 3).view({1, 20});
    return tokens;
}
void train_a_little(TrainableModel& model) {
    Optimizer optimizer(model.parameters().trained(model.spec()), {});
    for (std::int64_t at = 1; at <= 3; ++at) {
        model.add_gradients(some_tokens().narrow(1, 0, 19), some_tokens().narrow(1, 1, 19), 1.0 / 19);
        model.parameters().collect_gradients();
        optimizer.step(3e-3, at, optimizer.gradient_norm());
        model.parameters().refresh();
    }
}

at::Tensor engine_logits(const ModelSpec& spec, const WeightSource& weights) {
    PlanOptions options;
    options.kernels = KernelChoice::reference;
    options.isa = Isa::generic;
    auto plan = lower(spec, weights, options);
    EXPECT_TRUE(plan.ok()) << (plan.ok() ? "" : plan.error().to_string());
    auto session = Session::create(*plan, {.n_threads = 1, .n_context = 32});
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < some_tokens().size(1); ++i) ids.push_back(some_tokens()[0][i].item<std::int32_t>());
    EXPECT_TRUE((*session)->forward(0, ids, BatchItem::Logits::all).ok());
    const auto found = (*session)->logits();
    return at::tensor(at::ArrayRef<float>(found.data(), found.size())).view({static_cast<std::int64_t>(ids.size()), -1});
}

bool same_bytes(const TensorView& a, const TensorView& b) { return a.dtype == b.dtype && a.shape == b.shape && std::ranges::equal(a.data, b.data); }

constexpr const char* models[] = {"llama", "gpt2", "phi3", "llama_tied_bf16"};
constexpr const char* targets[] = {"50%", "2:4", "4x1:50%", "block16x32:50%"};

TEST(StoredMasks, WhatIsLoadedComesBackBitByBit) {
    for (const char* name : models)
        for (const char* target : targets) {
            SCOPED_TRACE(std::string(name) + " " + target);
            const Checkpoint checkpoint = open_checkpoint(name);
            const ChangedModel pruned(checkpoint, [&](const Weight& dense) { return sparse_weight(dense, target); });
            ParameterSet parameters = load_parameters(checkpoint.spec, pruned);
            EXPECT_EQ(parameters.keep_zeros(0.05), pruned.changed().size());
            const auto source = parameters.source({}), numbers = parameters.source({}, ParameterSet::Masked::written_out);
            for (const auto& [key, before] : pruned.changed()) {
                const auto after = source->load(key);
                ASSERT_TRUE(after.ok()) << key;
                ASSERT_NE(after->sparse(), nullptr) << key;
                EXPECT_EQ(after->shape, before.shape);
                EXPECT_EQ(after->sparse()->pattern, before.sparse()->pattern);
                EXPECT_TRUE(same_bytes(after->sparse()->bitmask, before.sparse()->bitmask)) << key;
                EXPECT_TRUE(same_bytes(after->sparse()->values, before.sparse()->values)) << key;
                EXPECT_NE(numbers->load(key)->plain(), nullptr);
            }
        }
}

TEST(StoredMasks, HoldThroughTrainingAndTheEngineComputesWhatWasTrained) {
    for (const char* name : models)
        for (const char* target : targets) {
            SCOPED_TRACE(std::string(name) + " " + target);
            const Checkpoint checkpoint = open_checkpoint(name);
            const ChangedModel pruned(checkpoint, [&](const Weight& dense) { return sparse_weight(dense, target); });
            ParameterSet parameters = load_parameters(checkpoint.spec, pruned);
            parameters.keep_zeros(0.05);
            const auto model = make_trainable(checkpoint.spec, std::move(parameters));
            train_a_little(*model);
            const at::NoGradGuard no_grad;
            const auto source = model->parameters().source(DType::f32);
            for (const auto& [key, before] : pruned.changed()) {
                const auto after = source->load(key);
                ASSERT_TRUE(after.ok() && after->sparse() != nullptr) << key;
                EXPECT_TRUE(same_bytes(after->sparse()->bitmask, before.sparse()->bitmask)) << key;
                EXPECT_FALSE(tensor_of(*after).equal(tensor_of(before))) << key;
            }
            EXPECT_LT(relative_difference(engine_logits(checkpoint.spec, *source), model->logits(some_tokens())), 1e-4);
        }
}

// Every scheme: codes beside the same bitmask, and the zeros are zero in training too; or a word of why not.
TEST(StoredMasks, BecomeCodesBesideTheMask) {
    std::size_t n_stored = 0, n_refused = 0;
    for (const SchemePreset& preset : scheme_presets()) {
        if (!check_trainable_scheme(preset.scheme).ok()) continue;
        for (const char* name : {"llama", "gpt2"}) {
            SCOPED_TRACE(std::string(preset.name) + " " + name);
            const Checkpoint checkpoint = open_checkpoint(name);
            const ChangedModel pruned(checkpoint, [&](const Weight& dense) { return sparse_weight(dense, "2:4"); });
            ParameterSet parameters = load_parameters(checkpoint.spec, pruned);
            parameters.keep_zeros(0.05);
            const bool defined = sparse_defined_on(preset.scheme).ok();
            for (const auto& [key, before] : pruned.changed()) {
                const Status status = parameters.quantize(key, preset.scheme, FakeQuant::Codes::follow);
                ASSERT_EQ(status.ok(), defined) << (status.ok() ? "accepted" : status.error().to_string());
            }
            (defined ? n_stored : n_refused) += 1;
            if (!defined) continue;
            parameters.refresh();
            const auto model = make_trainable(checkpoint.spec, std::move(parameters));
            train_a_little(*model);
            const at::NoGradGuard no_grad;
            const auto source = model->parameters().source(DType::f32);
            for (const auto& [key, before] : pruned.changed()) {
                const Parameter& parameter = *model->parameters().find(key);
                EXPECT_EQ(parameter.computed().masked_select(parameter.mask == 0).abs().max().item<double>(), 0) << key;
                const auto after = source->load(key);
                ASSERT_TRUE(after.ok() && after->sparse() != nullptr) << key;
                EXPECT_EQ(after->sparse()->scheme, preset.scheme) << key;
                EXPECT_TRUE(same_bytes(after->sparse()->bitmask, before.sparse()->bitmask)) << key;
            }
            EXPECT_LT(relative_difference(engine_logits(checkpoint.spec, *source), model->logits(some_tokens())), 1e-4);
        }
    }
    EXPECT_GT(n_stored, 10u);
    EXPECT_GT(n_refused, 10u);
}

// Zeros that stand among plain numbers: they stay zero in schemes with a level for them, and no other scheme is taken.
TEST(StoredMasks, PlainZerosNeedALevelForZero) {
    std::set<std::string> refused;
    for (const SchemePreset& preset : scheme_presets()) {
        if (!check_trainable_scheme(preset.scheme).ok()) continue;
        SCOPED_TRACE(std::string(preset.name));
        const Checkpoint checkpoint = open_checkpoint("llama");
        const ChangedModel zeros(checkpoint, [&](const Weight& dense) { return densified(sparse_weight(dense, "50%")); });
        ParameterSet parameters = load_parameters(checkpoint.spec, zeros);
        EXPECT_EQ(parameters.keep_zeros(0.05), zeros.changed().size());
        bool all = true;
        for (const auto& [key, before] : zeros.changed()) all &= parameters.quantize(key, preset.scheme, FakeQuant::Codes::follow).ok();
        if (!all) {
            refused.emplace(preset.name);
            continue;
        }
        parameters.refresh();
        const auto model = make_trainable(checkpoint.spec, std::move(parameters));
        train_a_little(*model);
        const at::NoGradGuard no_grad;
        const auto source = model->parameters().source({});
        for (const auto& [key, before] : zeros.changed()) {
            const Parameter& parameter = *model->parameters().find(key);
            EXPECT_EQ(parameter.computed().masked_select(parameter.mask == 0).abs().max().item<double>(), 0) << key;
            const auto after = source->load(key);
            ASSERT_TRUE(after.ok() && after->codes() != nullptr) << key;  // they came written out
            EXPECT_EQ(tensor_of(*after).masked_select(parameter.mask == 0).abs().max().item<double>(), 0) << key;
        }
    }
    for (const char* name : {"n4g32r", "n3g32r", "n2g32r", "iq4nl", "binary", "k4", "k16tensor"}) EXPECT_EQ(refused.count(name), 1u) << name;
    for (const char* name : {"w4g32", "w4g32a", "w3g32r", "nf4", "ternary", "mxfp4", "e4m3"}) EXPECT_EQ(refused.count(name), 0u) << name;
    // Where zeros are trained too, or there are none, all can be.
    const Checkpoint checkpoint = open_checkpoint("llama");
    ParameterSet parameters = load_parameters(checkpoint.spec, *checkpoint.weights);
    EXPECT_TRUE(parameters.quantize("model.layers.1.mlp.up_proj.weight", *parse_scheme("n4g32r"), FakeQuant::Codes::follow).ok());
}

TEST(StoredMasks, RoundingIsNotPruning) {
    for (const char* name : {"llama", "gpt2"})
        for (const char* scheme : {"w4g32", "w2g32r", "ternary", "w8g32"}) {
            SCOPED_TRACE(std::string(name) + " " + scheme);
            const Checkpoint checkpoint = open_checkpoint(name);
            const ChangedModel rounded(checkpoint, [&](const Weight& dense) { return encoded(dense, scheme); });
            ParameterSet parameters = load_parameters(checkpoint.spec, rounded);
            std::int64_t n_zeros = 0;
            for (const auto& [key, weight] : rounded.changed()) {
                const at::Tensor& value = parameters.find(key)->value;
                n_zeros += (value == 0).sum().item<std::int64_t>();
                EXPECT_TRUE((parameters.find(key)->columns ? value.t() : value).detach().equal(tensor_of(weight))) << key;
            }
            if (std::string_view(scheme) == "ternary") { EXPECT_GT(n_zeros, 1000); }
            EXPECT_EQ(parameters.keep_zeros(0.05), 0u);
            for (const Parameter& parameter : parameters.all()) EXPECT_FALSE(parameter.mask.defined()) << parameter.key;
        }
}

// A mask of codes tells what was pruned from what was rounded to zero.
TEST(StoredMasks, OfCodesAreTheBitmask) {
    const Checkpoint checkpoint = open_checkpoint("llama");
    const ChangedModel pruned(checkpoint, [&](const Weight& dense) {
        const Weight half = sparse_weight(dense, "50%");
        const auto bits = half.sparse()->bitmask.data;
        return *make_sparse(encoded(densified(half), "ternary"), half.sparse()->pattern, {bits.begin(), bits.end()});
    });
    ParameterSet parameters = load_parameters(checkpoint.spec, pruned);
    EXPECT_EQ(parameters.keep_zeros(0.05), pruned.changed().size());
    std::int64_t n_rounded_to_zero = 0;
    for (const auto& [key, weight] : pruned.changed()) {
        const Parameter& parameter = *parameters.find(key);
        EXPECT_NEAR(parameter.mask.mean().item<double>(), 0.5, 0.05) << key;
        EXPECT_TRUE(parameter.mask.equal(kept_in(weight))) << key;
        n_rounded_to_zero += ((parameter.value == 0) & (parameter.mask != 0)).sum().item<std::int64_t>();
    }
    EXPECT_GT(n_rounded_to_zero, 50);
}

TEST(StoredMasks, ZerosThatAreTrainedAreWrittenOut) {
    const Checkpoint checkpoint = open_checkpoint("llama");
    const ChangedModel pruned(checkpoint, [&](const Weight& dense) { return sparse_weight(dense, "2:4"); });
    ParameterSet parameters = load_parameters(checkpoint.spec, pruned);
    parameters.train_zeros();
    const auto source = parameters.source({});
    for (const auto& [key, weight] : pruned.changed()) EXPECT_NE(source->load(key)->plain(), nullptr) << key;
}

// Zeros that come in training are left out where that is smaller, and masks that outgrow the pattern they came with are those of single weights.
TEST(StoredMasks, ThatComeInTrainingAreStoredWhereThatIsSmaller) {
    for (const char* name : {"llama", "gpt2"})
        for (const auto& [target, n, m, is_sparse] : {std::tuple{0.5, 0, 0, true}, {0.03, 0, 0, false}, {0.0, 2, 4, true}}) {
            SCOPED_TRACE(std::string(name) + " " + std::to_string(target));
            const Checkpoint checkpoint = open_checkpoint(name);
            ParameterSet parameters = load_parameters(checkpoint.spec, *checkpoint.weights);
            SparsifyOptions options;
            options.target = target;
            options.pattern_n = n;
            options.pattern_m = m;
            options.course = SparsifyOptions::Course::once;
            MagnitudeMasks masks(checkpoint.spec, parameters, options);
            masks.before_step(0);
            const auto source = parameters.source(DType::bf16);
            const auto weight = source->load(name == std::string("gpt2") ? "transformer.h.1.mlp.c_fc.weight" : "model.layers.1.mlp.up_proj.weight");
            ASSERT_TRUE(weight.ok());
            ASSERT_EQ(weight->sparse() != nullptr, is_sparse);
            if (is_sparse) { EXPECT_EQ(weight->sparse()->pattern, (SparsePattern{1, 1, n, m})); }
        }
    const Checkpoint checkpoint = open_checkpoint("llama");
    const ChangedModel pruned(checkpoint, [&](const Weight& dense) { return sparse_weight(dense, "4x1:50%"); });
    ParameterSet parameters = load_parameters(checkpoint.spec, pruned);
    parameters.keep_zeros(0.05);
    SparsifyOptions options;
    options.target = 0.75;
    options.course = SparsifyOptions::Course::once;
    MagnitudeMasks masks(checkpoint.spec, parameters, options);
    masks.before_step(0);
    EXPECT_NEAR(masks.sparsity(), 0.75, 0.02);
    const auto weight = parameters.source({})->load("model.layers.1.mlp.up_proj.weight");
    ASSERT_TRUE(weight.ok() && weight->sparse() != nullptr);
    EXPECT_EQ(weight->sparse()->pattern, SparsePattern{});
    EXPECT_TRUE(kept_in(*weight).equal(parameters.find("model.layers.1.mlp.up_proj.weight")->mask));
}

}  // namespace
}  // namespace skiff::train
