// The walk by a device (the fake one, whose kernels are plain loops; the emulated one, whose kernels are a GPU's) against the processor's, over every architecture that the tests hold.
#include <cmath>

#include "backend/cuda/device_session_testing.h"
#include "backend/device_blocks.h"
#include "compress/algebra/algebra.h"
#include "compress/calibrate/block_work.h"
#include "compress/calibrate/walk.h"
#include "compress/small_models_testing.h"

namespace skiff {
namespace {

using skiff::testing::random_text;

// As a share of the largest.
double apart(const std::vector<float>& found, const std::vector<float>& expected) { return cuda::distance(found, expected); }

struct Distances {
    double mean = 0, absolute = 0, square = 0, largest = 0, gram = 0, hidden = 0;
};

// The largest over all blocks; statistics of the same hidden states, which each walk makes for itself.
Distances compare(const Checkpoint& model, const CalibrationText& text, BlockRunner& runner, StatisticsNeed need) {
    Distances worst;
    CalibrationWalk here(model.spec, text, 2), there(model.spec, text, 2, &runner);
    EXPECT_TRUE(here.embed(*model.weights).ok());
    const Status embedded = there.embed(*model.weights);
    EXPECT_TRUE(embedded.ok()) << embedded.error().to_string();
    for (std::size_t block = 1; block + 1 < here.n_blocks() && embedded.ok(); ++block) {
        auto expected = here.observe(block, *model.weights, need), found = there.observe(block, *model.weights, need);
        EXPECT_TRUE(expected.ok());
        EXPECT_TRUE(found.ok()) << found.error().to_string();
        if (!found.ok()) break;
        EXPECT_EQ(found->size(), expected->size());
        for (const auto& [key, statistics] : *expected) {
            const InputStatistics& other = *found->at(key);
            EXPECT_EQ(other.n_tokens, statistics->n_tokens);
            EXPECT_EQ(other.gram.size(), statistics->gram.size());
            worst.mean = std::max(worst.mean, apart(other.mean, statistics->mean));
            worst.absolute = std::max(worst.absolute, apart(other.mean_absolute, statistics->mean_absolute));
            worst.square = std::max(worst.square, apart(other.mean_square, statistics->mean_square));
            worst.largest = std::max(worst.largest, apart(other.largest, statistics->largest));
            if (need == StatisticsNeed::gram) worst.gram = std::max(worst.gram, apart(other.gram, statistics->gram));
        }
        EXPECT_TRUE(here.advance(block, *model.weights).ok());
        EXPECT_TRUE(there.advance(block, *model.weights).ok());
    }
    worst.hidden = cuda::distance(there.hidden(), here.hidden());
    return worst;
}

class WalkOnADevice : public ::testing::TestWithParam<std::string> {};

TEST_P(WalkOnADevice, HessiansAreTheProcessors) {
    if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
    const auto model = Checkpoint::open(cuda::models_dir + "/" + GetParam());
    ASSERT_TRUE(model.ok());
    const auto runner = make_device_blocks(cuda::fake(), {});
    ASSERT_TRUE(runner.ok()) << runner.error().to_string();
    const Distances worst = compare(*model, random_text(model->spec.n_vocab, {9, 17, 17}), **runner, StatisticsNeed::gram);
    // As near as logits of the same two come (device_models_test.cpp): sums of floats in another order, through all blocks.
    for (const double each : {worst.mean, worst.absolute, worst.square, worst.largest, worst.gram, worst.hidden}) EXPECT_LE(each, 1e-4);
}

INSTANTIATE_TEST_SUITE_P(All, WalkOnADevice, ::testing::ValuesIn(cuda::model_names()), [](const auto& instance) { return instance.param; });

TEST(WalkOnADevice, MomentsAloneHaveNoPairs) {
    const auto model = Checkpoint::open(cuda::models_dir + "/llama_tied_bf16");
    ASSERT_TRUE(model.ok());
    const auto runner = make_device_blocks(cuda::fake(), {});
    const Distances worst = compare(*model, random_text(model->spec.n_vocab, {20, 3}), **runner, StatisticsNeed::moments);
    EXPECT_LE(worst.square, 2e-5);
}

// Values themselves come from there, too, and one that a kernel changes in place is refused.
TEST(WalkOnADevice, ValuesCanBeWatched) {
    const auto model = Checkpoint::open(cuda::models_dir + "/llama_tied_bf16");
    ASSERT_TRUE(model.ok());
    const CalibrationText text = random_text(model->spec.n_vocab, {20, 3});
    const auto runner = make_device_blocks(cuda::fake(), {});
    CalibrationWalk here(model->spec, text, 2), there(model->spec, text, 2, runner->get());
    ASSERT_TRUE(here.embed(*model->weights).ok() && there.embed(*model->weights).ok());
    std::vector<ValueId> ids;
    const Block& block = model->spec.blocks[1];
    for (const auto& [key, id] : linear_inputs(block)) ids.push_back(id);
    ids.push_back(block.in);
    ids.push_back(block.out);
    const auto values_of = [&](CalibrationWalk& walk) {
        std::vector<float> all;
        const Status status = walk.watch(1, *model->weights, ids, [&](std::int64_t, std::span<const std::span<const float>> values, ThreadPool&) -> Status {
            for (const auto& value : values) all.insert(all.end(), value.begin(), value.end());
            return {};
        });
        EXPECT_TRUE(status.ok()) << status.error().to_string();
        return all;
    };
    EXPECT_LE(cuda::distance(values_of(there), values_of(here)), 2e-5);
    for (const Op& op : block.ops)
        if (std::holds_alternative<RopeOp>(op.detail)) {
            const ValueId rotated = op.in[0];
            const auto look = [](std::int64_t, std::span<const std::span<const float>>, ThreadPool&) -> Status { return {}; };
            EXPECT_EQ(there.watch(1, *model->weights, std::span(&rotated, 1), look).error().code, ErrorCode::unsupported);
        }
}

// A text longer than a run of the device is fed in parts: its sums hold all of them, and its values are all there.
TEST(WalkOnADevice, LongTextsAreCountedToTheirEnd) {
    cuda::Small small({{"num_hidden_layers", 1}, {"hidden_size", 32}, {"intermediate_size", 40}, {"num_attention_heads", 2}, {"num_key_value_heads", 1}, {"max_position_embeddings", 4096}});
    const auto runner = make_device_blocks(cuda::fake(), {});
    ASSERT_TRUE(runner.ok());
    const auto length = static_cast<std::size_t>((*runner)->most_tokens()) + 60;
    ASSERT_LE(length, 4096u);
    const CalibrationText text = random_text(small.spec.n_vocab, {9, length});
    CalibrationWalk here(small.spec, text, 2), there(small.spec, text, 2, runner->get());
    ASSERT_TRUE(here.embed(*small.weights).ok() && there.embed(*small.weights).ok());
    const auto expected = here.observe(1, *small.weights, StatisticsNeed::moments), found = there.observe(1, *small.weights, StatisticsNeed::moments);
    ASSERT_TRUE(expected.ok());
    ASSERT_TRUE(found.ok()) << found.error().to_string();
    for (const auto& [key, statistics] : *expected) {
        EXPECT_EQ(found->at(key)->n_tokens, static_cast<std::int64_t>(length) + 9) << key;
        EXPECT_LE(apart(found->at(key)->mean_square, statistics->mean_square), 1e-4) << key;
    }
    std::vector<ValueId> ids;
    for (const auto& [key, id] : linear_inputs(small.spec.blocks[1])) ids.push_back(id);
    const auto values_of = [&](CalibrationWalk& walk) {
        std::vector<float> all;
        const Status status = walk.watch(1, *small.weights, ids, [&](std::int64_t, std::span<const std::span<const float>> values, ThreadPool&) -> Status {
            for (const auto& value : values) all.insert(all.end(), value.begin(), value.end());
            return {};
        });
        EXPECT_TRUE(status.ok()) << status.error().to_string();
        return all;
    };
    EXPECT_LE(cuda::distance(values_of(there), values_of(here)), 1e-4);
    ASSERT_TRUE(here.advance(1, *small.weights).ok() && there.advance(1, *small.weights).ok());
    EXPECT_LE(cuda::distance(there.hidden(), here.hidden()), 1e-4);
}

// Who feeds it more at once is told, for the values of one run would be taken for those of all.
TEST(WalkOnADevice, ARunAboveTheMostIsRefusedWhereTapsLook) {
    const cuda::Small small;
    auto options = cuda::small_options(200);
    options.first_block = options.last_block = 1;
    options.fuse = cuda::DeviceModelOptions::Fuse::off;
    for (const auto& [key, id] : linear_inputs(small.spec.blocks[1])) options.taps = {small.spec.values[static_cast<std::size_t>(id)].name};
    const auto session = cuda::device_session(small.spec, *small.weights, options);
    ASSERT_NE(session, nullptr);
    std::vector<float> output;
    const std::vector<float> input(static_cast<std::size_t>(49 * small.spec.d_model), 0.5f);
    EXPECT_EQ(session->forward_hidden(0, input, output).error().code, ErrorCode::usage);
    EXPECT_EQ(session->state().length(0), 0);
    EXPECT_TRUE(session->forward_hidden(0, std::span(input).first(static_cast<std::size_t>(48 * small.spec.d_model)), output).ok());
}

#if defined(SKIFF_EMULATED_CUDA)
// Operands of bf16: the second moments of what the kernels compute with, near those of the processor's floats.
TEST(WalkOnADevice, TheKernelsHessians) {
    if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
    static const auto emulated = cuda::open_plug_in(SKIFF_EMULATED_CUDA);
    ASSERT_TRUE(emulated.ok()) << emulated.error().to_string();
    const auto model = Checkpoint::open(cuda::models_dir + "/llama_tied_bf16");
    ASSERT_TRUE(model.ok());
    DeviceChoice choice;
    choice.gemm = DeviceChoice::Gemm::own;
    const auto runner = make_device_blocks(*emulated->table, choice);
    ASSERT_TRUE(runner.ok());
    const Distances worst = compare(*model, random_text(model->spec.n_vocab, {9, 17}), **runner, StatisticsNeed::gram);
    EXPECT_LE(worst.hidden, 0.02);
    EXPECT_LE(worst.gram, 0.03);
    EXPECT_LE(worst.square, 0.03);
}
#endif

}  // namespace
}  // namespace skiff
