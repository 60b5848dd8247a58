// Models whose first layers run on the fake device and whose last ones on the processor, against the processor's reference kernels.
#include "backend/split_session.h"

#include "backend/cuda/device_session_testing.h"
#include "backend/device_choice.h"
#include "backend/device_fit.h"

namespace skiff {
namespace {

using cuda::all_logits;
using cuda::distance;
using cuda::fake;
using cuda::Small;
using cuda::some_tokens;

DeviceRequest request_of(std::int64_t n_context, std::int64_t n_sequences = 1) {
    DeviceRequest request;
    request.choice.gemm = DeviceChoice::Gemm::own;
    request.session = {.n_threads = 2, .n_sequences = n_sequences, .n_context = n_context, .max_batch = 16};
    request.processor.kernels = KernelChoice::reference;
    request.processor.isa = Isa::generic;
    return request;
}

std::unique_ptr<Session> split(const ModelSpec& spec, const WeightSource& weights, DeviceRequest request, std::int64_t n_layers) {
    request.choice.n_layers = n_layers;
    auto session = make_device_session(fake(), spec, weights, request);
    EXPECT_TRUE(session.ok()) << (session.ok() ? "" : session.error().to_string());
    return session.ok() ? std::move(*session) : nullptr;
}

std::vector<float> copied(std::span<const float> numbers) { return {numbers.begin(), numbers.end()}; }

class SplitModels : public ::testing::TestWithParam<std::string> {};

TEST_P(SplitModels, EveryNumberOfLayersGivesTheSame) {
    const auto opened = Checkpoint::open(cuda::models_dir + "/" + GetParam());
    ASSERT_TRUE(opened.ok());
    const ModelSpec& spec = opened->spec;
    const auto tokens = some_tokens(static_cast<std::size_t>(std::min<std::int64_t>(spec.max_positions > 0 ? spec.max_positions : 40, 40)), spec.n_vocab);
    const DeviceRequest request = request_of(static_cast<std::int64_t>(tokens.size()));
    const auto expected = all_logits(*cuda::reference_session(spec, *opened->weights, request.session), tokens, tokens.size());
    for (std::int64_t n_layers = 0; n_layers <= n_layers_of(spec); ++n_layers) {
        const auto session = split(spec, *opened->weights, request, n_layers);
        ASSERT_NE(session, nullptr);
        EXPECT_EQ(session->where().find("layers") != std::string::npos, n_layers > 0 && n_layers < n_layers_of(spec)) << session->where();
        for (const std::size_t chunk : {tokens.size(), std::size_t{1}, std::size_t{7}}) {
            ASSERT_TRUE(session->state().truncate(0, 0).ok());
            EXPECT_LE(distance(all_logits(*session, tokens, chunk), expected), 1e-4) << n_layers << " layers on the device, " << chunk << " tokens at a time";
        }
    }
}

INSTANTIATE_TEST_SUITE_P(All, SplitModels, ::testing::ValuesIn(cuda::model_names()), [](const auto& instance) { return instance.param; });

TEST(SplitSession, ItemsOfSeveralSequences) {
    const Small small;
    const DeviceRequest request = request_of(100, 3);
    const auto reference = cuda::reference_session(small.spec, *small.weights, request.session);
    const auto session = split(small.spec, *small.weights, request, 2);
    std::vector<BatchItem> items;
    for (std::int64_t s = 0; s < 3; ++s) items.push_back({s, some_tokens(static_cast<std::size_t>(9 + 11 * s), 131, static_cast<std::uint64_t>(s)), s == 1 ? BatchItem::Logits::none : s == 2 ? BatchItem::Logits::last : BatchItem::Logits::all});
    items.push_back({0, {}, BatchItem::Logits::last});
    items.push_back({0, some_tokens(3, 131, 7), BatchItem::Logits::last});
    for (Session* each : {reference.get(), session.get()}) ASSERT_TRUE(each->forward(items).ok());
    const auto expected = copied(reference->logits());
    ASSERT_EQ(expected.size(), 11u * 131);
    EXPECT_LE(distance(session->logits(), expected), 1e-4);
    EXPECT_EQ(session->state().length(2), 31);
    // The same, handed over as they come.
    for (std::int64_t s = 0; s < 3; ++s) ASSERT_TRUE(session->state().truncate(s, 0).ok());
    std::vector<float> streamed;
    ASSERT_TRUE(session->forward(items, [&](std::int64_t first_row, std::span<const float> rows) -> Status {
        EXPECT_EQ(static_cast<std::size_t>(first_row) * 131, streamed.size());
        streamed.insert(streamed.end(), rows.begin(), rows.end());
        return {};
    }).ok());
    EXPECT_LE(distance(streamed, expected), 1e-4);
    // The largest alone.
    for (std::int64_t s = 0; s < 3; ++s) ASSERT_TRUE(session->state().truncate(s, 0).ok());
    ASSERT_TRUE(session->forward_top(items, 5).ok());
    for (std::int64_t row = 0; row < 11; ++row) {
        const auto top = session->top_row(row);
        ASSERT_TRUE(top.ok() && top->size() == 5u);
        const auto logits = std::span(expected).subspan(static_cast<std::size_t>(row) * 131, 131);
        EXPECT_NEAR((*top)[0].score, *std::max_element(logits.begin(), logits.end()), 1e-4);
    }
    // A decode step of all.
    std::vector<BatchItem> step;
    for (std::int64_t s = 0; s < 3; ++s) step.push_back({s, {static_cast<std::int32_t>(s + 5)}, BatchItem::Logits::last});
    for (Session* each : {reference.get(), session.get()}) ASSERT_TRUE(each->forward(step).ok());
    EXPECT_LE(distance(session->logits(), reference->logits()), 1e-4);
    EXPECT_EQ(session->forward(0, some_tokens(90, 131), BatchItem::Logits::last).error().code, ErrorCode::resource);
    EXPECT_EQ(session->state().length(0), 13);
}

// Both parts are as before behind what fails, whichever run of which part it is; convolutions, too.
TEST(SplitSession, WhatFailsChangesNothing) {
    for (const char* name : {"lfm2", "llama_tied_bf16"}) {
        const auto opened = Checkpoint::open(cuda::models_dir + "/" + name);
        ASSERT_TRUE(opened.ok());
        const ModelSpec& spec = opened->spec;
        const auto tokens = some_tokens(300, spec.n_vocab);
        for (std::int64_t n_layers = 1; n_layers < n_layers_of(spec); ++n_layers) {
            const auto session = split(spec, *opened->weights, request_of(320), n_layers), undisturbed = split(spec, *opened->weights, request_of(320), n_layers);
            for (Session* each : {session.get(), undisturbed.get()}) ASSERT_TRUE(each->forward(0, std::span(tokens).first(5), BatchItem::Logits::none).ok());
            for (const std::size_t n : {250, 40, 10, 1})
                for (const int refused : {1, 2, 14}) {
                    const BatchItem item{0, {tokens.begin() + 5, tokens.begin() + 5 + static_cast<std::ptrdiff_t>(n)}, BatchItem::Logits::all};
                    if (static_cast<std::size_t>(refused - 1) * 16 >= n) continue;  // so many runs there are not
                    int calls = 0;
                    EXPECT_FALSE(session->forward(std::span(&item, 1), [&](std::int64_t, std::span<const float>) -> Status { return ++calls == refused ? runtime_error("no more") : Status(); }).ok());
                    ASSERT_EQ(session->state().length(0), 5);
                }
            for (const char* at : {"30", "70"}) {  // in the first run, and behind it
                ::setenv("SKIFF_FAKE_FAILS_AT", at, 1);
                (void)session->forward(0, std::span(tokens).subspan(5, 40), BatchItem::Logits::last).ok();
                ::unsetenv("SKIFF_FAKE_FAILS_AT");
                if (session->state().length(0) != 5) {
                    ASSERT_STREQ(at, "70");  // a short program: it went well
                    break;
                }
            }
            if (session->state().length(0) != 5) continue;
            for (Session* each : {session.get(), undisturbed.get()}) ASSERT_TRUE(each->forward(0, std::span(tokens).last(4), BatchItem::Logits::last).ok());
            EXPECT_EQ(copied(session->logits()), copied(undisturbed->logits())) << name << ", " << n_layers << " layers on the device";
        }
    }
}

TEST(SplitSession, TruncateForkSnapshotRestore) {
    const Small small;
    const auto session = split(small.spec, *small.weights, request_of(200, 3), 1);
    Session& s = *session;
    const auto tokens = some_tokens(130, 131);
    ASSERT_TRUE(s.forward(0, tokens, BatchItem::Logits::last).ok());
    const auto expected = copied(s.logits());
    const auto last_again = [&](std::int64_t sequence) {
        EXPECT_TRUE(s.state().truncate(sequence, 129).ok());
        EXPECT_TRUE(s.forward(sequence, std::span(tokens).last(1), BatchItem::Logits::last).ok());
        return distance(s.logits(), expected);
    };
    EXPECT_LE(last_again(0), 1e-5);
    s.state().fork(0, 2);
    StateSnapshot snapshot = s.state().snapshot(0);
    ASSERT_TRUE(s.state().truncate(0, 3).ok());
    ASSERT_TRUE(s.forward(0, some_tokens(140, 131, 9), BatchItem::Logits::none).ok());
    EXPECT_LE(last_again(2), 1e-5);
    ASSERT_TRUE(s.state().restore(1, snapshot).ok());
    EXPECT_LE(last_again(1), 1e-5);
    EXPECT_FALSE(s.state().truncate(1, 151).ok());
    s.state().repeat(1, 190);
    EXPECT_EQ(s.state().length(1), 190);
    ASSERT_TRUE(s.forward(1, std::span(tokens).first(5), BatchItem::Logits::last).ok());
    snapshot.bytes.resize(4);
    EXPECT_EQ(s.state().restore(1, snapshot).error().code, ErrorCode::usage);
}

TEST(SplitSession, StepsOfBothParts) {
    const Small small;
    const auto session = split(small.spec, *small.weights, request_of(64), 2);
    std::vector<double> seconds;
    session->set_profiling(&seconds);
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(session->forward(0, some_tokens(1, 131), BatchItem::Logits::last).ok());
    EXPECT_EQ(seconds.size(), session->decode_steps().size());
    EXPECT_GT(session->decode_steps().size(), 15u);
    EXPECT_GT(session->share_read_there(), 0.3);
    EXPECT_LT(session->share_read_there(), 1.0);
    const auto whole = cuda::device_session(small.spec, *small.weights, cuda::small_options(64));
    EXPECT_EQ(session->plan().states.size(), whole->plan().states.size());
}

TEST(DeviceLayers, NumbersAndRulesThatMeanNothingAreRefused) {
    const Small small;
    for (const std::int64_t n_layers : {-1, 4}) {
        DeviceRequest request = request_of(64);
        request.choice.n_layers = n_layers;
        EXPECT_EQ(make_device_session(fake(), small.spec, *small.weights, request).error().code, ErrorCode::usage);
    }
    DeviceRequest request = request_of(64);
    request.choice.n_layers = 1;
    request.session.state_rules = {{"0", StateScheme::bf16}};
    EXPECT_EQ(make_device_session(fake(), small.spec, *small.weights, request).error().code, ErrorCode::usage);
}

// The more memory the device has, the more layers are there; what is chosen fits, and gives the same.
TEST(DeviceLayers, AsManyAsFit) {
    const Small small({{"num_hidden_layers", 8}, {"hidden_size", 384}, {"intermediate_size", 768}});
    const auto tokens = some_tokens(20, 131);
    DeviceRequest request = request_of(64);
    request.choice.fit = DeviceChoice::Fit::what_fits;
    request.choice.offload = DeviceChoice::Offload::processor;
    const auto expected = all_logits(*cuda::reference_session(small.spec, *small.weights, request.session), tokens, 20);
    std::vector<std::string> seen;
    std::int64_t before = 0;
    for (const char* mib : {"1", "6", "8", "12", "18", "40", "400"}) {
        ::setenv("SKIFF_FAKE_DEVICE_MIB", mib, 1);
        const auto session = make_device_session(fake(), small.spec, *small.weights, request);
        if (!session.ok()) {
            ::unsetenv("SKIFF_FAKE_DEVICE_MIB");
            EXPECT_EQ(session.error().code, ErrorCode::resource) << session.error().to_string();
            EXPECT_EQ(before, 0) << mib << " MiB: " << session.error().to_string();
            continue;
        }
        const std::string where = (*session)->where();
        const auto at = where.find('(');
        const std::int64_t n_layers = at == std::string::npos ? 9 : std::stoll(where.substr(at + 1));
        EXPECT_GE(n_layers, before) << mib << " MiB";
        if (n_layers > before) seen.push_back(where);
        before = n_layers;
        EXPECT_LE(distance(all_logits(**session, tokens, 20), expected), 1e-4) << where;
        ::unsetenv("SKIFF_FAKE_DEVICE_MIB");
    }
    EXPECT_EQ(before, 9);
    std::string all;
    for (const std::string& where : seen) all += where + "\n";
    EXPECT_GE(seen.size(), 3u) << all;
}

// What does not fit is copied when it is used, or computed by the processor, by what was measured; named, it is as it was named. The numbers are the same.
TEST(DeviceLayers, WhatDoesNotFitIsCopiedOrLeftToTheProcessor) {
    const Small small({{"num_hidden_layers", 8}, {"hidden_size", 384}, {"intermediate_size", 768}});
    const auto tokens = some_tokens(20, 131);
    DeviceRequest request = request_of(64);
    const auto expected = all_logits(*cuda::reference_session(small.spec, *small.weights, request.session), tokens, 20);
    request.choice.fit = DeviceChoice::Fit::what_fits;
    ::setenv("SKIFF_FAKE_DEVICE_MIB", "16", 1);
    for (const auto offload : {DeviceChoice::Offload::stream, DeviceChoice::Offload::automatic}) {
        request.choice.offload = offload;
        const auto session = make_device_session(fake(), small.spec, *small.weights, request);
        ASSERT_TRUE(session.ok()) << session.error().to_string();
        EXPECT_LE(distance(all_logits(**session, tokens, 20), expected), 1e-4);
        std::string told;
        for (const std::string& remark : (*session)->plan().remarks) told += remark + "\n";
        EXPECT_NE(told.find(offload == DeviceChoice::Offload::stream ? "are copied to the device when they are used" : "(measured: a layer takes "), std::string::npos) << told;
        if (offload == DeviceChoice::Offload::stream) {
            EXPECT_EQ((*session)->where().find("cpu"), std::string::npos) << (*session)->where();
        }
    }
    ::setenv("SKIFF_FAKE_DEVICE_MIB", "4", 1);
    request.choice.offload = DeviceChoice::Offload::stream;
    const auto none = make_device_session(fake(), small.spec, *small.weights, request);
    ::unsetenv("SKIFF_FAKE_DEVICE_MIB");
    EXPECT_EQ(none.error().code, ErrorCode::resource);
    request.choice.fit = DeviceChoice::Fit::all;
    request.choice.n_layers = 5;
    const auto named = make_device_session(fake(), small.spec, *small.weights, request);
    ASSERT_TRUE(named.ok());
    std::string told;
    for (const std::string& remark : (*named)->plan().remarks) told += remark + "\n";
    EXPECT_NE(told.find("3 of 8 layers are copied to the device when they are used"), std::string::npos) << told;
}

// Sets one of the fake device's limits while it lives.
struct Limit {
    const char* name;
    Limit(const char* which, std::int64_t mib) : name(which) { ::setenv(name, std::to_string(mib).c_str(), 1); }
    ~Limit() { ::unsetenv(name); }
};

// Copied layers wait in locked memory: where that is short, more of them are no remedy. Who asked for copies is told, who did not gets the processor.
TEST(DeviceLayers, TooLittleLockedMemoryIsNoReasonToLockMore) {
    const Small small({{"num_hidden_layers", 8}, {"hidden_size", 384}, {"intermediate_size", 768}});
    DeviceRequest request = request_of(64);
    request.choice.fit = DeviceChoice::Fit::what_fits;
    const Limit memory("SKIFF_FAKE_DEVICE_MIB", 16);
    for (const std::int64_t locked : {65, 66}) {  // two buffers for uploads of 32 MiB, and not one layer; one layer
        const Limit pinned("SKIFF_FAKE_PINNED_MIB", locked);
        request.choice.offload = DeviceChoice::Offload::stream;
        const auto asked = make_device_session(fake(), small.spec, *small.weights, request);
        ASSERT_FALSE(asked.ok()) << locked;
        EXPECT_EQ(asked.error().code, ErrorCode::resource);
        EXPECT_TRUE(cuda::lacks_host_memory(asked.error()));
        EXPECT_NE(asked.error().message.find("the weights of a layer"), std::string::npos) << asked.error().to_string();
        EXPECT_NE(asked.error().message.find("ulimit -l"), std::string::npos) << asked.error().to_string();
        request.choice.offload = DeviceChoice::Offload::automatic;
        const auto chosen = make_device_session(fake(), small.spec, *small.weights, request);
        ASSERT_TRUE(chosen.ok()) << locked << ": " << chosen.error().to_string();
        EXPECT_NE((*chosen)->where().find("cpu"), std::string::npos) << (*chosen)->where();
    }
    const Limit pinned("SKIFF_FAKE_PINNED_MIB", 20);
    const auto none = make_device_session(fake(), small.spec, *small.weights, request);
    ASSERT_FALSE(none.ok());
    EXPECT_TRUE(cuda::lacks_host_memory(none.error())) << none.error().to_string();
    EXPECT_EQ(none.error().message.find("--offload"), std::string::npos) << none.error().to_string();
}

// The head reads the embedding's table where they are tied: what it takes is not asked for twice.
TEST(DeviceLayers, ATiedHeadFitsWhereTheWholeModelDoes) {
    Json config = *Json::parse(cuda::config_text);
    for (const auto& [key, number] : std::map<std::string, std::int64_t>{{"num_hidden_layers", 4}, {"vocab_size", 60000}, {"hidden_size", 192}}) config.set(key, number);
    config.set("tie_word_embeddings", true);
    const ModelSpec spec = *build_spec(config);
    const auto weights = random_weights(spec, DType::bf16, 5);
    DeviceRequest request = request_of(64);
    request.choice.fit = DeviceChoice::Fit::what_fits;
    auto options = cuda::small_options(64);
    options.session = request.session;
    const auto bytes = cuda::device_session(spec, *weights, options)->device_bytes();
    const Limit memory("SKIFF_FAKE_DEVICE_MIB", static_cast<std::int64_t>(bytes >> 20) * 16 / 15 + 3);
    for (const auto offload : {DeviceChoice::Offload::automatic, DeviceChoice::Offload::processor, DeviceChoice::Offload::stream}) {
        request.choice.offload = offload;
        const auto session = make_device_session(fake(), spec, *weights, request);
        ASSERT_TRUE(session.ok()) << session.error().to_string();
        EXPECT_EQ((*session)->where(), "fake fake device");
        for (const std::string& remark : (*session)->plan().remarks) EXPECT_EQ(remark.find("copies"), std::string::npos) << remark;
    }
}

}  // namespace
}  // namespace skiff
