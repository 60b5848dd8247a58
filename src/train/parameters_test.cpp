// Masks, adapters, fresh weights, and the way back to a WeightSource.
#include "train/train_testing.h"

#include <cmath>
#include <set>

#include "model/arch/arch.h"
#include "train/optimizer.h"

namespace skiff::train {
namespace {

const std::string up_proj = "model.layers.1.mlp.up_proj.weight";

TEST(Parameters, OfSomeoneElsesShapeAreRefused) {
    TinyCase tiny = open_tiny_model("llama");
    tiny.weights.tensors[up_proj] = at::zeros({37, 21});
    auto wrong = ParameterSet::load(tiny.spec, tiny.weights, at::kCPU);
    ASSERT_FALSE(wrong.ok());
    EXPECT_NE(wrong.error().to_string().find(up_proj), std::string::npos);
    tiny.weights.tensors.erase(up_proj);
    auto missing = ParameterSet::load(tiny.spec, tiny.weights, at::kCPU);
    ASSERT_FALSE(missing.ok());
    EXPECT_NE(missing.error().to_string().find(up_proj + " is missing"), std::string::npos);
}

// f32 comes back bit by bit, bf16 weights too when they are written as they were stored.
TEST(Parameters, TheSourceGivesBackWhatWasLoaded) {
    for (const char* name : {"llama", "llama_tied_bf16", "gpt2", "phi3", "mixtral", "llama_pruned"}) {
        auto checkpoint = Checkpoint::open(tiny_model_path(name));
        ASSERT_TRUE(checkpoint.ok());
        const ParameterSet parameters = load_parameters(checkpoint->spec, *checkpoint->weights);
        const auto source = parameters.source({});
        EXPECT_EQ(source->keys().size(), parameters.all().size());
        for (const auto& [key, declared] : checkpoint->spec.tensors) {
            const auto before = checkpoint->weights->load(key), after = source->load(key);
            ASSERT_TRUE(before.ok() && after.ok()) << key;
            EXPECT_EQ(before->shape, after->shape);
            ASSERT_EQ(before->plain()->dtype, after->plain()->dtype) << key;
            EXPECT_TRUE(std::ranges::equal(before->plain()->data, after->plain()->data)) << name << " " << key;
        }
        EXPECT_FALSE(source->contains("nothing"));
        EXPECT_FALSE(source->load("nothing").ok());
        const auto half = parameters.source(DType::f16)->load(parameters.all()[0].key);
        EXPECT_EQ(half->plain()->dtype, DType::f16);
    }
}

TEST(Masks, AreWhereManyWeightsAreZero) {
    TinyCase tiny = open_tiny_model("llama");
    at::Tensor& pruned = tiny.weights.tensors[up_proj];
    pruned = at::where(pruned > 0, pruned, at::zeros_like(pruned));
    ParameterSet parameters = load_parameters(tiny.spec, tiny.weights);
    EXPECT_EQ(parameters.keep_zeros(0.05), 1u);
    const Parameter& parameter = *parameters.find(up_proj);
    ASSERT_TRUE(parameter.mask.defined());
    EXPECT_TRUE(at::equal(parameter.mask, (pruned != 0).to(at::kFloat)));
    EXPECT_FALSE(parameters.find("model.layers.0.mlp.up_proj.weight")->mask.defined());
    EXPECT_FALSE(parameters.find("model.norm.weight")->mask.defined());
    {
        const at::NoGradGuard no_grad;
        parameters.find(up_proj)->value.fill_(3);
    }
    parameters.apply_masks();
    EXPECT_TRUE(at::equal(parameter.value.detach(), parameter.mask * 3));
}

// Steps of either optimizer leave the zeros; without a mask they would not.
TEST(Masks, HoldThroughTraining) {
    for (const auto kind : {OptimizerSettings::Kind::adamw, OptimizerSettings::Kind::muon}) {
        TinyCase tiny = open_tiny_model("llama");
        at::Tensor& pruned = tiny.weights.tensors[up_proj];
        pruned = at::where(pruned > 0, pruned, at::zeros_like(pruned));
        ParameterSet parameters = load_parameters(tiny.spec, tiny.weights);
        parameters.keep_zeros(0.05);
        const auto model = make_trainable(tiny.spec, std::move(parameters));
        OptimizerSettings settings;
        settings.kind = kind;
        Optimizer optimizer(model->parameters().trained(tiny.spec), settings);
        const at::Tensor tokens = at::arange(1, 34).view({1, 33});
        for (std::int64_t step = 1; step <= 3; ++step) {
            model->add_gradients(tokens.narrow(1, 0, 32), tokens.narrow(1, 1, 32), 1.0 / 32);
            optimizer.step(0.01, step, optimizer.gradient_norm());
        }
        const at::Tensor after = model->parameters().find(up_proj)->value.detach();
        EXPECT_EQ(after.masked_select(pruned == 0).abs().max().item<double>(), 0);
        EXPECT_FALSE(at::signbit(after.masked_select(pruned == 0)).any().item<bool>()) << "minus zero";
        EXPECT_GT((after - pruned).abs().max().item<double>(), 1e-3);
    }
}

ParameterSet::AdapterOptions some_adapters(std::int64_t rank, std::vector<std::string> names) {
    ParameterSet::AdapterOptions options;
    options.rank = rank;
    options.alpha = 6;
    options.names = std::move(names);
    options.seed = 3;
    return options;
}

TEST(Adapters, AreRefusedWhereTheyDoNotFit) {
    const TinyCase tiny = open_tiny_model("llama");
    ParameterSet parameters = load_parameters(tiny.spec, tiny.weights);
    auto wide = parameters.add_adapters(tiny.spec, some_adapters(21, {"down_proj"}));
    ASSERT_FALSE(wide.ok());
    EXPECT_NE(wide.error().to_string().find("LoRA rank 21 is more than model.layers.0.mlp.down_proj.weight has (20)"), std::string::npos) << wide.error().to_string();
    ParameterSet other = load_parameters(tiny.spec, tiny.weights);
    for (const char* name : {"no_such_weight", "lm_head", "embed_tokens", "input_layernorm"}) EXPECT_FALSE(other.add_adapters(tiny.spec, some_adapters(2, {name})).ok()) << name;
}

TEST(Adapters, AreAllThatIsTrained) {
    const TinyCase tiny = open_tiny_model("llama");
    ParameterSet parameters = load_parameters(tiny.spec, tiny.weights);
    const auto n = parameters.add_adapters(tiny.spec, some_adapters(2, {}));
    ASSERT_TRUE(n.ok());
    EXPECT_EQ(*n, 14u);  // q, k, v, o, gate, up and down of two layers
    std::set<std::string> names;
    for (const auto& trained : parameters.trained(tiny.spec)) names.insert(trained.name);
    EXPECT_EQ(names.size(), 28u);
    EXPECT_EQ(names.count(up_proj + ".lora_up"), 1u);
    EXPECT_EQ(names.count(up_proj), 0u);
    for (const Parameter& parameter : parameters.all()) EXPECT_FALSE(parameter.value.requires_grad()) << parameter.key;
    const Adapter& adapter = parameters.adapters().at(up_proj);
    EXPECT_EQ(adapter.scale, 3);
    EXPECT_EQ(adapter.up.abs().max().item<double>(), 0);
    const double bound = 1 / std::sqrt(20.0), largest = adapter.down.abs().max().item<double>();
    EXPECT_LE(largest, bound);
    EXPECT_GT(largest, 0.8 * bound);
}

// The weight that is written is W + scale * up * down, also where the checkpoint stores columns (gpt2) or one tensor feeds several operators (phi3,
// gpt_neox); and the model with adapters computes what the model with merged weights does.
TEST(Adapters, MergedAreTheSumThatTheModelComputes) {
    const at::Tensor tokens = at::arange(1, 31).view({1, 30});
    for (const char* name : {"llama", "gpt2", "gpt2_bare_names", "phi3", "gpt_neox", "mixtral", "llama_biases", "opt"}) {
        SCOPED_TRACE(name);
        const TinyCase tiny = open_tiny_model(name);
        ParameterSet parameters = load_parameters(tiny.spec, tiny.weights);
        ASSERT_TRUE(parameters.add_adapters(tiny.spec, some_adapters(3, {})).ok());
        at::manual_seed(9);
        for (const auto& [key, adapter] : parameters.adapters()) {
            const at::NoGradGuard no_grad;
            at::Tensor up = adapter.up;
            up.normal_(0, 0.1);
        }
        const auto source = parameters.source({});
        WeightsInMemory merged;
        const std::set<std::string> columns = keys_stored_as_columns(tiny.spec);
        for (const Parameter& parameter : parameters.all()) {
            merged.tensors[parameter.key] = tensor_of(*parameters.source(DType::f32)->load(parameter.key));
            const auto found = parameters.adapters().find(parameter.key);
            if (found == parameters.adapters().end()) {
                EXPECT_TRUE(at::equal(merged.tensors[parameter.key], parameter.value.detach()));
                continue;
            }
            at::Tensor expected = parameter.value.detach().clone();
            const at::Tensor up = found->second.up.detach(), down = found->second.down.detach();
            for (std::int64_t out = 0; out < up.size(0); ++out) {
                const at::Tensor row = (up[out].unsqueeze(1) * down).sum(0) * 2;  // alpha / rank
                (columns.count(parameter.key) != 0 ? expected.select(1, out) : expected.select(0, out)).add_(row);
            }
            EXPECT_LT(relative_difference(merged.tensors[parameter.key], expected), 1e-6) << parameter.key;
        }
        const at::NoGradGuard no_grad;
        const auto with_adapters = make_trainable(tiny.spec, std::move(parameters)), with_sums = make_trainable(tiny.spec, load_parameters(tiny.spec, merged));
        const auto untouched = make_trainable(tiny.spec, load_parameters(tiny.spec, tiny.weights));
        EXPECT_LT(relative_difference(with_adapters->logits(tokens), with_sums->logits(tokens)), 1e-5);
        EXPECT_GT(relative_difference(with_adapters->logits(tokens), untouched->logits(tokens)), 1e-2);
    }
}

// Square weights: what tells rows from columns is the spec, not the shape.
TEST(Adapters, OfSquareWeightsStoredAsColumns) {
    const TinyCase tiny = open_tiny_model("gpt2");
    ParameterSet parameters = load_parameters(tiny.spec, tiny.weights);
    const std::string key = "transformer.h.0.attn.c_proj.weight";
    ASSERT_TRUE(parameters.add_adapters(tiny.spec, some_adapters(1, {key})).ok());
    const Adapter& adapter = parameters.adapters().at(key);
    {
        const at::NoGradGuard no_grad;
        at::Tensor up = adapter.up;
        up[4][0] = 1;
    }
    const at::Tensor change = tensor_of(*parameters.source(DType::f32)->load(key)) - tiny.weights.tensors.at(key);
    for (std::int64_t in = 0; in < change.size(0); ++in) {
        EXPECT_NEAR(change[in][4].item<double>(), 6 * adapter.down[0][in].item<double>(), 1e-6);
        EXPECT_EQ(change[in][5].item<double>(), 0);
    }
}

TEST(FreshWeights, HaveTheDeviationsOfGpt2) {
    auto config = Json::parse(R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu"})");
    auto spec = build_spec(*config);
    ASSERT_TRUE(spec.ok());
    const auto weights = initial_weights(*spec, 1);
    for (const auto& [key, declared] : spec->tensors) {
        const at::Tensor values = tensor_of(*weights->load(key));
        if (declared.role == TensorDecl::Role::norm) {
            EXPECT_TRUE(at::equal(values, at::ones_like(values))) << key;
            continue;
        }
        // What ends a residual branch is less by sqrt(2 * 8) = 4.
        const bool last = key.find("o_proj") != std::string::npos || key.find("down_proj") != std::string::npos;
        const double expected = last ? 0.005 : 0.02, n = static_cast<double>(values.numel());
        EXPECT_NEAR(values.std().item<double>(), expected, expected * 4 / std::sqrt(2 * n)) << key;  // four standard errors
        EXPECT_NEAR(values.mean().item<double>(), 0, expected * 4 / std::sqrt(n)) << key;
    }
}

TEST(FreshWeights, BiasesAreZeroAndFusedBranchesEndToo) {
    for (const char* name : {"gpt2", "opt", "phi3", "gpt_neox"}) {
        const TinyCase tiny = open_tiny_model(name);
        const auto weights = initial_weights(tiny.spec, 1);
        for (const auto& [key, declared] : tiny.spec.tensors) {
            const at::Tensor values = tensor_of(*weights->load(key));
            if (declared.role == TensorDecl::Role::bias) {
                EXPECT_EQ(values.abs().max().item<double>(), 0) << key;
            }
            if (declared.role != TensorDecl::Role::linear) continue;
            bool last = false;
            for (const char* part : {"c_proj", "out_proj", "fc2", "o_proj", "down_proj", "attention.dense.", "dense_4h_to_h"}) last |= key.find(part) != std::string::npos;
            const double expected = last ? 0.01 : 0.02;  // two layers
            EXPECT_NEAR(values.std().item<double>(), expected, expected * 0.25) << name << " " << key;
        }
    }
}

TEST(FreshWeights, DependOnNameAndSeedAlone) {
    const TinyCase tiny = open_tiny_model("llama");
    const auto one = initial_weights(tiny.spec, 1), two = initial_weights(tiny.spec, 2);
    const auto keys = one->keys();
    std::map<std::string, at::Tensor> forward, backward;
    for (auto key = keys.begin(); key != keys.end(); ++key) forward[*key] = tensor_of(*one->load(*key));
    for (auto key = keys.rbegin(); key != keys.rend(); ++key) backward[*key] = tensor_of(*initial_weights(tiny.spec, 1)->load(*key));
    for (const auto& [key, values] : forward) {
        EXPECT_TRUE(at::equal(values, backward[key])) << key;
        if (tiny.spec.tensors.at(key).role == TensorDecl::Role::linear) {
            EXPECT_FALSE(at::equal(values, tensor_of(*two->load(key)))) << key;
        }
    }
    EXPECT_FALSE(at::equal(forward.at("model.layers.0.mlp.up_proj.weight"), forward.at("model.layers.1.mlp.up_proj.weight")));
    EXPECT_FALSE(one->load("nothing").ok());
}

// A norm that stores w - 1 (Gemma) begins at an effective one.
TEST(FreshWeights, NormsBeginAtOneEffectively) {
    for (const char* name : {"gemma2", "gemma3"}) {
        const TinyCase tiny = open_tiny_model(name);
        const auto weights = initial_weights(tiny.spec, 1);
        for (const Block& block : tiny.spec.blocks)
            for (const Op& op : block.ops)
                if (const auto* norm = std::get_if<NormOp>(&op.detail)) {
                    const at::Tensor effective = tensor_of(*weights->load(norm->weight.key)) + norm->weight_offset;
                    EXPECT_TRUE(at::equal(effective, at::ones_like(effective))) << name << " " << norm->weight.key;
                }
    }
}

}  // namespace
}  // namespace skiff::train
