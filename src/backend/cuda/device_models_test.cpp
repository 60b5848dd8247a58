// The device session on the fake device, on the emulated one and on this machine's GPU, against the reference kernels of the processor: every architecture, every way in which a
// text can be cut into runs, fused and not, captured and not.
#include "backend/cuda/device_session_testing.h"
#include "backend/cuda/driver.h"

namespace skiff::cuda {
namespace {

class DeviceModels : public ::testing::TestWithParam<std::string> {
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

INSTANTIATE_TEST_SUITE_P(All, DeviceModels, ::testing::ValuesIn(model_names()), [](const auto& instance) { return instance.param; });

#if defined(SKIFF_EMULATED_CUDA)
// The GPU's own kernels, run thread by thread: matrices of bf16 parts, keys and values of bf16. So the bound is wider than the fake device's.
TEST_P(DeviceModels, TheKernelsThemselvesComeNear) {
    static const auto emulated = open_plug_in(SKIFF_EMULATED_CUDA);
    ASSERT_TRUE(emulated.ok()) << emulated.error().to_string();
    tokens.resize(21);
    const auto options = small_options(static_cast<std::int64_t>(tokens.size()));
    const auto expected = all_logits(*reference_session(checkpoint.spec, *checkpoint.weights, options.session), tokens, tokens.size());
    for (const std::size_t chunk : {21, 5, 1}) {
        auto session = DeviceSession::create(*emulated->table, checkpoint.spec, *checkpoint.weights, options);
        if (!session.ok() && session.error().code == ErrorCode::unsupported) GTEST_SKIP() << session.error().to_string();
        ASSERT_TRUE(session.ok()) << session.error().to_string();
        EXPECT_LE(rounded_distance(checkpoint.spec, all_logits(**session, tokens, chunk), expected), 0.03) << GetParam() << ", " << chunk << " tokens at a time";
    }
}
#endif

// On the machine's own GPU, by the plug-in beside the program or in SKIFF_CUDA_LIBRARY. The bound is for the worst of 64 tokens (above: of 21): the same kernels, run thread by thread on the
// processor, are 0.0488 away for gpt_neox_sequential and 0.0485 for llama_tied_bf16, and an H200 as far to four digits.
TEST_P(DeviceModels, ThisGpuComesNear) {
    const CudaDriver driver = probe_cuda_driver();
    if (!driver.problem.empty()) GTEST_SKIP() << driver.problem;
    const auto plug_in = open_plug_in();
    if (!plug_in.ok()) GTEST_SKIP() << plug_in.error().to_string();
    auto options = small_options(static_cast<std::int64_t>(tokens.size()));
    const auto expected = all_logits(*reference_session(checkpoint.spec, *checkpoint.weights, options.session), tokens, tokens.size());
    for (const auto& [fuse, dependence] : {std::pair(DeviceModelOptions::Fuse::on, Dependence::programmatic), std::pair(DeviceModelOptions::Fuse::on, Dependence::stream), std::pair(DeviceModelOptions::Fuse::off, Dependence::stream)})
        for (const std::size_t chunk : {tokens.size(), std::size_t{1}, std::size_t{7}}) {
            options.fuse = fuse;
            options.dependence = dependence;
            auto session = DeviceSession::create(*plug_in->table, checkpoint.spec, *checkpoint.weights, options);
            if (!session.ok() && session.error().code == ErrorCode::unsupported) GTEST_SKIP() << session.error().to_string();
            ASSERT_TRUE(session.ok()) << session.error().to_string();
            EXPECT_LE(rounded_distance(checkpoint.spec, all_logits(**session, tokens, chunk), expected), 0.055) << GetParam() << ", " << chunk << " tokens at a time";
        }
}
}  // namespace
}  // namespace skiff::cuda
