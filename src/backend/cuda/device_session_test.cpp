// The device session on the fake device (testing/fake_device.cpp) against the reference kernels of the processor: every architecture, every way in which a
// text can be cut into runs, fused and not, captured and not.
#include "backend/cuda/device_session.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>

#include "backend/cuda/driver.h"
#include "backend/cuda/library.h"
#include "base/rng.h"
#include "model/arch/arch.h"
#include "model/checkpoint.h"

namespace skiff::cuda {
namespace {

// The environment's, where the tests were taken to another machine.
const std::string models_dir = std::string(std::getenv("SKIFF_TEST_DATA_DIR") != nullptr ? std::getenv("SKIFF_TEST_DATA_DIR") : SKIFF_TEST_DATA_DIR) + "/models";

const Table& fake() {
    static const auto opened = open_plug_in(SKIFF_FAKE_CUDA);
    EXPECT_TRUE(opened.ok()) << (opened.ok() ? "" : opened.error().to_string());
    return *opened->table;
}

std::vector<std::string> model_names() {
    std::vector<std::string> names;
    const auto list = read_json_file(models_dir + "/index.json");
    EXPECT_TRUE(list.ok());
    for (const Json& name : list->items()) names.push_back(name.text());
    return names;
}

std::vector<std::int32_t> some_tokens(std::size_t n, std::int64_t n_vocab, std::uint64_t seed = 1) {
    Rng rng(seed);
    std::vector<std::int32_t> tokens;
    for (std::size_t i = 0; i < n; ++i) tokens.push_back(static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(n_vocab))));
    return tokens;
}

DeviceSessionOptions small_options(std::int64_t n_context, std::int64_t n_sequences = 1) {
    DeviceSessionOptions options;
    options.session = {.n_threads = 2, .n_sequences = n_sequences, .n_context = n_context, .max_batch = 48};
    return options;
}

std::unique_ptr<DeviceSession> device_session(const ModelSpec& spec, const WeightSource& weights, const DeviceSessionOptions& options) {
    auto session = DeviceSession::create(fake(), spec, weights, options);
    EXPECT_TRUE(session.ok()) << (session.ok() ? "" : session.error().to_string());
    return session.ok() ? std::move(*session) : nullptr;
}

std::unique_ptr<Session> reference_session(const ModelSpec& spec, const WeightSource& weights, const SessionOptions& options) {
    PlanOptions plan_options;
    plan_options.kernels = KernelChoice::reference;
    plan_options.isa = Isa::generic;
    auto plan = lower(spec, weights, plan_options);
    EXPECT_TRUE(plan.ok()) << (plan.ok() ? "" : plan.error().to_string());
    auto session = Session::create(*plan, options);
    EXPECT_TRUE(session.ok());
    return std::move(*session);
}

std::vector<float> all_logits(Session& session, const std::vector<std::int32_t>& tokens, std::size_t chunk, std::int64_t sequence = 0) {
    std::vector<float> logits;
    for (std::size_t begin = 0; begin < tokens.size(); begin += chunk) {
        const Status status = session.forward(sequence, std::span(tokens).subspan(begin, std::min(chunk, tokens.size() - begin)), BatchItem::Logits::all);
        EXPECT_TRUE(status.ok()) << status.error().to_string();
        logits.insert(logits.end(), session.logits().begin(), session.logits().end());
    }
    return logits;
}

// As a share of the largest logit.
double distance(std::span<const float> found, std::span<const float> expected) {
    if (found.size() != expected.size()) return INFINITY;
    double worst = 0, largest = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
        const double difference = std::abs(static_cast<double>(found[i]) - expected[i]);
        worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
        largest = std::max(largest, static_cast<double>(std::abs(expected[i])));
    }
    return worst / largest;
}

// Of kernels that round: the worst token; where a router chooses experts, whom a rounding may turn, the token in the middle.
double rounded_distance(const ModelSpec& spec, std::span<const float> found, std::span<const float> expected) {
    bool routed = false;
    for (const Block& block : spec.blocks)
        for (const Op& op : block.ops) routed = routed || std::holds_alternative<RouteOp>(op.detail);
    if (!routed || found.size() != expected.size()) return distance(found, expected);
    const auto width = static_cast<std::size_t>(spec.width(spec.logits));
    std::vector<double> rows;
    for (std::size_t begin = 0; begin + width <= found.size(); begin += width) rows.push_back(distance(found.subspan(begin, width), expected.subspan(begin, width)));
    std::sort(rows.begin(), rows.end());
    return rows[rows.size() / 2];
}

class DeviceModels : public testing::TestWithParam<std::string> {
protected:
    void SetUp() override {
        auto opened = Checkpoint::open(models_dir + "/" + GetParam());
        ASSERT_TRUE(opened.ok()) << opened.error().to_string();
        checkpoint = std::move(*opened);
        tokens = some_tokens(static_cast<std::size_t>(std::min<std::int64_t>(checkpoint.spec.max_positions > 0 ? checkpoint.spec.max_positions : 70, 70)), checkpoint.spec.n_vocab);
    }
    // The largest distance over the ways to feed the text.
    void expect_near(const WeightSource& weights, DeviceSessionOptions options, double bound) {
        const auto expected_session = reference_session(checkpoint.spec, weights, options.session);
        const auto expected = all_logits(*expected_session, tokens, tokens.size());
        for (const std::size_t chunk : {tokens.size(), std::size_t{1}, std::size_t{7}, std::size_t{19}}) {
            const auto session = device_session(checkpoint.spec, weights, options);
            ASSERT_NE(session, nullptr);
            EXPECT_LE(distance(all_logits(*session, tokens, chunk), expected), bound) << GetParam() << ", " << chunk << " tokens at a time";
        }
    }
    Checkpoint checkpoint;
    std::vector<std::int32_t> tokens;
};

TEST_P(DeviceModels, EqualTheReference) { expect_near(*checkpoint.weights, small_options(static_cast<std::int64_t>(tokens.size())), 1e-4); }

TEST_P(DeviceModels, PlainOperatorsGiveTheSame) {
    auto options = small_options(static_cast<std::int64_t>(tokens.size()));
    options.fuse = DeviceModelOptions::Fuse::off;
    options.graphs = DeviceSessionOptions::Graphs::off;
    expect_near(*checkpoint.weights, options, 1e-4);
}

