// Tokens that the device session chooses and feeds itself, against the host's loop over the same session's logits.
#include <cmath>

#include "backend/cuda/device_session_testing.h"
#include "backend/cuda/driver.h"

namespace skiff::cuda {
namespace {

// Greedy, token by token, each through the host.
std::vector<std::int32_t> by_host(Session& session, std::int64_t sequence, std::int32_t token, std::size_t n) {
    std::vector<std::int32_t> tokens;
    while (tokens.size() < n) {
        const BatchItem item{sequence, {token}, BatchItem::Logits::last};
        EXPECT_TRUE(session.forward_top(std::span(&item, 1), 1).ok());
        tokens.push_back(token = (*session.top_row(0))[0].token);
    }
    return tokens;
}

std::vector<std::int32_t> by_itself(Session& session, std::int64_t sequence, std::int32_t token, std::size_t n, std::int64_t at_once) {
    std::vector<std::int32_t> tokens;
    SelfFeeder* feeder = session.self_feeder();
    EXPECT_NE(feeder, nullptr);
    if (feeder == nullptr) return tokens;
    std::int64_t queued = 0;
    while (tokens.size() < n) {
        while (queued < static_cast<std::int64_t>(n) && queued - static_cast<std::int64_t>(tokens.size()) + at_once <= feeder->most_steps()) {
            const std::int64_t steps = std::min(at_once, static_cast<std::int64_t>(n) - queued);
            const Status status = feeder->queue(sequence, queued == 0 ? std::optional(token) : std::nullopt, {}, steps, {});
            EXPECT_TRUE(status.ok()) << (status.ok() ? "" : status.error().to_string());
            if (!status.ok()) return tokens;
            queued += steps;
        }
        const auto next = feeder->next();
        EXPECT_TRUE(next.ok() && next->has_value());
        if (!next.ok() || !*next) return tokens;
        tokens.push_back(**next);
    }
    return tokens;
}

TEST(DeviceFeed, TokensAreThoseOfTheHostsLoop) {
    const Small small;
    for (const auto graphs : {DeviceSessionOptions::Graphs::on, DeviceSessionOptions::Graphs::off}) {
        auto options = small_options(300, 2);
        options.graphs = graphs;
        const auto host = device_session(small.spec, *small.weights, options), fed = device_session(small.spec, *small.weights, options);
        for (const std::int64_t sequence : {1, 0}) {  // its pages are not the first ones
            const auto prompt = some_tokens(30, 131, static_cast<std::uint64_t>(sequence));
            for (Session* session : {static_cast<Session*>(host.get()), static_cast<Session*>(fed.get())}) ASSERT_TRUE(session->forward(sequence, prompt, BatchItem::Logits::none).ok());
            const auto expected = by_host(*host, sequence, 5, 200);  // over several pages of the state
            EXPECT_EQ(by_itself(*fed, sequence, 5, 200, sequence == 0 ? 1 : 7), expected);
            EXPECT_EQ(fed->state().length(sequence), 230);
            // The last step's logits wait as those of any run.
            ASSERT_EQ(fed->logits().size(), 131u);
            EXPECT_EQ(std::vector<float>(fed->logits().begin(), fed->logits().end()), std::vector<float>(host->logits().begin(), host->logits().end()));
        }
    }
}

// Several sequences, each at its own length, a token of each in one pass.
std::vector<std::vector<std::int32_t>> together_by_host(Session& session, std::span<const std::int64_t> sequences, std::vector<std::int32_t> tokens, std::size_t n) {
    std::vector<std::vector<std::int32_t>> rows;
    while (rows.size() < n) {
        std::vector<BatchItem> items;
        for (std::size_t i = 0; i < sequences.size(); ++i) items.push_back({sequences[i], {tokens[i]}, BatchItem::Logits::last});
        EXPECT_TRUE(session.forward_top(items, 1).ok());
        for (std::size_t i = 0; i < sequences.size(); ++i) tokens[i] = (*session.top_row(static_cast<std::int64_t>(i)))[0].token;
        rows.push_back(tokens);
    }
    return rows;
}
std::vector<std::vector<std::int32_t>> together_by_itself(Session& session, std::span<const std::int64_t> sequences, std::vector<std::int32_t> tokens, std::size_t n, std::int64_t at_once) {
    std::vector<std::vector<std::int32_t>> rows;
    SelfFeeder* feeder = session.self_feeder();
    std::int64_t queued = 0;
    while (rows.size() < n) {
        while (queued < static_cast<std::int64_t>(n) && queued - static_cast<std::int64_t>(rows.size()) + at_once <= feeder->most_steps()) {
            const std::int64_t steps = std::min(at_once, static_cast<std::int64_t>(n) - queued);
            const Status status = feeder->queue_together(sequences, queued == 0 ? tokens : std::vector<std::int32_t>(), {}, steps, {});
            EXPECT_TRUE(status.ok()) << (status.ok() ? "" : status.error().to_string());
            if (!status.ok()) return rows;
            queued += steps;
        }
        const auto next = feeder->next_together();
        EXPECT_TRUE(next.ok() && next->size() == sequences.size());
        if (!next.ok()) return rows;
        rows.emplace_back(next->begin(), next->end());
    }
    return rows;
}

// A chain of n, two by two of a length; not in the order of their numbers.
struct Together {
    std::vector<std::int64_t> sequences;
    std::vector<std::int32_t> tokens;
    explicit Together(std::int64_t n) {
        for (std::int64_t i = 0; i < n; ++i) sequences.push_back(n - 1 - i), tokens.push_back(static_cast<std::int32_t>(7 + 3 * i));
    }
    void fill(Session& session) const {
        for (const std::int64_t sequence : sequences)
            ASSERT_TRUE(session.forward(sequence, some_tokens(static_cast<std::size_t>(3 + sequence / 2), 131, static_cast<std::uint64_t>(sequence)), BatchItem::Logits::none).ok());
    }
};

TEST(DeviceFeed, SeveralSequencesGoOnTogether) {
    const Small small;
    for (const std::int64_t n : {1, 2, 3, 8, 9, 16})
        for (const auto graphs : {DeviceSessionOptions::Graphs::on, DeviceSessionOptions::Graphs::off}) {
            auto options = small_options(120, n);
            options.graphs = graphs;
            const auto host = device_session(small.spec, *small.weights, options), fed = device_session(small.spec, *small.weights, options);
            const Together chain(n);
            for (Session* session : {static_cast<Session*>(host.get()), static_cast<Session*>(fed.get())}) chain.fill(*session);
            ASSERT_EQ(fed->self_feeder()->most_sequences(), n);
            const auto expected = together_by_host(*host, chain.sequences, chain.tokens, 80);  // over two pages
            EXPECT_EQ(together_by_itself(*fed, chain.sequences, chain.tokens, 80, n % 2 == 0 ? 7 : 16), expected) << n << " sequences";
            for (const std::int64_t sequence : chain.sequences) EXPECT_EQ(fed->state().length(sequence), host->state().length(sequence));
            ASSERT_EQ(fed->logits().size(), static_cast<std::size_t>(n) * 131u);
            EXPECT_EQ(std::vector<float>(fed->logits().begin(), fed->logits().end()), std::vector<float>(host->logits().begin(), host->logits().end()));
            // One of them alone goes on from there.
            EXPECT_EQ(by_itself(*fed, chain.sequences[0], 5, 6, 3), by_host(*host, chain.sequences[0], 5, 6));
        }
}

TEST(DeviceFeed, WhatCannotGoOnTogetherIsSaid) {
    const Small small;
    const auto session = device_session(small.spec, *small.weights, small_options(20, 3));
    SelfFeeder& feeder = *session->self_feeder();
    const std::vector<std::int64_t> two = {0, 2}, twice = {1, 1}, four = {0, 1, 2, 3};
    const std::vector<std::int32_t> tokens = {4, 5}, one = {4}, many = {1, 2, 3, 4};
    EXPECT_EQ(feeder.queue_together(twice, tokens, {}, 1, {}).error().code, ErrorCode::usage);
    EXPECT_EQ(feeder.queue_together(four, many, {}, 1, {}).error().code, ErrorCode::usage);
    EXPECT_EQ(feeder.queue_together(two, one, {}, 1, {}).error().code, ErrorCode::usage);
    EXPECT_EQ(feeder.queue_together({}, {}, {}, 1, {}).error().code, ErrorCode::usage);
    const std::vector<double> uniforms = {0.5, 0.5, 0.5};  // one is missing
    EXPECT_EQ(feeder.queue_together(two, tokens, {.temperature = 1, .top_k = 4}, 2, uniforms).error().code, ErrorCode::usage);
    ASSERT_TRUE(feeder.queue_together(two, tokens, {}, 3, {}).ok());
    EXPECT_EQ(feeder.queue(0, std::nullopt, {}, 1, {}).error().code, ErrorCode::usage);  // another chain
    ASSERT_TRUE(session->state().truncate(2, 2).ok());                                   // one of them is cut: the chain ends
    EXPECT_EQ(feeder.next_together().error().code, ErrorCode::usage);
    ::setenv("SKIFF_FAKE_FAILS_AT", "30", 1);
    EXPECT_FALSE(feeder.queue_together(two, tokens, {}, 4, {}).ok());
    ::unsetenv("SKIFF_FAKE_FAILS_AT");
    EXPECT_EQ(session->state().length(0), 3);
    EXPECT_EQ(session->state().length(2), 2);
}

// What was queued and not read is in the state; whoever cuts it there goes on as if it had not been.
TEST(DeviceFeed, AChainEndsWhereItIsCut) {
    const Small small;
    const auto host = device_session(small.spec, *small.weights, small_options(100)), fed = device_session(small.spec, *small.weights, small_options(100));
    const auto expected = by_host(*host, 0, 9, 40);
    SelfFeeder& feeder = *fed->self_feeder();
    ASSERT_TRUE(feeder.queue(0, 9, {}, 20, {}).ok());
    std::vector<std::int32_t> tokens;
    for (int i = 0; i < 5; ++i) tokens.push_back(**feeder.next());
    EXPECT_EQ(fed->state().length(0), 20);
    ASSERT_TRUE(fed->state().truncate(0, 5).ok());
    EXPECT_EQ(feeder.next().error().code, ErrorCode::usage);
    EXPECT_EQ(feeder.queue(0, std::nullopt, {}, 1, {}).error().code, ErrorCode::usage);
    for (const std::int32_t token : by_host(*fed, 0, tokens.back(), 10)) tokens.push_back(token);
    for (const std::int32_t token : by_itself(*fed, 0, tokens.back(), 25, 4)) tokens.push_back(token);
    EXPECT_EQ(tokens, expected);
}

TEST(DeviceFeed, OtherCallsEndAChain) {
    const Small small;
    const auto session = device_session(small.spec, *small.weights, small_options(64, 2));
    SelfFeeder& feeder = *session->self_feeder();
    ASSERT_TRUE(feeder.queue(0, 9, {}, 3, {}).ok());
    ASSERT_TRUE(session->forward(1, some_tokens(3, 131), BatchItem::Logits::last).ok());
    EXPECT_EQ(feeder.next().error().code, ErrorCode::usage);
    EXPECT_EQ(session->state().length(0), 3);
    ASSERT_TRUE(feeder.queue(0, 9, {}, 3, {}).ok());
    const auto snapshot = session->state().snapshot(0);
    ASSERT_TRUE(feeder.next().ok());  // a look changes nothing
    session->state().fork(0, 1);
    EXPECT_EQ(feeder.next().error().code, ErrorCode::usage);
    ASSERT_TRUE(feeder.queue(1, 2, {}, 2, {}).ok());
    ASSERT_TRUE(session->state().restore(0, snapshot).ok());
    EXPECT_EQ(feeder.next().error().code, ErrorCode::usage);
}

TEST(DeviceFeed, WhatCannotBeIsSaid) {
    const Small small;
    const auto session = device_session(small.spec, *small.weights, small_options(20));
    SelfFeeder& feeder = *session->self_feeder();
    EXPECT_EQ(feeder.queue(0, 131, {}, 1, {}).error().code, ErrorCode::usage);
    EXPECT_EQ(feeder.queue(1, 3, {}, 1, {}).error().code, ErrorCode::usage);
    EXPECT_EQ(feeder.queue(0, 3, {}, 21, {}).error().code, ErrorCode::resource);
    EXPECT_EQ(feeder.queue(0, 3, {}, feeder.most_steps() + 1, {}).error().code, ErrorCode::usage);
    EXPECT_EQ(feeder.queue(0, 3, {.temperature = 1, .top_k = 4}, 2, {}).error().code, ErrorCode::usage);
    EXPECT_FALSE(feeder.takes({.temperature = 1, .top_k = 65}));
    EXPECT_FALSE(feeder.takes({.temperature = 1, .top_k = 0}));
    EXPECT_TRUE(feeder.takes({.temperature = 1, .top_k = 64}));
    EXPECT_EQ(session->state().length(0), 0);
    std::vector<double> seconds;
    session->set_profiling(&seconds);
    EXPECT_FALSE(feeder.takes({}));
    session->set_profiling(nullptr);
    ASSERT_TRUE(feeder.queue(0, 3, {}, 20, {}).ok());  // to the context's end
    EXPECT_EQ(feeder.queue(0, std::nullopt, {}, 1, {}).error().code, ErrorCode::resource);
    for (int i = 0; i < 20; ++i) EXPECT_TRUE(feeder.next().ok());
    auto options = small_options(20);
    options.feed = DeviceSessionOptions::Feed::host;
    EXPECT_EQ(device_session(small.spec, *small.weights, options)->self_feeder(), nullptr);
    options = small_options(20);
    options.last_block = 1;  // no head, no tokens
    EXPECT_EQ(device_session(small.spec, *small.weights, options)->self_feeder(), nullptr);
}

// A launch or copy that fails leaves the state where it was, and the session usable.
TEST(DeviceFeed, AStepThatFailsIsTakenBack) {
    const Small small;
    const auto host = device_session(small.spec, *small.weights, small_options(64));
    const auto expected = by_host(*host, 0, 9, 30);
    for (const char* at : {"0", "3", "20", "31"}) {
        const auto session = device_session(small.spec, *small.weights, small_options(64));
        SelfFeeder& feeder = *session->self_feeder();
        ASSERT_TRUE(feeder.queue(0, 9, {}, 2, {}).ok());
        const std::int32_t first = **feeder.next(), second = **feeder.next();
        ::setenv("SKIFF_FAKE_FAILS_AT", at, 1);
        EXPECT_FALSE(feeder.queue(0, std::nullopt, {}, 8, {}).ok()) << at;
        ::unsetenv("SKIFF_FAKE_FAILS_AT");
        EXPECT_EQ(session->state().length(0), 2);
        EXPECT_EQ(first, expected[0]);
        EXPECT_EQ(second, expected[1]);
        EXPECT_EQ(by_itself(*session, 0, second, 28, 5), std::vector<std::int32_t>(expected.begin() + 2, expected.end())) << at;
    }
}

// Logits of NaN: the device says that it has no choice, and the row says why.
TEST(DeviceFeed, NoChoiceIsNoToken) {
    const Small small;
    const auto weights = without_logits(small);
    const auto session = device_session(small.spec, *weights, small_options(64));
    SelfFeeder& feeder = *session->self_feeder();
    ASSERT_TRUE(feeder.queue(0, 9, {}, 4, {}).ok());
    const auto next = feeder.next();
    ASSERT_TRUE(next.ok());
    EXPECT_FALSE(next->has_value());
    EXPECT_TRUE(std::isnan(session->logits()[0]));
    EXPECT_EQ(feeder.next().error().code, ErrorCode::usage);
}

#if defined(SKIFF_EMULATED_CUDA)
TEST(DeviceFeed, TheKernelsFeedThemselves) {
    static const auto emulated = open_plug_in(SKIFF_EMULATED_CUDA);
    ASSERT_TRUE(emulated.ok()) << emulated.error().to_string();
    const Small small;
    auto host = DeviceSession::create(*emulated->table, small.spec, *small.weights, small_options(64)), fed = DeviceSession::create(*emulated->table, small.spec, *small.weights, small_options(64));
    ASSERT_TRUE(host.ok() && fed.ok());
    EXPECT_EQ(by_itself(**fed, 0, 5, 12, 5), by_host(**host, 0, 5, 12));
    for (const std::int64_t n : {3, 10}) {
        auto three = DeviceSession::create(*emulated->table, small.spec, *small.weights, small_options(64, n)), other = DeviceSession::create(*emulated->table, small.spec, *small.weights, small_options(64, n));
        ASSERT_TRUE(three.ok() && other.ok());
        const Together chain(n);
        for (auto* session : {&three, &other}) chain.fill(***session);
        EXPECT_EQ(together_by_itself(**three, chain.sequences, chain.tokens, 4, 2), together_by_host(**other, chain.sequences, chain.tokens, 4)) << n;
    }
}
#endif

// On the machine's own GPU, by the plug-in beside the program or in SKIFF_CUDA_LIBRARY.
TEST(DeviceFeed, ThisGpuFeedsItself) {
    const CudaDriver driver = probe_cuda_driver();
    if (!driver.problem.empty()) GTEST_SKIP() << driver.problem;
    const auto plug_in = open_plug_in();
    if (!plug_in.ok()) GTEST_SKIP() << plug_in.error().to_string();
    const Small small;
    for (const auto graphs : {DeviceSessionOptions::Graphs::on, DeviceSessionOptions::Graphs::off}) {
        auto options = small_options(300);
        options.graphs = graphs;
        auto host = DeviceSession::create(*plug_in->table, small.spec, *small.weights, options), fed = DeviceSession::create(*plug_in->table, small.spec, *small.weights, options);
        ASSERT_TRUE(host.ok() && fed.ok());
        EXPECT_EQ(by_itself(**fed, 0, 5, 250, 8), by_host(**host, 0, 5, 250));
        for (const std::int64_t n : {2, 8, 16}) {
            options.session.n_sequences = n;
            host = DeviceSession::create(*plug_in->table, small.spec, *small.weights, options), fed = DeviceSession::create(*plug_in->table, small.spec, *small.weights, options);
            ASSERT_TRUE(host.ok() && fed.ok());
            const Together chain(n);
            for (auto* session : {&host, &fed}) chain.fill(***session);
            EXPECT_EQ(together_by_itself(**fed, chain.sequences, chain.tokens, 100, 8), together_by_host(**host, chain.sequences, chain.tokens, 100)) << n;
        }
    }
}

}  // namespace
}  // namespace skiff::cuda
