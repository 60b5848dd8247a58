// Runs, graphs, memory and logits of the device session on the fake device.
#include "backend/cuda/device_session_testing.h"

namespace skiff::cuda {
namespace {

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

// Runs of as many tokens: of a sequence each, which attention turns and keeps itself, and of fewer sequences. Each of them again and again, so that graphs are launched.
void expect_turns(const std::function<std::unique_ptr<Session>(const DeviceSessionOptions&)>& make, const Small& small, double bound) {
    const auto options = small_options(80, 3);
    const auto session = make(options);
    ASSERT_NE(session, nullptr);
    const std::vector<std::vector<std::int32_t>> texts = {some_tokens(72, 131), some_tokens(72, 131, 3), some_tokens(72, 131, 4)};
    std::vector<std::vector<float>> expected;
    for (const auto& text : texts) expected.push_back(all_logits(*reference_session(small.spec, *small.weights, options.session), text, text.size()));
    std::vector<std::size_t> lengths(3, 0);
    const std::vector<std::vector<std::int64_t>> runs = {{0, 1, 2}, {0, 0, 1}, {2, 0, 1}, {1, 1, 1}, {2, 1, 2}, {0, 2}, {1, 1}, {2}};
    for (int turn = 0; turn < 8; ++turn)
        for (const auto& run : runs) {
            std::vector<BatchItem> items;
            for (const std::int64_t sequence : run) {
                std::size_t& length = lengths[static_cast<std::size_t>(sequence)];
                items.push_back({sequence, {texts[static_cast<std::size_t>(sequence)][length]}, BatchItem::Logits::all});
                ++length;
            }
            ASSERT_TRUE(session->forward(items).ok());
            std::vector<std::size_t> seen = lengths;
            for (std::size_t row = run.size(); row-- > 0;) {
                const auto sequence = static_cast<std::size_t>(run[row]);
                const auto at = --seen[sequence] * 131;
                const std::vector<float> wanted(expected[sequence].begin() + static_cast<std::ptrdiff_t>(at), expected[sequence].begin() + static_cast<std::ptrdiff_t>(at + 131));
                ASSERT_LE(distance(std::span(session->logits()).subspan(row * 131, 131), wanted), bound) << "turn " << turn << ", sequence " << sequence;
            }
        }
}
TEST(DeviceSession, SequencesOfATokenEachAndSeveralTokensOfOne) {
    const Small small;
    for (const auto fuse : {DeviceModelOptions::Fuse::on, DeviceModelOptions::Fuse::off})
        expect_turns([&](DeviceSessionOptions options) {
            options.fuse = fuse;
            return device_session(small.spec, *small.weights, options);
        }, small, 1e-4);
#if defined(SKIFF_EMULATED_CUDA)
    static const auto emulated = open_plug_in(SKIFF_EMULATED_CUDA);
    ASSERT_TRUE(emulated.ok()) << emulated.error().to_string();
    const Small one({{"num_hidden_layers", 1}});
    expect_turns([&](const DeviceSessionOptions& options) -> std::unique_ptr<Session> {
        auto session = DeviceSession::create(*emulated->table, one.spec, *one.weights, options);
        return session.ok() ? std::move(*session) : nullptr;
    }, one, 0.03);
#endif
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
                EXPECT_TRUE(i == 0 || comes_before((*top)[i - 1], (*top)[i]));
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

TEST(DeviceSession, TooLittleMemoryIsSaid) {
    const Small small;
    ::setenv("SKIFF_FAKE_DEVICE_MIB", "0", 1);
    const auto session = DeviceSession::create(fake(), small.spec, *small.weights, small_options(64));
    ::unsetenv("SKIFF_FAKE_DEVICE_MIB");
    ASSERT_FALSE(session.ok());
    EXPECT_EQ(session.error().code, ErrorCode::resource);
    EXPECT_NE(session.error().to_string().find("--device cpu"), std::string::npos) << session.error().to_string();
}

TEST(PlugIn, OtherFilesAreRefused) {
    EXPECT_EQ(open_plug_in("/nowhere/libskiff_cuda.so").error().code, ErrorCode::unsupported);
    const auto wrong = open_plug_in("libc.so.6");
    ASSERT_FALSE(wrong.ok());
    EXPECT_NE(wrong.error().to_string().find("no plug-in for this version"), std::string::npos);
}

}  // namespace
}  // namespace skiff::cuda