TEST_P(DeviceModels, QuantizedWeightsGiveTheSame) {
    const ModelSpec& spec = checkpoint.spec;
    for (const char* name : {"w4g32", "w8"}) {
        const Scheme scheme = *parse_scheme(name);
        const auto weights = quantized_on_load(
            spec, checkpoint.weights, [&](const std::string& key) { return spec.tensors.at(key).role == TensorDecl::Role::linear ? &scheme : nullptr; }, ScaleRule::min_max);
        expect_near(*weights, small_options(static_cast<std::int64_t>(tokens.size())), 1e-3);
    }
}

// Sequences together, as a server would have them; what one leaves in the scratch memory the other must not see.
TEST_P(DeviceModels, SequencesTogetherEqualThoseAlone) {
    const auto options = small_options(static_cast<std::int64_t>(tokens.size()), 3);
    const auto reference = reference_session(checkpoint.spec, *checkpoint.weights, options.session);
    const auto session = device_session(checkpoint.spec, *checkpoint.weights, options);
    ASSERT_NE(session, nullptr);
    std::vector<BatchItem> prompts, lasts;
    for (std::int64_t s = 0; s < 3; ++s) {
        const auto text = some_tokens(static_cast<std::size_t>(9 + 5 * s), checkpoint.spec.n_vocab, static_cast<std::uint64_t>(s));
        prompts.push_back({s, {text.begin(), text.end() - 1}, BatchItem::Logits::none});
        lasts.push_back({s, {text.back()}, BatchItem::Logits::last});
    }
    for (Session* each : {reference.get(), static_cast<Session*>(session.get())}) {
        ASSERT_TRUE(each->forward(prompts).ok());
        EXPECT_TRUE(each->logits().empty());
        ASSERT_TRUE(each->forward(lasts).ok());
    }
    EXPECT_LE(distance(session->logits(), reference->logits()), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(All, DeviceModels, testing::ValuesIn(model_names()), [](const auto& instance) { return instance.param; });

#if defined(SKIFF_EMULATED_CUDA)
// The GPU's own kernels, run thread by thread: matrices of bf16 parts, keys and values of bf16. So the bound is wider than the fake device's.
TEST_P(DeviceModels, TheKernelsThemselvesComeNear) {
    static const auto emulated = open_plug_in(SKIFF_EMULATED_CUDA);
    ASSERT_TRUE(emulated.ok()) << emulated.error().to_string();
    tokens.resize(21);
    const auto options = small_options(static_cast<std::int64_t>(tokens.size()));
    const auto expected = all_logits(*reference_session(checkpoint.spec, *checkpoint.weights, options.session), tokens, tokens.size());
    for (const std::size_t chunk : {std::size_t{21}, std::size_t{5}}) {
        auto session = DeviceSession::create(*emulated->table, checkpoint.spec, *checkpoint.weights, options);
        if (!session.ok() && session.error().code == ErrorCode::unsupported) GTEST_SKIP() << session.error().to_string();
        ASSERT_TRUE(session.ok()) << session.error().to_string();
        EXPECT_LE(rounded_distance(checkpoint.spec, all_logits(**session, tokens, chunk), expected), 0.03) << GetParam() << ", " << chunk << " tokens at a time";
    }
}
#endif

// On the machine's own GPU, by the plug-in beside the program or in SKIFF_CUDA_LIBRARY.
TEST_P(DeviceModels, ThisGpuComesNear) {
    const CudaDriver driver = probe_cuda_driver();
    if (!driver.problem.empty()) GTEST_SKIP() << driver.problem;
    const auto plug_in = open_plug_in();
    if (!plug_in.ok()) GTEST_SKIP() << plug_in.error().to_string();
    auto options = small_options(static_cast<std::int64_t>(tokens.size()));
    const auto expected = all_logits(*reference_session(checkpoint.spec, *checkpoint.weights, options.session), tokens, tokens.size());
    for (const auto fuse : {DeviceModelOptions::Fuse::on, DeviceModelOptions::Fuse::off})
        for (const std::size_t chunk : {tokens.size(), std::size_t{1}, std::size_t{7}}) {
            options.fuse = fuse;
            auto session = DeviceSession::create(*plug_in->table, checkpoint.spec, *checkpoint.weights, options);
            if (!session.ok() && session.error().code == ErrorCode::unsupported) GTEST_SKIP() << session.error().to_string();
            ASSERT_TRUE(session.ok()) << session.error().to_string();
            EXPECT_LE(rounded_distance(checkpoint.spec, all_logits(**session, tokens, chunk), expected), 0.03) << GetParam() << ", " << chunk << " tokens at a time";
        }
}

// ---- one small model for the rest

constexpr const char* config_text =
    R"({"model_type": "llama", "hidden_size": 96, "intermediate_size": 172, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 131, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": false})";

struct Small {
    ModelSpec spec;
    std::shared_ptr<WeightSource> weights;
    explicit Small(const std::map<std::string, std::int64_t>& changes = {}) {
        Json config = *Json::parse(config_text);
        for (const auto& [key, number] : changes) config.set(key, number);
        spec = *build_spec(config);
        weights = random_weights(spec, DType::bf16, 5);
    }
};

// Other weights, and vectors of their own.
class WithVectors final : public WeightSource {
public:
    explicit WithVectors(std::shared_ptr<WeightSource> source) : source_(std::move(source)) {}
    void put(const std::string& key, std::vector<float> values) { vectors_[key] = std::move(values); }
    bool contains(const std::string& key) const override { return vectors_.count(key) != 0 || source_->contains(key); }
    std::vector<std::string> keys() const override { return source_->keys(); }
    Result<Weight> load(const std::string& key) const override {
        const auto found = vectors_.find(key);
        if (found == vectors_.end()) return source_->load(key);
        const auto bytes = std::as_bytes(std::span(found->second));
        return make_plain_weight({static_cast<std::int64_t>(found->second.size())}, DType::f32, {bytes.begin(), bytes.end()});
    }

private:
    std::shared_ptr<WeightSource> source_;
    std::map<std::string, std::vector<float>> vectors_;
};

