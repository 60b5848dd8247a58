// What a device session remembers of its sequences: forms of keys and values, truncation, forks, snapshots, convolutions.
#include "backend/cuda/device_session_testing.h"

namespace skiff::cuda {
namespace {

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
    ::setenv("SKIFF_FAKE_FAILS_AT", "12", 1);  // in the middle of a step
    EXPECT_FALSE(one(*session, 4).ok());
    ::unsetenv("SKIFF_FAKE_FAILS_AT");
    EXPECT_FALSE(one(*session, 5).ok());
    EXPECT_TRUE(one(*undisturbed, 5).ok());
}

}  // namespace
}  // namespace skiff::cuda
