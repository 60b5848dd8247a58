// The design's promises: parts of models combine without a special case anywhere. Parallel residuals, sandwich norms, soft-caps, experts and
// blocks of different sizes are in models_test.cpp; here are shared layers, sums of terms, input transforms and cuts along axes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "base/rng.h"
#include "model/arch/families.h"
#include "model/axes.h"
#include "model/checkpoint.h"
#include "model/extra_terms.h"
#include "plan/session.h"

namespace skiff {
namespace {

const std::string models_dir = std::string(SKIFF_TEST_DATA_DIR) + "/models";

class MemoryWeights final : public WeightSource {
public:
    bool contains(const std::string& key) const override { return weights.count(key) != 0; }
    Result<Weight> load(const std::string& key) const override {
        auto found = weights.find(key);
        if (found == weights.end()) return not_found(key);
        return found->second;
    }
    std::vector<std::string> keys() const override { return {}; }
    std::map<std::string, Weight> weights;
};

std::vector<float> floats(const Weight& weight) {
    std::vector<float> all(static_cast<std::size_t>(element_count(weight.shape)));
    for (std::int64_t row = 0; row < weight.n_rows(); ++row) weight.row(row, all.data() + row * weight.n_columns());
    return all;
}

// A golden model with its weights as floats in memory.
struct Model {
    ModelSpec spec;
    std::shared_ptr<MemoryWeights> weights = std::make_shared<MemoryWeights>();
};

Model open_model(const std::string& name) {
    Model model;
    auto checkpoint = Checkpoint::open(models_dir + "/" + name);
    EXPECT_TRUE(checkpoint.ok());
    model.spec = checkpoint->spec;
    for (const auto& [key, tensor] : model.spec.tensors) model.weights->weights[key] = make_float_weight(model.spec.shape(tensor), floats(*checkpoint->weights->load(key)));
    return model;
}

std::vector<float> logits(const ModelSpec& spec, const WeightSource& weights, KernelChoice kernels = KernelChoice::reference, std::vector<std::int32_t> ids = {}) {
    if (ids.empty()) ids = {1, 5, 9, 33, 60, 7, 8, 21, 40, 3};
    PlanOptions options;
    options.kernels = kernels;
    options.isa = kernels == KernelChoice::reference ? Isa::generic : best_isa();
    auto plan = lower(spec, weights, options);
    EXPECT_TRUE(plan.ok()) << (plan.ok() ? "" : plan.error().to_string());
    if (!plan.ok()) return {};
    auto session = Session::create(*plan, {.n_threads = 1, .n_context = 32});
    EXPECT_TRUE((*session)->forward(0, ids, BatchItem::Logits::all).ok());
    return {(*session)->logits().begin(), (*session)->logits().end()};
}

// Largest difference, relative to the largest of `expected`.
float difference(const std::vector<float>& found, const std::vector<float>& expected) {
    if (found.size() != expected.size() || found.empty()) return INFINITY;
    float worst = 0, largest = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
        if (std::isnan(found[i])) return INFINITY;
        worst = std::max(worst, std::abs(found[i] - expected[i]));
        largest = std::max(largest, std::abs(expected[i]));
    }
    return worst / largest;
}

// ---- two blocks of one set of tensors

TEST(Design, ATiedLayerEqualsItsCopies) {
    Model model = open_model("llama");
    auto json = read_json_file(models_dir + "/llama/config.json");
    HfConfig config(*json);
    DecoderFamily family = read_llama_family(config);
    family.blocks[1] = family.blocks[0];
    family.blocks[1].axes_of = "block0";
    ModelSpec tied = build_decoder("llama", family);
    EXPECT_LT(tied.n_parameters(), model.spec.n_parameters());
    for (auto& [key, weight] : model.weights->weights)
        if (key.rfind("model.layers.1.", 0) == 0) weight = model.weights->weights.at("model.layers.0." + key.substr(15));
    EXPECT_EQ(difference(logits(tied, *model.weights), logits(model.spec, *model.weights)), 0);
    // A cut of the shared axis reaches both blocks.
    const std::vector<std::int64_t> kept = {0, 3, 4, 9};
    auto cut = slice_axis(tied, "block0.ff", kept);
    auto weights = sliced_weights(model.weights, tied, "block0.ff", kept);
    ASSERT_TRUE(cut.ok() && weights.ok());
    EXPECT_EQ(logits(*cut, **weights).size(), logits(tied, *model.weights).size());
}

// ---- a linear operator is a sum of terms behind an input transform

std::vector<float> random_floats(Rng& rng, std::size_t n, float deviation) {
    std::vector<float> values(n);
    for (float& value : values) value = deviation * rng.normal();
    return values;
}

enum class Store { codes, plain };

// Gives the linear weight `key` low-rank factors, an input scale and, if asked for, 4-bit codes; in `expected` it becomes the explicit product
// (W + up * down) * diag(scale), computed here.
void decorate(Model& model, Model& expected, const std::string& key, std::int64_t rank, Store store) {
    Rng rng(7);
    const bool transposed = model.spec.architecture == "gpt2";
    Weight weight = model.weights->weights.at(key);
    std::int64_t n_out = weight.shape[transposed ? 1 : 0], n_in = weight.shape[transposed ? 0 : 1];
    std::vector<float> values = floats(weight), sum(values.size());
    auto at = [&](std::int64_t out, std::int64_t in) { return static_cast<std::size_t>(transposed ? in * n_out + out : out * n_in + in); };
    if (store == Store::codes) {
        std::vector<float> rows(values.size());
        for (std::int64_t out = 0; out < n_out; ++out)
            for (std::int64_t in = 0; in < n_in; ++in) rows[static_cast<std::size_t>(out * n_in + in)] = values[at(out, in)];
        auto coded = encode_nearest(make_float_weight({n_out, n_in}, rows), *parse_scheme("w4g32"), ScaleRule::search);
        ASSERT_TRUE(coded.ok());
        model.weights->weights[key] = *coded;
        rows = floats(*coded);
        for (std::int64_t out = 0; out < n_out; ++out)
            for (std::int64_t in = 0; in < n_in; ++in) values[at(out, in)] = rows[static_cast<std::size_t>(out * n_in + in)];
    }
    const auto n_rank = static_cast<std::size_t>(rank);
    std::vector<float> up = random_floats(rng, static_cast<std::size_t>(n_out) * n_rank, 0.2f), down = random_floats(rng, n_rank * static_cast<std::size_t>(n_in), 0.2f);
    std::vector<float> scale = random_floats(rng, static_cast<std::size_t>(n_in), 0.3f);
    for (float& factor : scale) factor += 1;
    for (std::int64_t out = 0; out < n_out; ++out) {
        for (std::int64_t in = 0; in < n_in; ++in) {
            double total = values[at(out, in)];
            for (std::int64_t r = 0; r < rank; ++r)
                total += static_cast<double>(up[static_cast<std::size_t>(out * rank + r)]) * static_cast<double>(down[static_cast<std::size_t>(r * n_in + in)]);
            sum[at(out, in)] = static_cast<float>(total * static_cast<double>(scale[static_cast<std::size_t>(in)]));
        }
    }
    const std::string base = key.substr(0, key.size() - 7);
    model.weights->weights[base + ".low_rank_up"] = make_float_weight({n_out, rank}, up);
    model.weights->weights[base + ".low_rank_down"] = make_float_weight({rank, n_in}, down);
    model.weights->weights[base + ".input_scale"] = make_float_weight({n_in}, scale);
    expected.weights->weights[key] = make_float_weight(weight.shape, sum);
}

struct Terms {
    std::string model;
    std::vector<std::string> keys;  // plain, merged with neighbours, fused, transposed
};

TEST(Design, FourBitsPlusRankEightBehindAnInputScale) {
    const Terms cases[] = {
        {"llama", {"model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"}},
        {"phi3", {"model.layers.0.self_attn.qkv_proj.weight", "model.layers.1.mlp.gate_up_proj.weight"}},
        {"gpt_neox", {"gpt_neox.layers.1.attention.query_key_value.weight"}},
        {"gpt2", {"transformer.h.0.attn.c_attn.weight", "transformer.h.1.mlp.c_proj.weight"}},
    };
    for (const Terms& item : cases) {
        for (Store store : {Store::plain, Store::codes}) {
            Model model = open_model(item.model), expected = open_model(item.model);
            const std::vector<float> untouched = logits(model.spec, *model.weights);
            for (const std::string& key : item.keys) decorate(model, expected, key, 8, store);
            ASSERT_TRUE(attach_extra_terms(model.spec, *model.weights).ok());
            const std::vector<float> reference = logits(expected.spec, *expected.weights);
            EXPECT_GT(difference(untouched, reference), 0.01f) << item.model << ": the terms do not matter";
            EXPECT_LE(difference(logits(model.spec, *model.weights), reference), 1e-4f) << item.model;
            EXPECT_LE(difference(logits(model.spec, *model.weights, KernelChoice::fastest), reference), store == Store::plain ? 1e-3f : 0.1f) << item.model;
        }
    }
}

// q, k and v behind one norm and one scale, as AWQ leaves them: the scale becomes part of the norm, and they share a step again.
TEST(Design, AScaleThatAllReadersShareIsFoldedIntoTheNorm) {
    Model model = open_model("llama");
    const auto n = static_cast<std::size_t>(model.spec.d_model);
    Rng rng(4);
    std::vector<float> scale = random_floats(rng, n, 0.3f), other = random_floats(rng, n, 0.3f);
    for (float& factor : scale) factor += 1;
    auto plan_of = [&](PlanOptions::Fold fold, std::vector<std::string> taps) {
        ModelSpec spec = model.spec;
        EXPECT_TRUE(attach_extra_terms(spec, *model.weights).ok());
        PlanOptions options;
        options.fold = fold;
        options.fuse = FuseSet::none();
        options.taps = std::move(taps);
        return *lower(spec, *model.weights, options);
    };
    auto logits_of = [](const std::shared_ptr<const Plan>& plan) {
        auto session = Session::create(plan, {.n_threads = 1, .n_context = 32});
        EXPECT_TRUE((*session)->forward(0, std::vector<std::int32_t>{1, 5, 9, 33, 60}, BatchItem::Logits::all).ok());
        return std::vector<float>((*session)->logits().begin(), (*session)->logits().end());
    };
    auto n_steps = [](const std::shared_ptr<const Plan>& plan) { return plan->programs[0].steps.size(); };
    auto plain = plan_of(PlanOptions::Fold::on, {});
    const std::string layer = "model.layers.1.self_attn.";
    for (const char* name : {"q_proj", "k_proj", "v_proj"}) model.weights->weights[layer + name + ".input_scale"] = make_float_weight({model.spec.d_model}, scale);
    auto folded = plan_of(PlanOptions::Fold::on, {}), apart = plan_of(PlanOptions::Fold::off, {});
    EXPECT_EQ(n_steps(folded), n_steps(plain));
    EXPECT_GT(n_steps(apart), n_steps(plain));
    EXPECT_LE(difference(logits_of(folded), logits_of(apart)), 1e-5f);
    EXPECT_GT(difference(logits_of(folded), logits_of(plain)), 1e-2f);
    EXPECT_EQ(n_steps(plan_of(PlanOptions::Fold::on, {"block1.attn_norm"})), n_steps(apart)) << "a norm that somebody watches is left as it is";
    model.weights->weights[layer + "v_proj.input_scale"] = make_float_weight({model.spec.d_model}, other);
    EXPECT_LE(difference(logits_of(plan_of(PlanOptions::Fold::on, {})), logits_of(plan_of(PlanOptions::Fold::off, {}))), 1e-6f) << "scales that differ";
}

TEST(Design, APermutedInputEqualsPermutedColumns) {
    Model model = open_model("llama"), expected = open_model("llama");
    const std::string key = "model.layers.0.mlp.down_proj.weight";
    const Weight weight = model.weights->weights.at(key);
    const std::int64_t n = weight.n_columns();
    std::vector<std::byte> order(static_cast<std::size_t>(n) * 4);
    std::vector<float> values = floats(weight), permuted(values.size());
    for (std::int64_t c = 0; c < n; ++c) {
        const auto source = static_cast<std::int32_t>((c * 5 + 3) % n);  // 5 and 37 have no common divisor
        std::memcpy(order.data() + c * 4, &source, 4);
        // Column c of the weight meets input `source`.
        for (std::int64_t r = 0; r < weight.n_rows(); ++r) permuted[static_cast<std::size_t>(r * n + source)] = values[static_cast<std::size_t>(r * n + c)];
    }
    model.weights->weights["order"] = make_plain_weight({n}, DType::i32, order);
    for (Block& block : model.spec.blocks) {
        for (Op& op : block.ops) {
            auto* linear = std::get_if<LinearOp>(&op.detail);
            if (linear != nullptr && linear->terms[0].weight.key == key) linear->transform = {InputTransform::Kind::permutation, {"order"}};
        }
    }
    expected.weights->weights[key] = make_float_weight(weight.shape, permuted);
    EXPECT_LE(difference(logits(model.spec, *model.weights), logits(expected.spec, *expected.weights)), 1e-6f);
}

// ---- cutting an axis equals zeros in its place

// All entries along the axis that go become zero, in every tensor that carries it; counted here from the declarations.
void zero_units(Model& model, const AxisCut& cut) {
    for (const auto& [key, tensor] : model.spec.tensors) {
        const Shape shape = model.spec.shape(tensor);
        std::vector<float> values = floats(model.weights->weights.at(key));
        for (std::size_t d = 0; d < tensor.dimensions.size(); ++d) {
            std::int64_t begin = 0;
            for (const AxisPart& part : tensor.dimensions[d]) {
                const std::int64_t size = model.spec.find_axis(part.axis)->size * part.unit;
                auto found = cut.find(part.axis);
                for (std::size_t i = 0; found != cut.end() && i < values.size(); ++i) {
                    const std::int64_t index = d + 1 == shape.size() ? static_cast<std::int64_t>(i) % shape.back() : static_cast<std::int64_t>(i) / shape.back();
                    if (index < begin || index >= begin + size) continue;
                    if (!std::binary_search(found->second.begin(), found->second.end(), (index - begin) / part.unit)) values[i] = 0;
                }
                begin += size;
            }
        }
        model.weights->weights[key] = make_float_weight(shape, values);
    }
}

struct Cut {
    std::string model, axis;
    std::vector<std::int64_t> kept;
};

TEST(Axes, ACutEqualsZerosInItsPlace) {
    const Cut cuts[] = {
        {"llama", "block0.ff", {0, 1, 5, 6, 20, 36}},     {"llama", "block1.kv_head", {1}},         {"llama", "block0.head", {1, 2}},
        {"llama_biases", "block0.kv_head", {0}},          {"llama_biases", "block1.ff", {3, 7}},    {"qwen3", "block1.kv_head", {0}},
        {"gemma2", "block0.ff", {2, 28}},                 {"phi3", "block0.kv_head", {1}},          {"phi3", "block1.ff", {0, 39}},
        {"gpt2", "block0.kv_head", {0, 2}},               {"gpt2", "block1.ff", {1, 2, 3, 30}},     {"gpt_neox", "block1.kv_head", {1}},
        {"gpt_neox_sequential", "block0.kv_head", {0, 3}}, {"opt", "block1.kv_head", {2}},          {"mixtral", "block0.expert2.ff", {0, 17}},
    };
    for (const Cut& item : cuts) {
        Model model = open_model(item.model), zeroed = open_model(item.model);
        auto cut = coupled_cut(model.spec, item.axis, item.kept);
        ASSERT_TRUE(cut.ok()) << item.model << " " << item.axis << ": " << cut.error().to_string();
        zero_units(zeroed, *cut);
        auto spec = slice_axis(model.spec, item.axis, item.kept);
        auto weights = sliced_weights(model.weights, model.spec, item.axis, item.kept);
        ASSERT_TRUE(spec.ok() && weights.ok()) << item.model << " " << item.axis;
        EXPECT_LT(spec->n_parameters(), model.spec.n_parameters());
        if (item.axis.find("kv_head") != std::string::npos) {
            EXPECT_LT(spec->state_elements_per_token(), model.spec.state_elements_per_token());
        }
        const std::vector<float> expected = logits(zeroed.spec, *zeroed.weights);
        EXPECT_GT(difference(logits(model.spec, *model.weights), expected), 1e-3f) << item.model << " " << item.axis << ": the cut does not matter";
        EXPECT_LE(difference(logits(*spec, **weights), expected), 1e-6f) << item.model << " " << item.axis;
    }
}

// What a pruned checkpoint's config says is what the cut makes.
TEST(Axes, ACutModelIsTheOneThatItsConfigDescribes) {
    auto json = read_json_file(models_dir + "/llama/config.json");
    auto spec = build_spec(*json);
    ASSERT_TRUE(spec.ok());
    for (auto [axis, kept] : {std::pair<std::string, std::vector<std::int64_t>>{"block0.ff", {0, 4, 5}}, {"block1.kv_head", {0}}, {"block1.head", {1}}}) {
        auto cut = slice_axis(*spec, axis, kept);
        ASSERT_TRUE(cut.ok()) << axis << ": " << cut.error().to_string();
        spec = std::move(cut);
    }
    Json config = *json;
    config.set("num_attention_heads", Json::array({4, 1}));
    config.set("num_key_value_heads", Json::array({2, 1}));
    config.set("intermediate_size", Json::array({3, 37}));
    auto expected = build_spec(config);
    ASSERT_TRUE(expected.ok()) << expected.error().to_string();
    EXPECT_TRUE(*spec == *expected);
}

TEST(Axes, ACutVocabularyGivesThoseLogits) {
    Model model = open_model("gemma2");  // a tied head
    const std::vector<std::int64_t> kept = {1, 5, 7, 9, 50, 51};
    auto spec = slice_axis(model.spec, "vocab", kept);
    auto weights = sliced_weights(model.weights, model.spec, "vocab", kept);
    ASSERT_TRUE(spec.ok() && weights.ok());
    EXPECT_EQ(spec->n_vocab, 6);
    const std::vector<float> all = logits(model.spec, *model.weights, KernelChoice::reference, {1, 5, 50, 9}), some = logits(*spec, **weights, KernelChoice::reference, {0, 1, 4, 3});
    ASSERT_EQ(some.size(), 24u);
    for (std::size_t token = 0; token < 4; ++token)
        for (std::size_t i = 0; i < 6; ++i) EXPECT_EQ(some[token * 6 + i], all[token * 97 + static_cast<std::size_t>(kept[i])]);
}

TEST(Axes, UsesNameEveryTensorOfAnAxis) {
    Model model = open_model("phi3");
    EXPECT_EQ(axis_uses(model.spec, "block0.ff").size(), 3u);       // gate and up in one tensor, down
    EXPECT_EQ(axis_uses(model.spec, "block0.kv_head").size(), 2u);  // k and v in one tensor
    EXPECT_EQ(axis_uses(model.spec, "nonesuch").size(), 0u);
}

TEST(Axes, ImpossibleCutsAreErrors) {
    Model llama = open_model("llama"), mixtral = open_model("mixtral"), qwen3 = open_model("qwen3"), gpt2 = open_model("gpt2");
    auto refused = [](const Model& model, const std::string& axis, const std::vector<std::int64_t>& kept) { return !slice_axis(model.spec, axis, kept).ok(); };
    EXPECT_TRUE(refused(llama, "nonesuch", {0}));
    EXPECT_TRUE(refused(llama, "block0.ff", {}));
    EXPECT_TRUE(refused(llama, "block0.ff", {3, 3}));
    EXPECT_TRUE(refused(llama, "block0.ff", {37}));
    EXPECT_TRUE(refused(llama, "block0.ff", {-1, 2}));
    EXPECT_TRUE(refused(llama, "block0.head", {0, 1}));  // both of the first group
    EXPECT_TRUE(refused(mixtral, "block0.expert", {0, 1}));
    EXPECT_TRUE(refused(qwen3, "block0.head_dim", {0, 1}));
    EXPECT_TRUE(refused(gpt2, "positions", {1, 2}));
    EXPECT_FALSE(refused(gpt2, "positions", {0, 1}));
    auto coded = encode_nearest(llama.weights->weights.at("lm_head.weight"), *parse_scheme("w8"), ScaleRule::search);
    const std::vector<std::int64_t> kept = {0, 1};
    EXPECT_FALSE(slice_weight(*coded, llama.spec, llama.spec.tensors.at("lm_head.weight"), "vocab", kept).ok());
}

}  // namespace
}  // namespace skiff