TEST(DeviceSession, StateFormsAreThoseOfTheProcessor) {
    const Small small({{"head_dim", 32}});  // groups of 32 dimensions have a scale in int4
    const auto tokens = some_tokens(150, 131);
    for (const StateScheme scheme : {StateScheme::f32, StateScheme::int8, StateScheme::int4}) {
        auto options = small_options(200);
        options.session.state_scheme = scheme;
        const auto reference = reference_session(small.spec, *small.weights, options.session);
        const auto session = device_session(small.spec, *small.weights, options);
        EXPECT_LE(distance(all_logits(*session, tokens, 50), all_logits(*reference, tokens, 150)), scheme == StateScheme::f32 ? 1e-4 : 2e-2);
    }
    auto options = small_options(200);
    options.state_fp8 = true;
    const auto reference = reference_session(small.spec, *small.weights, options.session);
    EXPECT_LE(distance(all_logits(*device_session(small.spec, *small.weights, options), tokens, 50), all_logits(*reference, tokens, 150)), 0.2);
}

// Before the first token, not in the middle of a run.
TEST(DeviceSession, StatesWithoutAKernelAreRefused) {
    const Small small;
    auto options = small_options(64);
    options.session.state_scheme = StateScheme::int4;  // heads of 16
    const auto session = DeviceSession::create(fake(), small.spec, *small.weights, options);
    ASSERT_FALSE(session.ok());
    EXPECT_EQ(session.error().code, ErrorCode::unsupported);
    EXPECT_NE(session.error().to_string().find("heads of 16"), std::string::npos);
}

// down_proj's input scaled (AWQ) or reordered (GPTQ by activation order): that needs the product of gate and up as numbers.
TEST(DeviceSession, InputTransformsBehindAGatedProduct) {
    for (const auto kind : {InputTransform::Kind::scale, InputTransform::Kind::permutation}) {
        Small small;
        const auto weights = std::make_shared<WithVectors>(small.weights);
        for (Block& block : small.spec.blocks)
            for (Op& op : block.ops) {
                auto* linear = std::get_if<LinearOp>(&op.detail);
                if (linear == nullptr || linear->terms.size() != 1) continue;
                const std::string key = linear->terms[0].weight.key, vector = key + ".vector";
                if (!key.ends_with("down_proj.weight") && !key.ends_with("o_proj.weight")) continue;
                linear->transform = {kind, {vector, {}, false}};
                small.spec.tensors.emplace(vector, TensorDecl{vector, {small.spec.tensors.at(key).dimensions[1]}, TensorDecl::Role::other, TensorDecl::Need::optional});
                std::vector<float> numbers(static_cast<std::size_t>(small.spec.width(op.in[0])));
                for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = kind == InputTransform::Kind::scale ? 0.5f + 0.01f * static_cast<float>(i) : static_cast<float>(numbers.size() - 1 - i);
                weights->put(vector, std::move(numbers));
            }
        const auto tokens = some_tokens(40, 131);
        for (const auto fuse : {DeviceModelOptions::Fuse::on, DeviceModelOptions::Fuse::off}) {
            auto options = small_options(64);
            options.fuse = fuse;
            const auto expected = all_logits(*reference_session(small.spec, *weights, options.session), tokens, 40);
            for (const std::size_t chunk : {40, 1}) EXPECT_LE(distance(all_logits(*device_session(small.spec, *weights, options), tokens, chunk), expected), 1e-4);
        }
    }
}

// A linear operator whose bias is scaled, too: never by the library, whose factor does not reach the bias.
TEST(DeviceSession, AFactorBehindABias) {
    Small small({{"intermediate_size", 184}});
    const auto weights = std::make_shared<WithVectors>(small.weights);
    for (Block& block : small.spec.blocks)
        for (std::size_t i = 0; i < block.ops.size(); ++i) {
            auto* linear = std::get_if<LinearOp>(&block.ops[i].detail);
            if (linear == nullptr || !linear->terms[0].weight.key.ends_with("down_proj.weight")) continue;
            const std::string key = linear->terms[0].weight.key, bias = key + ".bias";
            linear->bias = {bias, {}, false};
            small.spec.tensors.emplace(bias, TensorDecl{bias, {small.spec.tensors.at(key).dimensions[0]}, TensorDecl::Role::bias, TensorDecl::Need::optional});
            std::vector<float> numbers(96);
            for (std::size_t c = 0; c < numbers.size(); ++c) numbers[c] = 0.1f * static_cast<float>(c % 7);
            weights->put(bias, std::move(numbers));
            Op scale{block.ops[i].name + ".scaled", ScaleOp{0.22f}, {block.ops[i].out}, static_cast<ValueId>(small.spec.values.size())};
            small.spec.values.push_back(small.spec.values[static_cast<std::size_t>(block.ops[i].out)]);
            for (std::size_t j = i + 1; j < block.ops.size(); ++j)
                for (ValueId& in : block.ops[j].in)
                    if (in == block.ops[i].out) in = scale.out;
            block.ops.insert(block.ops.begin() + static_cast<std::ptrdiff_t>(i) + 1, scale);
            break;
        }
    const auto tokens = some_tokens(90, 131);
    auto options = small_options(128);
    options.session.max_batch = 90;
    const auto expected = all_logits(*reference_session(small.spec, *weights, options.session), tokens, 90);
    for (const Matmul matmul : {Matmul::own, Matmul::cublaslt}) {
        options.matmul = matmul;
        options.cublaslt = "fake";
        for (const std::size_t chunk : {90, 1}) EXPECT_LE(distance(all_logits(*device_session(small.spec, *weights, options), tokens, chunk), expected), 1e-4);
    }
}

