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
    }
}

}  // namespace
}  // namespace skiff::cuda
