// What the design promises of training: terms that a compressed checkpoint adds are trained, blocks can be left out, and the engine computes what was trained.
#include "train/train_testing.h"

#include <cmath>

#include "model/extra_terms.h"
#include "plan/session.h"
#include "train/optimizer.h"

namespace skiff::train {
namespace {

std::vector<std::string> case_names() {
    std::vector<std::string> names;
    auto list = read_json_file(tiny_model_path("index.json"));
    if (list.ok())
        for (const Json& name : list->items()) names.push_back(name.text());
    return names;
}

const at::Tensor& some_tokens() {
    static const at::Tensor tokens = at::tensor({1, 5, 9, 33, 60, 7, 8, 21, 40, 3, 2, 50, 17, 5, 9, 34, 61, 11, 12, 1}, at::kLong).view({1, 20});
    return tokens;
}

// By the engine's plain kernels. // (n_tokens, n_vocab)
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

class EngineOf : public ::testing::TestWithParam<std::string> {};

// Of weights that a few steps have moved, through the source that writes a folder.
TEST_P(EngineOf, TheTrainedModelComputesTheSame) {
    const TinyCase tiny = open_tiny_model(GetParam());
    const auto model = make_trainable(tiny.spec, load_parameters(tiny.spec, tiny.weights));
    Optimizer optimizer(model->parameters().trained(tiny.spec), {});
    double first = 0, last = 0;
    for (std::int64_t step = 1; step <= 4; ++step) {
        last = model->add_gradients(some_tokens().narrow(1, 0, 19), some_tokens().narrow(1, 1, 19), 1.0 / 19);
        if (step == 1) first = last;
        optimizer.step(1e-3, step, optimizer.gradient_norm());
    }
    EXPECT_LT(last, first);
    const at::NoGradGuard no_grad;
    EXPECT_LT(relative_difference(engine_logits(tiny.spec, *model->parameters().source(DType::f32)), model->logits(some_tokens())), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Cases, EngineOf, ::testing::ValuesIn(case_names()), [](const auto& param) { return param.param; });

// ---- low-rank terms behind an input scale

struct Decorated {
    TinyCase plain, with_terms;  // one model in two forms: (W + up * down) * diag(scale) as one matrix, and as its factors
    std::string base;
    bool columns = false;        // stored as (inputs, outputs)
};
Decorated decorate(const std::string& model, const std::string& key, std::int64_t rank) {
    Decorated decorated{open_tiny_model(model), open_tiny_model(model), key.substr(0, key.size() - 7), false};
    decorated.columns = keys_stored_as_columns(decorated.plain.spec).count(key) != 0;
    at::manual_seed(4);
    at::Tensor weight = decorated.plain.weights.tensors.at(key);
    if (decorated.columns) weight = weight.t();
    const at::Tensor up = at::randn({weight.size(0), rank}) * 0.2, down = at::randn({rank, weight.size(1)}) * 0.2, scale = at::randn({weight.size(1)}) * 0.3 + 1;
    auto& tensors = decorated.with_terms.weights.tensors;
    tensors[decorated.base + ".low_rank_up"] = up;
    tensors[decorated.base + ".low_rank_down"] = down;
    tensors[decorated.base + ".input_scale"] = scale;
    const at::Tensor product = (weight + at::mm(up, down)) * scale;
    decorated.plain.weights.tensors[key] = (decorated.columns ? product.t() : product).contiguous();
    EXPECT_TRUE(attach_extra_terms(decorated.with_terms.spec, decorated.with_terms.weights).ok());
    return decorated;
}

struct TermCase {
    const char* model;
    const char* key;  // a plain weight, one of several merged, a fused one, one stored as columns
};
constexpr TermCase term_cases[] = {{"llama", "model.layers.1.mlp.down_proj.weight"},
                                   {"llama", "model.layers.0.self_attn.q_proj.weight"},
                                   {"phi3", "model.layers.0.self_attn.qkv_proj.weight"},
                                   {"gpt_neox", "gpt_neox.layers.1.attention.query_key_value.weight"},
                                   {"gpt2", "transformer.h.0.attn.c_attn.weight"}};

// With G the gradient of the product P = (W + U D) diag(s): dW = G diag(s), dU = dW D^T, dD = U^T dW, ds = column sums of G * (W + U D).
TEST(Terms, GradientsFollowFromTheProduct) {
    for (const TermCase& item : term_cases) {
        SCOPED_TRACE(std::string(item.model) + " " + item.key);
        const Decorated decorated = decorate(item.model, item.key, 4);
        const auto plain = make_trainable(decorated.plain.spec, load_parameters(decorated.plain.spec, decorated.plain.weights));
        const auto model = make_trainable(decorated.with_terms.spec, load_parameters(decorated.with_terms.spec, decorated.with_terms.weights));
        const at::Tensor in = some_tokens().narrow(1, 0, 19), out = some_tokens().narrow(1, 1, 19);
        const double loss = plain->add_gradients(in, out, 1.0 / 19);
        EXPECT_NEAR(model->add_gradients(in, out, 1.0 / 19), loss, 1e-5 * loss);
        auto oriented = [&](const at::Tensor& tensor) { return decorated.columns ? tensor.t() : tensor; };
        auto value = [&](const std::string& suffix) { return model->parameters().find(decorated.base + suffix)->value.detach(); };
        auto gradient = [&](const std::string& suffix) { return model->parameters().find(decorated.base + suffix)->value.grad(); };
        const at::Tensor product = oriented(plain->parameters().find(item.key)->value.grad());
        const at::Tensor weight = product * value(".input_scale");
        EXPECT_LT(relative_difference(oriented(gradient(".weight")), weight), 1e-4);
        EXPECT_LT(relative_difference(gradient(".low_rank_up"), at::mm(weight, value(".low_rank_down").t())), 1e-4);
        EXPECT_LT(relative_difference(gradient(".low_rank_down"), at::mm(value(".low_rank_up").t(), weight)), 1e-4);
        const at::Tensor sum = oriented(value(".weight")) + at::mm(value(".low_rank_up"), value(".low_rank_down"));
        EXPECT_LT(relative_difference(gradient(".input_scale"), (product * sum).sum(0)), 1e-4);
        const at::NoGradGuard no_grad;
        EXPECT_LT(relative_difference(engine_logits(decorated.with_terms.spec, *model->parameters().source(DType::f32)), model->logits(some_tokens())), 1e-4);
    }
}

TEST(Terms, AreAmongWhatIsTrained) {
    const Decorated decorated = decorate("llama", term_cases[0].key, 4);
    const auto model = make_trainable(decorated.with_terms.spec, load_parameters(decorated.with_terms.spec, decorated.with_terms.weights));
    Optimizer optimizer(model->parameters().trained(decorated.with_terms.spec), {});
    std::vector<double> losses;
    for (std::int64_t step = 1; step <= 10; ++step) {
        losses.push_back(model->add_gradients(some_tokens().narrow(1, 0, 19), some_tokens().narrow(1, 1, 19), 1.0 / 19));
        optimizer.step(1e-2, step, optimizer.gradient_norm());
    }
    EXPECT_LT(losses.back(), 0.8 * losses.front());
    for (const char* suffix : {".low_rank_up", ".low_rank_down", ".input_scale"}) {
        const at::Tensor before = decorated.with_terms.weights.tensors.at(decorated.base + suffix), after = model->parameters().find(decorated.base + suffix)->value.detach();
        EXPECT_GT((after - before).abs().max().item<double>(), 0.01) << suffix;
    }
}

// ---- blocks left out

// A block whose branches end in zeros adds nothing: what the model without the block must be, to the last bit.
TEST(LayerDrop, LeavesABlockOutExactly) {
    struct Case {
        const char* model;
        std::vector<const char*> ends;
    };
    for (const Case& item : {Case{"llama", {"self_attn.o_proj.weight", "mlp.down_proj.weight"}},
                             Case{"gpt2", {"attn.c_proj.weight", "attn.c_proj.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"}}}) {
        const TinyCase tiny = open_tiny_model(item.model);
        for (std::size_t layer = 0; layer < 2; ++layer) {
            const std::string prefix = std::string(item.model) == "gpt2" ? "transformer.h." : "model.layers.";
            TinyCase silent = open_tiny_model(item.model);
            for (const char* end : item.ends) silent.weights.tensors.at(prefix + std::to_string(layer) + "." + end).zero_();
            const at::Tensor in = some_tokens().narrow(1, 0, 19), out = some_tokens().narrow(1, 1, 19);
            for (const bool recompute : {false, true}) {
                TrainableOptions options;
                options.recompute_blocks = recompute;
                const auto model = make_trainable(tiny.spec, load_parameters(tiny.spec, tiny.weights), options);
                const auto expected = make_trainable(silent.spec, load_parameters(silent.spec, silent.weights), options);
                DroppedBlocks dropped(2);
                dropped[layer] = true;
                const double whole = model->loss_sum(in, out) / 19, loss = model->add_gradients(in, out, 1.0 / 19, {dropped});
                EXPECT_EQ(loss, expected->add_gradients(in, out, 1.0 / 19));
                EXPECT_NE(loss, whole);
                for (const Parameter& parameter : model->parameters().all()) {
                    const at::Tensor gradient = parameter.value.grad();
                    if (parameter.key.rfind(prefix + std::to_string(layer) + ".", 0) == 0) {
                        EXPECT_TRUE(!gradient.defined() || gradient.abs().max().item<double>() == 0) << parameter.key;
                        continue;
                    }
                    EXPECT_LT(relative_difference(gradient, expected->parameters().find(parameter.key)->value.grad()), 1e-6) << parameter.key;
                }
            }
        }
        // All of them: the embedding goes straight to the head.
        const auto model = make_trainable(tiny.spec, load_parameters(tiny.spec, tiny.weights));
        EXPECT_TRUE(std::isfinite(model->add_gradients(some_tokens(), some_tokens(), 1, {DroppedBlocks(2, true)})));
    }
}

// Targets that count nothing, and several sequences at once.
TEST(Trainable, SequencesAreIndependent) {
    const TinyCase tiny = open_tiny_model("llama");
    const auto model = make_trainable(tiny.spec, load_parameters(tiny.spec, tiny.weights));
    const at::Tensor in = some_tokens().view({2, 10}).narrow(1, 0, 9), out = some_tokens().view({2, 10}).narrow(1, 1, 9).clone();
    const double both = model->loss_sum(in, out), first = model->loss_sum(in.narrow(0, 0, 1), out.narrow(0, 0, 1)), second = model->loss_sum(in.narrow(0, 1, 1), out.narrow(0, 1, 1));
    EXPECT_NEAR(both, first + second, 1e-5 * both);
    out[1].fill_(-100);
    EXPECT_NEAR(model->loss_sum(in, out), first, 1e-5 * first);
}

// Adapters and recomputation together: what flows into the first block needs no gradient then.
TEST(Trainable, RecomputedBlocksWithAdaptersHaveTheSameGradients) {
    const TinyCase tiny = open_tiny_model("llama");
    std::vector<std::map<std::string, at::Tensor>> gradients;
    for (const bool recompute : {false, true}) {
        ParameterSet parameters = load_parameters(tiny.spec, tiny.weights);
        ParameterSet::AdapterOptions adapters;
        adapters.rank = 2;
        ASSERT_TRUE(parameters.add_adapters(tiny.spec, adapters).ok());
        TrainableOptions options;
        options.recompute_blocks = recompute;
        const auto model = make_trainable(tiny.spec, std::move(parameters), options);
        for (const auto& [key, adapter] : model->parameters().adapters()) {
            const at::NoGradGuard no_grad;
            at::Tensor up = adapter.up;
            up.fill_(0.05);
        }
        model->add_gradients(some_tokens().narrow(1, 0, 19), some_tokens().narrow(1, 1, 19), 1.0 / 19);
        auto& here = gradients.emplace_back();
        for (const auto& trained : model->parameters().trained(tiny.spec)) {
            ASSERT_TRUE(trained.value.grad().defined()) << trained.name << (recompute ? " recomputed" : "");
            here[trained.name] = trained.value.grad();
        }
    }
    for (const auto& [name, gradient] : gradients[0]) EXPECT_TRUE(at::equal(gradient, gradients[1].at(name))) << name;
}

}  // namespace
}  // namespace skiff::train