#if defined(SKIFF_EMULATED_CUDA)
TEST(DeviceSession, TheKernelsWithEveryStateAndManySchemes) {
    static const auto emulated = open_plug_in(SKIFF_EMULATED_CUDA);
    ASSERT_TRUE(emulated.ok()) << emulated.error().to_string();
    const Small small;
    const auto tokens = some_tokens(14, 131);
    const auto compare = [&](const WeightSource& weights, const DeviceSessionOptions& options, double bound, const std::string& what) {
        auto exact = options.session;
        exact.state_scheme = StateScheme::f32;
        const auto expected = all_logits(*reference_session(small.spec, weights, exact), tokens, tokens.size());
        for (const std::size_t chunk : {std::size_t{14}, std::size_t{1}}) {
            auto session = DeviceSession::create(*emulated->table, small.spec, weights, options);
            ASSERT_TRUE(session.ok()) << session.error().to_string();
            EXPECT_LE(distance(all_logits(**session, tokens, chunk), expected), bound) << what << ", " << chunk << " tokens at a time";
        }
    };
    for (const char* name : {"w4g32a", "n4g32r", "e4m3"}) {
        const Scheme scheme = *parse_scheme(name);
        const auto weights = quantized_on_load(
            small.spec, small.weights, [&](const std::string& key) { return small.spec.tensors.at(key).role == TensorDecl::Role::linear ? &scheme : nullptr; }, ScaleRule::min_max);
        compare(*weights, small_options(64), 0.03, name);
    }
    for (const StateScheme scheme : {StateScheme::int8}) {
        auto options = small_options(64);
        options.session.state_scheme = scheme;
        compare(*small.weights, options, 0.05, std::string(state_scheme_info(scheme).name));
    }
    auto options = small_options(64);
    options.state_fp8 = true;
    compare(*small.weights, options, 0.25, "fp8");
    // The largest logits, by the kernel that samples.
    auto session = DeviceSession::create(*emulated->table, small.spec, *small.weights, small_options(64));
    const BatchItem item{0, tokens, BatchItem::Logits::last};
    ASSERT_TRUE((*session)->forward_top(std::span(&item, 1), 20).ok());
    const auto top = (*session)->top_row(0);
    ASSERT_TRUE(top.ok() && top->size() == 20);
    const auto logits = (*session)->logits();
    EXPECT_EQ((*top)[0].score, *std::max_element(logits.begin(), logits.end()));
    for (std::size_t i = 0; i < top->size(); ++i) EXPECT_EQ((*top)[i].score, logits[static_cast<std::size_t>((*top)[i].token)]);
    // Of more rows, then of fewer, with one scratch memory.
    for (const std::size_t n : {5, 1, 3}) {
        ASSERT_TRUE((*session)->state().truncate(0, 0).ok());
        const BatchItem several{0, {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(n)}, BatchItem::Logits::all};
        ASSERT_TRUE((*session)->forward_top(std::span(&several, 1), 4).ok());
        for (std::size_t row = 0; row < n; ++row) {
            const auto first = (*session)->top_row(static_cast<std::int64_t>(row));
            const auto numbers = (*session)->logits_row(static_cast<std::int64_t>(row));
            ASSERT_TRUE(first.ok() && first->size() == 4);
            EXPECT_EQ((*first)[0].score, *std::max_element(numbers.begin(), numbers.end())) << "row " << row << " of " << n;
        }
    }
}
#endif

TEST(DeviceSession, TruncateForkSnapshotRestore) {
    const Small small;
    const auto session = device_session(small.spec, *small.weights, small_options(200, 3));
    Session& s = *session;
    const auto tokens = some_tokens(130, 131);
    ASSERT_TRUE(s.forward(0, tokens, BatchItem::Logits::last).ok());
    const std::vector<float> expected(s.logits().begin(), s.logits().end());
    const auto last_again = [&](std::int64_t sequence) {
        EXPECT_TRUE(s.state().truncate(sequence, 129).ok());
        EXPECT_TRUE(s.forward(sequence, std::span(tokens).last(1), BatchItem::Logits::last).ok());
        return distance(s.logits(), expected);
    };
    EXPECT_LE(last_again(0), 1e-6);
    s.state().fork(0, 2);
    const StateSnapshot snapshot = s.state().snapshot(0);
    ASSERT_TRUE(s.state().truncate(0, 3).ok());
    ASSERT_TRUE(s.forward(0, some_tokens(140, 131, 9), BatchItem::Logits::none).ok());  // must not write what the fork still sees
    EXPECT_LE(last_again(2), 1e-6);
    ASSERT_TRUE(s.state().restore(1, snapshot).ok());
    EXPECT_LE(last_again(1), 1e-6);
    EXPECT_FALSE(s.state().truncate(1, 151).ok());
    s.state().repeat(1, 190);
    EXPECT_EQ(s.state().length(1), 190);
    ASSERT_TRUE(s.forward(1, std::span(tokens).first(5), BatchItem::Logits::last).ok());
    for (float value : s.logits()) ASSERT_TRUE(std::isfinite(value));
}

TEST(DeviceSession, GraphsAreLaunchedAgainWithNewInputs) {
    const Small small;
    auto options = small_options(64);
    const auto with = device_session(small.spec, *small.weights, options);
    options.graphs = DeviceSessionOptions::Graphs::off;
    const auto without = device_session(small.spec, *small.weights, options);
    const auto tokens = some_tokens(40, 131);
    EXPECT_EQ(all_logits(*with, tokens, 1), all_logits(*without, tokens, 1));
    EXPECT_EQ(all_logits(*with, some_tokens(20, 131, 3), 4), all_logits(*without, some_tokens(20, 131, 3), 4));
}

// x + W x: what the product writes for the norm behind it must not lie where it reads x.
TEST(DeviceSession, AProductOfTheResidualStreamItself) {
    Small small;
    Block& block = small.spec.blocks[2];
    const ValueId x = block.out, product = static_cast<ValueId>(small.spec.values.size()), sum = product + 1;
    for (int i = 0; i < 2; ++i) small.spec.values.push_back(small.spec.values[static_cast<std::size_t>(x)]);
    const auto& hidden = small.spec.tensors.at("model.layers.1.self_attn.o_proj.weight").dimensions[0];
    small.spec.tensors.emplace("extra.weight", TensorDecl{"extra.weight", {hidden, hidden}, TensorDecl::Role::linear, TensorDecl::Need::required});
    LinearOp linear;
    linear.terms.push_back({LinearTerm::Kind::packed, {"extra.weight", {}, false}, {}});
    block.ops.push_back({"extra", linear, {x}, product});
    block.ops.push_back({"extra.add", AddOp{}, {x, product}, sum});
    block.out = small.spec.blocks[3].in = sum;
    for (Op& op : small.spec.blocks[3].ops)
        for (ValueId& in : op.in)
            if (in == x) in = sum;
    small.weights = random_weights(small.spec, DType::bf16, 5);
    const auto tokens = some_tokens(40, 131);
    const auto options = small_options(64);
    const auto expected = all_logits(*reference_session(small.spec, *small.weights, options.session), tokens, 40);
    for (const std::size_t chunk : {40, 1}) EXPECT_LE(distance(all_logits(*device_session(small.spec, *small.weights, options), tokens, chunk), expected), 1e-4);
}

