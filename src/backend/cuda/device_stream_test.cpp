// Weights that are copied to the device when they are used, against the same session with all of them there.
#include "backend/cuda/device_session_testing.h"
#include "backend/cuda/driver.h"
#include "backend/device_fit.h"

namespace skiff::cuda {
namespace {

struct Layers : Small {
    explicit Layers(std::int64_t n) : Small({{"num_hidden_layers", n}}) {}
};

// Odd and even numbers of them, some that need no copies after the first ones; runs of many tokens and of one, several in a row; what fails in the middle of a run leaves nothing wrong behind.
TEST(WeightStream, TheSameNumbersAsWithAllWeightsThere) {
    const Layers small(6);
    const auto tokens = some_tokens(40, 131);
    const auto expected = all_logits(*device_session(small.spec, *small.weights, small_options(64)), tokens, 40);
    const auto one_by_one = all_logits(*device_session(small.spec, *small.weights, small_options(64)), tokens, 1);
    for (const std::size_t first : {1, 2, 3, 5, 6}) {
        auto options = small_options(64);
        options.stream_from = first;
        for (const auto fuse : {DeviceModelOptions::Fuse::on, DeviceModelOptions::Fuse::off}) {
            options.fuse = fuse;
            const auto session = device_session(small.spec, *small.weights, options);
            ASSERT_NE(session, nullptr);
            EXPECT_LE(distance(all_logits(*session, tokens, 40), expected), 1e-5) << first;
            ASSERT_TRUE(session->state().truncate(0, 0).ok());
            EXPECT_LE(distance(all_logits(*session, tokens, 1), one_by_one), 1e-5) << first;
            ASSERT_TRUE(session->state().truncate(0, 0).ok());
            for (const char* at : {"5", "17", "33"}) {
                ::setenv("SKIFF_FAKE_FAILS_AT", at, 1);
                EXPECT_FALSE(session->forward(0, tokens, BatchItem::Logits::last).ok());
                ::unsetenv("SKIFF_FAKE_FAILS_AT");
                EXPECT_LE(distance(all_logits(*session, tokens, 40), expected), 1e-5) << first << " after a failure at " << at;
                ASSERT_TRUE(session->state().truncate(0, 0).ok());
            }
        }
    }
}

TEST(WeightStream, TakesLessMemoryAndSaysSo) {
    const Small small({{"num_hidden_layers", 8}, {"hidden_size", 384}, {"intermediate_size", 768}});
    const auto whole = device_session(small.spec, *small.weights, small_options(64));
    auto options = small_options(64);
    options.stream_from = 3;
    const auto session = device_session(small.spec, *small.weights, options);
    const auto of_layer = (whole->plan().weight_bytes - 2 * 131 * 384 * 2) / 8;
    EXPECT_LT(session->device_bytes(), whole->device_bytes() - 3 * of_layer);  // six layers less, two buffers more
    EXPECT_EQ(session->plan().weight_bytes, whole->plan().weight_bytes);
    EXPECT_EQ(session->plan().decode_read_bytes, whole->plan().decode_read_bytes);
    std::string told;
    for (const std::string& remark : session->plan().remarks) told += remark + "\n";
    EXPECT_NE(told.find("6 of 8 layers are copied to the device when they are used"), std::string::npos) << told;
    EXPECT_EQ(session->decode_launches(), whole->decode_launches());
    const auto per_byte = session->seconds_per_streamed_byte();
    ASSERT_TRUE(per_byte.ok());
    EXPECT_GT(*per_byte, 0);
    EXPECT_EQ(whole->seconds_per_streamed_byte().error().code, ErrorCode::usage);
    // It also feeds itself, without graphs.
    EXPECT_NE(session->self_feeder(), nullptr);
    const auto tokens = some_tokens(20, 131);
    EXPECT_LE(distance(all_logits(*session, tokens, 20), all_logits(*whole, tokens, 20)), 1e-5);  // the measurement left other weights there
}

// A tensor that two blocks use is in the buffer of each.
TEST(WeightStream, SharedTensors) {
    Layers small(4);
    for (std::size_t b : {3, 4})
        for (Op& op : small.spec.blocks[b].ops)
            if (auto* linear = std::get_if<LinearOp>(&op.detail); linear != nullptr && linear->terms[0].weight.key.ends_with("down_proj.weight"))
                linear->terms[0].weight = std::get<LinearOp>(small.spec.blocks[2].ops[static_cast<std::size_t>(&op - small.spec.blocks[b].ops.data())].detail).terms[0].weight;
    const auto tokens = some_tokens(30, 131);
    const auto expected = all_logits(*device_session(small.spec, *small.weights, small_options(64)), tokens, 30);
    for (const std::size_t first : {1, 2, 3}) {
        auto options = small_options(64);
        options.stream_from = first;
        const auto session = device_session(small.spec, *small.weights, options);
        for (int pass = 0; pass < 2; ++pass) {
            EXPECT_LE(distance(all_logits(*session, tokens, 30), expected), 1e-5);
            ASSERT_TRUE(session->state().truncate(0, 0).ok());
        }
    }
}

TEST(WeightStream, QuantizedWeightsKeepAllTheirParts) {
    const Layers small(4);
    const auto tokens = some_tokens(30, 131);
    for (const char* name : {"w4g32a", "n4g32r", "w8", "w3g32"}) {
        const Scheme scheme = *parse_scheme(name);
        const auto weights = quantized_on_load(
            small.spec, small.weights, [&](const std::string& key) { return small.spec.tensors.at(key).role == TensorDecl::Role::linear ? &scheme : nullptr; }, ScaleRule::min_max);
        auto options = small_options(64);
        const auto expected = all_logits(*device_session(small.spec, *weights, options), tokens, 30);
        options.stream_from = 1;
        EXPECT_LE(distance(all_logits(*device_session(small.spec, *weights, options), tokens, 30), expected), 1e-5) << name;
    }
}

#if defined(SKIFF_EMULATED_CUDA)
TEST(WeightStream, TheKernelsReadWhatWasCopied) {
    static const auto emulated = open_plug_in(SKIFF_EMULATED_CUDA);
    ASSERT_TRUE(emulated.ok()) << emulated.error().to_string();
    const Layers small(4);
    const auto tokens = some_tokens(12, 131);
    auto options = small_options(64);
    const auto whole = DeviceSession::create(*emulated->table, small.spec, *small.weights, options);
    options.stream_from = 2;
    const auto streamed = DeviceSession::create(*emulated->table, small.spec, *small.weights, options);
    ASSERT_TRUE(whole.ok() && streamed.ok());
    EXPECT_EQ(all_logits(**streamed, tokens, 12), all_logits(**whole, tokens, 12));
    EXPECT_EQ(all_logits(**streamed, tokens, 1), all_logits(**whole, tokens, 1));
}
#endif

// On the machine's own GPU, by the plug-in beside the program or in SKIFF_CUDA_LIBRARY.
TEST(WeightStream, ThisGpuReadsWhatWasCopied) {
    const CudaDriver driver = probe_cuda_driver();
    if (!driver.problem.empty()) GTEST_SKIP() << driver.problem;
    const auto plug_in = open_plug_in();
    if (!plug_in.ok()) GTEST_SKIP() << plug_in.error().to_string();
    const Small small({{"num_hidden_layers", 8}, {"hidden_size", 768}, {"intermediate_size", 2048}});
    const auto tokens = some_tokens(40, 131);
    for (const std::size_t first : {1, 4}) {
        auto options = small_options(64);
        const auto whole = DeviceSession::create(*plug_in->table, small.spec, *small.weights, options);
        options.stream_from = first;
        const auto streamed = DeviceSession::create(*plug_in->table, small.spec, *small.weights, options);
        ASSERT_TRUE(whole.ok() && streamed.ok());
        for (const std::size_t chunk : {40, 8, 1}) {
            EXPECT_EQ(all_logits(**streamed, tokens, chunk), all_logits(**whole, tokens, chunk)) << chunk << " tokens at a time";
            ASSERT_TRUE((*streamed)->state().truncate(0, 0).ok() && (*whole)->state().truncate(0, 0).ok());
        }
    }
}

TEST(DeviceFit, WhatIsChosenFits) {
    DeviceNeeds needs{.available = 100, .base = 10, .state_of_layer = 1, .head = 5, .weights = {8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8}};
    EXPECT_EQ(last_block_that_fits(needs), 10u);             // 10 + 10 * 9 = 100
    EXPECT_EQ(first_streamed_block(needs), 8u);             // 10 + 12 + 5 + 16 = 43, and seven layers
    needs.available = 200;
    EXPECT_EQ(last_block_that_fits(needs), 13u);             // all
    needs.available = 120;
    EXPECT_EQ(last_block_that_fits(needs), 12u);             // all layers, not the head
    needs.available = 40;
    EXPECT_EQ(first_streamed_block(needs), 0u);    // not even the states
    needs.available = 18;
    EXPECT_EQ(last_block_that_fits(needs), 0u);
}

// The slower the processor, the better the copies; the longer the prompt's runs, the fewer of them.
TEST(DeviceFit, CostsFollowWhatWasMeasured) {
    const DeviceNeeds needs{.available = 100, .base = 10, .state_of_layer = 1, .head = 5, .weights = {8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8}};
    const LayerSpeeds speeds{.copy = 1e-3, .token = 2e-3, .prompt_token = 1e-3};
    const OffloadCost cost = offload_cost(needs, speeds, 10, 8, 1024);
    EXPECT_NEAR(cost.processor, 2 * (512 * 1e-3 + 128 * 2e-3) + 5.0 / 8 * 128 * 2e-3, 1e-9);
    EXPECT_NEAR(cost.stream, 129 * 40 * 1e-3, 1e-9);
    EXPECT_NEAR(offload_cost(needs, speeds, 10, 8, 256).stream, 130 * 40 * 1e-3, 1e-9);
}

}  // namespace
}  // namespace skiff::cuda
