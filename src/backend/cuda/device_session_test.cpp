// The device session on the fake device (testing/fake_device.cpp) against the reference kernels of the processor: every architecture, every way in which a
// text can be cut into runs, fused and not, captured and not.
#include "backend/cuda/device_session.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

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
    ModelSpec spec = *build_spec(*Json::parse(config_text));
    std::shared_ptr<WeightSource> weights = random_weights(spec, DType::bf16, 5);
};

TEST(DeviceSession, StateFormsAreThoseOfTheProcessor) {
    const Small small;
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