// A router whose logits are columns of a wider product.
TEST(DeviceSession, ARouterBesideAnotherProduct) {
    auto opened = Checkpoint::open(models_dir + "/mixtral");
    ASSERT_TRUE(opened.ok());
    ModelSpec spec = opened->spec;
    int n_routers = 0;
    for (Block& block : spec.blocks)
        for (std::size_t i = 0; i + 1 < block.ops.size(); ++i) {
            if (!std::holds_alternative<RouteOp>(block.ops[i + 1].detail) || !std::holds_alternative<LinearOp>(block.ops[i].detail)) continue;
            Op other = block.ops[i];
            other.name += ".beside";
            other.out = static_cast<ValueId>(spec.values.size());
            spec.values.push_back(spec.values[static_cast<std::size_t>(block.ops[i].out)]);
            block.ops.insert(block.ops.begin() + static_cast<std::ptrdiff_t>(i), other);
            ++n_routers;
            break;
        }
    ASSERT_EQ(n_routers, 2);
    const auto tokens = some_tokens(40, spec.n_vocab);
    const auto options = small_options(64);
    const auto expected = all_logits(*reference_session(spec, *opened->weights, options.session), tokens, 40);
    for (const std::size_t chunk : {40, 7, 1}) EXPECT_LE(distance(all_logits(*device_session(spec, *opened->weights, options), tokens, chunk), expected), 1e-4);
}

// A step that fails while a graph is made leaves none behind.
TEST(DeviceSession, AFailedCaptureIsForgotten) {
    const Small small;
    const auto session = device_session(small.spec, *small.weights, small_options(64));
    const auto tokens = some_tokens(6, 131);
    const auto expected = all_logits(*device_session(small.spec, *small.weights, small_options(64)), tokens, 1);
    ASSERT_TRUE(session->forward(0, std::span(tokens).first(1), BatchItem::Logits::last).ok());  // the first run is none
    ::setenv("SKIFF_FAKE_CAPTURE_FAILS_AT", "4", 1);
    EXPECT_FALSE(session->forward(0, std::span(tokens).subspan(1, 1), BatchItem::Logits::last).ok());
    ::unsetenv("SKIFF_FAKE_CAPTURE_FAILS_AT");
    ASSERT_EQ(session->state().length(0), 1);
    const auto found = all_logits(*session, {tokens.begin() + 1, tokens.end()}, 1);
    EXPECT_EQ(found, std::vector<float>(expected.begin() + 131, expected.end()));
}

TEST(DeviceSession, ARequestThatIsTooLargeLeavesTheSessionUsable) {
    const Small small({{"vocab_size", 4051}});
    auto options = small_options(400);
    options.session.max_batch = 400;
    const auto tokens = some_tokens(400, 4051);
    const auto session = device_session(small.spec, *small.weights, options);
    ASSERT_TRUE(session->forward(0, std::span(tokens).first(20), BatchItem::Logits::last).ok());
    const std::vector<float> before(session->logits().begin(), session->logits().end());
    ASSERT_TRUE(session->state().truncate(0, 0).ok());
    std::uint64_t available = 0, total = 0;
    ASSERT_EQ(fake().memory(&available, &total), 0);
    ::setenv("SKIFF_FAKE_DEVICE_MIB", std::to_string((total - available + (1 << 20) - 1) >> 20).c_str(), 1);  // less than 1 MiB is free
    const Status status = session->forward(0, tokens, BatchItem::Logits::all);  // 6 MiB of logits
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, ErrorCode::resource);
    EXPECT_EQ(session->state().length(0), 0);
    ASSERT_TRUE(session->forward(0, std::span(tokens).first(20), BatchItem::Logits::last).ok());
    EXPECT_EQ(before, std::vector<float>(session->logits().begin(), session->logits().end()));
    ::unsetenv("SKIFF_FAKE_DEVICE_MIB");
    ASSERT_TRUE(session->state().truncate(0, 0).ok());
    EXPECT_TRUE(session->forward(0, tokens, BatchItem::Logits::all).ok());
}

// Whatever the state and the shape of a run, with one row of logits nothing is allocated after the start.
TEST(DeviceSession, ScratchMemoryIsPlacedOnce) {
    const Small small({{"head_dim", 32}});
    for (const StateScheme scheme : {StateScheme::bf16, StateScheme::int8})  // the fake has attention of prompts for bf16 alone
        for (const std::int64_t n_sequences : {1, 12}) {
            auto options = small_options(200, n_sequences);
            options.session.max_batch = 150;
            options.session.state_scheme = scheme;
            const auto session = device_session(small.spec, *small.weights, options);
            const std::uint64_t bytes = session->buffer_bytes();
            ASSERT_TRUE(session->forward(0, some_tokens(190, 131), BatchItem::Logits::last).ok());
            EXPECT_EQ(session->buffer_bytes(), bytes);
            for (const std::size_t n : {1, 4}) {
                std::vector<BatchItem> items;
                for (std::int64_t s = 1; s < n_sequences; ++s) items.push_back({s, some_tokens(n, 131), BatchItem::Logits::last});
                if (items.empty()) continue;
                ASSERT_TRUE(session->forward(items).ok());
            }
            EXPECT_EQ(session->buffer_bytes(), bytes) << n_sequences << " sequences";
        }
}

// Kernels have a row of blocks for each token of a run, and a grid has 65535.
TEST(DeviceSession, ALargeBatchIsCutToWhatGridsHold) {
    const Small small;
    auto options = small_options(64);
    options.session.max_batch = std::int64_t{1} << 40;
    const auto session = device_session(small.spec, *small.weights, options);
    ASSERT_NE(session, nullptr);
    EXPECT_TRUE(session->forward(0, some_tokens(40, 131), BatchItem::Logits::last).ok());
}

// A convolution remembers its last inputs in place: what failed must not have changed them, and a sequence that comes back in a batch follows itself.
TEST(DeviceSession, ConvolutionsFollowTheirSequence) {
    auto opened = Checkpoint::open(models_dir + "/lfm2");
    ASSERT_TRUE(opened.ok());
    const ModelSpec& spec = opened->spec;
    const auto tokens = some_tokens(24, spec.n_vocab);
    const auto part = [&](std::size_t begin, std::size_t n) { return std::vector<std::int32_t>(tokens.begin() + static_cast<std::ptrdiff_t>(begin), tokens.begin() + static_cast<std::ptrdiff_t>(begin + n)); };
    const auto options = small_options(64, 2);
    const auto reference = reference_session(spec, *opened->weights, options.session);
    const auto session = device_session(spec, *opened->weights, options);
    const std::vector<BatchItem> items = {{0, part(0, 7), BatchItem::Logits::last}, {1, part(3, 9), BatchItem::Logits::last}, {0, part(7, 2), BatchItem::Logits::last}, {1, part(12, 3), BatchItem::Logits::last}};
    std::vector<float> expected;
    for (const BatchItem& item : items) {
        ASSERT_TRUE(reference->forward(std::span(&item, 1)).ok());
        expected.insert(expected.end(), reference->logits().begin(), reference->logits().end());
    }
    ASSERT_TRUE(session->forward(items).ok());
    EXPECT_LE(distance(session->logits(), expected), 1e-4);
    // The second run's rows are refused, when the first has gone through the rings.
    int calls = 0;
    const Status refused = session->forward(items, [&](std::int64_t, std::span<const float>) -> Status { return ++calls == 2 ? runtime_error("no more") : Status(); });
    EXPECT_FALSE(refused.ok());
    for (Session* each : {reference.get(), static_cast<Session*>(session.get())}) ASSERT_TRUE(each->forward(0, part(9, 5), BatchItem::Logits::last).ok());
    EXPECT_LE(distance(session->logits(), reference->logits()), 1e-4);
}

// The same where a wide vocabulary, not the batch, cuts a forward into runs.
TEST(DeviceSession, ConvolutionsAreRestoredWhenRowsCutTheRuns) {
    auto opened = Checkpoint::open(models_dir + "/lfm2");
    ASSERT_TRUE(opened.ok());
    Json config = *read_json_file(models_dir + "/lfm2/config.json");
    config.set("vocab_size", 600000);
    const ModelSpec spec = *build_spec(config);
    const auto weights = random_weights(spec, DType::bf16, 5);
    const auto tokens = some_tokens(40, spec.n_vocab);
    const auto options = small_options(64);
    const auto session = device_session(spec, *weights, options), undisturbed = device_session(spec, *weights, options);
    const BatchItem item{0, {tokens.begin() + 5, tokens.begin() + 35}, BatchItem::Logits::all};  // 27 rows are 64 MB
    for (DeviceSession* each : {session.get(), undisturbed.get()}) ASSERT_TRUE(each->forward(0, std::span(tokens).first(5), BatchItem::Logits::none).ok());
    EXPECT_FALSE(session->forward(std::span(&item, 1), [](std::int64_t, std::span<const float>) -> Status { return runtime_error("no more"); }).ok());
    ASSERT_EQ(session->state().length(0), 5);
    std::vector<std::vector<float>> last;
    for (DeviceSession* each : {session.get(), undisturbed.get()}) {
        ASSERT_TRUE(each->forward(0, std::span(tokens).last(4), BatchItem::Logits::last).ok());
        last.emplace_back(each->logits().begin(), each->logits().end());
    }
    EXPECT_EQ(last[0], last[1]);
}

// The same where one run is all there is: its rows are refused, or a launch fails in its middle.
TEST(DeviceSession, ConvolutionsAreRestoredBehindASingleRun) {
    auto opened = Checkpoint::open(models_dir + "/lfm2");
    ASSERT_TRUE(opened.ok());
    const ModelSpec& spec = opened->spec;
    const auto tokens = some_tokens(24, spec.n_vocab);
    const auto part = [&](std::size_t begin, std::size_t n) { return std::span(tokens).subspan(begin, n); };
    const auto undisturbed = device_session(spec, *opened->weights, small_options(64));
    ASSERT_TRUE(undisturbed->forward(0, part(0, 5), BatchItem::Logits::none).ok());
    ASSERT_TRUE(undisturbed->forward(0, part(15, 4), BatchItem::Logits::last).ok());
    const std::vector<float> expected(undisturbed->logits().begin(), undisturbed->logits().end());
    const auto expect_restored = [&](DeviceSession& session, const char* what) {
        ASSERT_EQ(session.state().length(0), 5) << what;
        const Status status = session.forward(0, part(15, 4), BatchItem::Logits::last);
        ASSERT_TRUE(status.ok()) << what << ": " << status.error().to_string();
        EXPECT_EQ(expected, std::vector<float>(session.logits().begin(), session.logits().end())) << what;
    };
    for (const std::size_t n : {10, 1}) {
        const auto session = device_session(spec, *opened->weights, small_options(64));
        ASSERT_TRUE(session->forward(0, part(0, 5), BatchItem::Logits::none).ok());
        const BatchItem item{0, {tokens.begin() + 5, tokens.begin() + 5 + static_cast<std::ptrdiff_t>(n)}, BatchItem::Logits::all};
        EXPECT_FALSE(session->forward(std::span(&item, 1), [](std::int64_t, std::span<const float>) -> Status { return runtime_error("no more"); }).ok());
        expect_restored(*session, "rows that are refused");
    }
    const auto session = device_session(spec, *opened->weights, small_options(64));
    ASSERT_TRUE(session->forward(0, part(0, 5), BatchItem::Logits::none).ok());
    ::setenv("SKIFF_FAKE_FAILS_AT", "30", 1);
    EXPECT_FALSE(session->forward(0, part(5, 10), BatchItem::Logits::last).ok());
    ::unsetenv("SKIFF_FAKE_FAILS_AT");
    expect_restored(*session, "a launch that fails");
}

// A step of decoding goes without a copy: what fails before a launch changes nothing, and behind one the session says from then on that it cannot be trusted.
TEST(DeviceSession, ADecodeStepThatFailsIsNeverForgotten) {
    auto opened = Checkpoint::open(models_dir + "/lfm2");
    ASSERT_TRUE(opened.ok());
    const auto tokens = some_tokens(6, opened->spec.n_vocab);
    const auto one = [&](Session& session, std::size_t i) { return session.forward(0, std::span(tokens).subspan(i, 1), BatchItem::Logits::last); };
    const auto session = device_session(opened->spec, *opened->weights, small_options(64)), undisturbed = device_session(opened->spec, *opened->weights, small_options(64));
    for (DeviceSession* each : {session.get(), undisturbed.get()})
        for (const std::size_t i : {0, 1}) ASSERT_TRUE(one(*each, i).ok());
    ::setenv("SKIFF_FAKE_FAILS_AT", "0", 1);  // the tokens' copy
    EXPECT_FALSE(one(*session, 2).ok());
    ::unsetenv("SKIFF_FAKE_FAILS_AT");
    for (DeviceSession* each : {session.get(), undisturbed.get()}) ASSERT_TRUE(one(*each, 3).ok());
    EXPECT_EQ(std::vector<float>(session->logits().begin(), session->logits().end()), std::vector<float>(undisturbed->logits().begin(), undisturbed->logits().end()));
    ::setenv("SKIFF_FAKE_FAILS_AT", "20", 1);
    EXPECT_FALSE(one(*session, 4).ok());
    ::unsetenv("SKIFF_FAKE_FAILS_AT");
    EXPECT_FALSE(one(*session, 5).ok());
    EXPECT_TRUE(one(*undisturbed, 5).ok());
}

// Logits that wait on the device outlive the programs.
TEST(DeviceSession, LookingAtLaunchesKeepsWaitingLogits) {
    const Small small;
    const auto session = device_session(small.spec, *small.weights, small_options(64, 2)), other = device_session(small.spec, *small.weights, small_options(64, 2));
    const auto tokens = some_tokens(15, 131);
    int n_shapes = 0;
    for (std::size_t n = 2; n <= 15 && n_shapes < 100; ++n)
        for (std::size_t k = 1; k < n && n_shapes < 100; ++k, ++n_shapes) {  // another shape each time
            for (std::int64_t s : {0, 1}) ASSERT_TRUE(session->state().truncate(s, 0).ok());
            const std::vector<BatchItem> items = {{0, {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(k)}, BatchItem::Logits::all},
                                                  {1, {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(n - k)}, BatchItem::Logits::none}};
            ASSERT_TRUE(session->forward(items).ok());
            if (n_shapes != 95) continue;  // with this one no more programs are kept
            EXPECT_FALSE(session->decode_launches().empty());
            ASSERT_TRUE(other->state().truncate(0, 0).ok());
            EXPECT_LE(distance(session->logits(), all_logits(*other, items[0].tokens, items[0].tokens.size())), 1e-5);
        }
}

TEST(DeviceSession, TheLargestLogitsAreCollectedThere) {
    const Small small;
    const auto session = device_session(small.spec, *small.weights, small_options(200));
    const auto tokens = some_tokens(5, 131);
    for (const std::int64_t limit : {1, 40, 100, 131}) {
        ASSERT_TRUE(session->state().truncate(0, 0).ok());
        const BatchItem item{0, tokens, BatchItem::Logits::all};
        ASSERT_TRUE(session->forward_top(std::span(&item, 1), limit).ok());
        for (std::int64_t row = 0; row < 5; ++row) {
            const auto logits = session->logits_row(row);  // the whole row is still there
            const auto top = session->top_row(row);
            ASSERT_TRUE(top.ok());
            ASSERT_EQ(top->size(), static_cast<std::size_t>(limit));
            EXPECT_EQ((*top)[0].score, *std::max_element(logits.begin(), logits.end()));
            for (std::size_t i = 0; i < top->size(); ++i) {
                EXPECT_EQ((*top)[i].score, logits[static_cast<std::size_t>((*top)[i].token)]);
                if (i > 0) EXPECT_TRUE(comes_before((*top)[i - 1], (*top)[i]));
            }
        }
    }
}

TEST(DeviceSession, LogitsOfManyRunsComeInOrder) {
    const Small small;
    const auto session = device_session(small.spec, *small.weights, small_options(200));
    const auto tokens = some_tokens(150, 131);
    std::vector<float> streamed;
    const BatchItem item{0, tokens, BatchItem::Logits::all};
    ASSERT_TRUE(session->forward(std::span(&item, 1), [&](std::int64_t first_row, std::span<const float> rows) -> Status {
        EXPECT_EQ(static_cast<std::size_t>(first_row) * 131, streamed.size());
        streamed.insert(streamed.end(), rows.begin(), rows.end());
        return {};
    }).ok());
    ASSERT_TRUE(session->state().truncate(0, 0).ok());
    EXPECT_EQ(all_logits(*session, tokens, 150), streamed);
}

TEST(DeviceSession, AFullContextOrAWrongTokenChangesNothing) {
    const Small small;
    const auto session = device_session(small.spec, *small.weights, small_options(8));
    ASSERT_TRUE(session->forward(0, some_tokens(6, 131), BatchItem::Logits::last).ok());
    EXPECT_EQ(session->forward(0, some_tokens(3, 131), BatchItem::Logits::last).error().code, ErrorCode::resource);
    const std::int32_t outside[] = {1, 131};
    EXPECT_EQ(session->forward(0, outside, BatchItem::Logits::last).error().code, ErrorCode::usage);
    EXPECT_EQ(session->state().length(0), 6);
}

TEST(DeviceSession, StretchesOfBlocksGiveTheWholeModel) {
    const Small small;
    const auto tokens = some_tokens(60, 131);
    const auto expected = all_logits(*device_session(small.spec, *small.weights, small_options(64)), tokens, 60);
    auto first = small_options(64), second = small_options(64);
    first.last_block = 1;
    second.first_block = 2;
    const auto head = device_session(small.spec, *small.weights, first), tail = device_session(small.spec, *small.weights, second);
    ASSERT_TRUE(head->forward(0, tokens, BatchItem::Logits::all).ok());
    const std::vector<float> hidden(head->logits().begin(), head->logits().end());
    ASSERT_EQ(hidden.size(), tokens.size() * 96);
    std::vector<float> logits;
    ASSERT_TRUE(tail->forward_hidden(0, hidden, logits).ok());
    EXPECT_LE(distance(logits, expected), 1e-5);
    EXPECT_EQ(tail->forward_hidden(7, hidden, logits).error().code, ErrorCode::usage);
}

TEST(DeviceSession, LongPromptsByTheLibrary) {
    Small small;
    Json config = *Json::parse(config_text);
    config.set("intermediate_size", 184);  // rows in whole 16 bytes, as the library wants them, and pairs that fill no whole tile
    small.spec = *build_spec(config);
    small.weights = random_weights(small.spec, DType::bf16, 5);
    auto options = small_options(300);
    options.session.max_batch = 200;
    const auto tokens = some_tokens(180, 131);
    const auto expected = all_logits(*reference_session(small.spec, *small.weights, options.session), tokens, 180);
    options.matmul = Matmul::cublaslt;
    options.cublaslt = "fake";
    const auto fake_session = device_session(small.spec, *small.weights, options);
    for (const std::string& remark : fake_session->plan().remarks) EXPECT_EQ(remark.find("cuBLASLt"), std::string::npos) << remark;
    EXPECT_LE(distance(all_logits(*fake_session, tokens, 180), expected), 1e-3);
#if defined(SKIFF_EMULATED_CUDA)
    // With the kernels that stand around the library's products.
    const auto emulated = open_plug_in(SKIFF_EMULATED_CUDA);
    ASSERT_TRUE(emulated.ok());
    options.session.max_batch = 80;
    auto session = DeviceSession::create(*emulated->table, small.spec, *small.weights, options);
    ASSERT_TRUE(session.ok()) << session.error().to_string();
    const auto found = all_logits(**session, {tokens.begin(), tokens.begin() + 80}, 80);
    EXPECT_LE(distance(found, std::span(expected).first(found.size())), 0.03);
#endif
}

// A library that is found may still not be of use: then the own kernels multiply, and a remark says so; where it was asked for, that is an error.
TEST(DeviceSession, ALibraryThatDoesNotWorkIsLeft) {
    const Small small({{"intermediate_size", 184}});
    auto options = small_options(300);
    const auto tokens = some_tokens(200, 131);
    const auto remarks_of = [](const Session& session) {
        std::string all;
        for (const std::string& remark : session.plan().remarks) all += remark + "\n";
        return all;
    };
    const auto expect_own = [&](std::int64_t max_batch, std::size_t n_tokens, const char* path, bool at_the_start) {
        options.session.max_batch = max_batch;
        options.matmul = Matmul::cublaslt;
        options.cublaslt = path;
        const auto session = device_session(small.spec, *small.weights, options);
        ASSERT_NE(session, nullptr);
        EXPECT_EQ(remarks_of(*session).find("the own kernels multiply long prompts") != std::string::npos, at_the_start) << path << ": " << remarks_of(*session);
        const auto found = all_logits(*session, {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(n_tokens)}, n_tokens);
        EXPECT_NE(remarks_of(*session).find("the own kernels multiply long prompts"), std::string::npos) << path;
        options.matmul = Matmul::own;
        const auto own = device_session(small.spec, *small.weights, options);
        EXPECT_EQ(found, all_logits(*own, {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(n_tokens)}, n_tokens)) << path;
    };
    expect_own(200, 200, "broken", true);
    expect_own(199, 199, "picky", true);
    expect_own(200, 121, "picky", false);  // the largest run has an algorithm, this one has none
    options.library = DeviceSessionOptions::Library::must;
    options.matmul = Matmul::cublaslt;
    options.session.max_batch = 199;
    for (const char* path : {"broken", "picky"}) {
        options.cublaslt = path;
        const auto session = DeviceSession::create(fake(), small.spec, *small.weights, options);
        ASSERT_FALSE(session.ok()) << path;
        EXPECT_NE(session.error().to_string().find(path), std::string::npos) << session.error().to_string();
    }
    options.cublaslt = "fake";
    EXPECT_FALSE(DeviceSession::create(fake(), Small().spec, *Small().weights, options).ok());  // rows that are not whole 16 bytes
    options.session.max_batch = 200;
    options.cublaslt = "picky";
    const auto session = device_session(small.spec, *small.weights, options);
    EXPECT_FALSE(session->forward(0, std::span(tokens).first(121), BatchItem::Logits::last).ok());
    EXPECT_EQ(session->state().length(0), 0);
    EXPECT_TRUE(session->forward(0, std::span(tokens).first(122), BatchItem::Logits::last).ok());
}

TEST(DeviceSession, TooLittleMemoryIsSaid) {
    const Small small;
    ::setenv("SKIFF_FAKE_DEVICE_MIB", "0", 1);
    const auto session = DeviceSession::create(fake(), small.spec, *small.weights, small_options(64));
    ::unsetenv("SKIFF_FAKE_DEVICE_MIB");
    ASSERT_FALSE(session.ok());
    EXPECT_EQ(session.error().code, ErrorCode::resource);
    EXPECT_NE(session.error().to_string().find("--device cpu"), std::string::npos) << session.error().to_string();
}

// What docs/fusion.md promises for a llama layer.
TEST(DeviceSession, LaunchesOfALayer) {
    const Small small;
    auto options = small_options(64);
    const auto count = [&] { return device_session(small.spec, *small.weights, options)->decode_launches(); };
    const auto fused = count();
    EXPECT_EQ(fused.size(), 1u + 3 * 6 + 1);
    options.fuse = DeviceModelOptions::Fuse::off;
    EXPECT_GE(count().size(), 1u + 3 * 15 + 2);
}

TEST(PlugIn, OtherFilesAreRefused) {
    EXPECT_EQ(open_plug_in("/nowhere/libskiff_cuda.so").error().code, ErrorCode::unsupported);
    const auto wrong = open_plug_in("libc.so.6");
    ASSERT_FALSE(wrong.ok());
    EXPECT_NE(wrong.error().to_string().find("no plug-in for this version"), std::string::npos);
}

}  // namespace
}  // namespace skiff::cuda
