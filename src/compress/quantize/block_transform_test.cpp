// Transforms of blocks change nothing that a model computes, over every architecture that the tests hold, and the statistics go with the weights.
#include "compress/quantize/block_transform.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "base/rng.h"
#include "compress/algebra/algebra.h"
#include "compress/small_models_testing.h"

namespace skiff {
namespace {

using skiff::testing::largest_difference, skiff::testing::logits_of, skiff::testing::output_loss, skiff::testing::random_text, skiff::testing::small_model_folders;

class CoupledModels : public ::testing::TestWithParam<std::string> {
protected:
    void SetUp() override {
        if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
    }
};

std::vector<float> random_scales(std::int64_t n, std::uint64_t seed) {
    Rng rng(seed);
    std::vector<float> scales(static_cast<std::size_t>(n));
    for (float& scale : scales) scale = std::exp2(2 * static_cast<float>(rng.uniform()) - 1);
    return scales;
}

TEST_P(CoupledModels, CoupledScalesLeaveTheModelAsItIs) {
    auto model = Checkpoint::open(GetParam());
    ASSERT_TRUE(model.ok()) << model.error().to_string();
    const CalibrationText text = random_text(model->spec.n_vocab);
    ThreadPool pool(2);
    EditedWeights weights(model->weights);
    const auto before = logits_of(model->spec, weights, text);
    CalibrationWalk walk(model->spec, text, 2);
    ASSERT_TRUE(walk.embed(weights).ok());
    for (std::size_t block = 1; block + 1 < walk.n_blocks(); ++block) {
        auto inputs = walk.observe(block, weights, StatisticsNeed::gram);
        ASSERT_TRUE(inputs.ok());
        for (const InputCoupling& coupling : find_couplings(model->spec, block)) ASSERT_TRUE(scale_inputs(coupling, random_scales(coupling.n_sources, block), {weights, *inputs, pool}).ok());
        auto seen = walk.observe(block, weights, StatisticsNeed::gram);
        ASSERT_TRUE(seen.ok());
        for (const auto& [key, own] : *inputs) {
            const InputStatistics& measured = *seen->at(key);
            double largest = 0;
            for (float entry : measured.gram) largest = std::max(largest, std::fabs(static_cast<double>(entry)));
            for (std::size_t i = 0; i < own->gram.size(); ++i) ASSERT_NEAR(own->gram[i], measured.gram[i], 2e-3 * largest) << key;
            for (std::size_t i = 0; i < own->mean.size(); ++i) {
                ASSERT_NEAR(own->largest[i], measured.largest[i], 2e-3 * (1e-3 + static_cast<double>(measured.largest[i]))) << key;
                ASSERT_NEAR(own->mean_square[i], own->gram[i * own->mean.size() + i], 1e-4 * (1e-3 + static_cast<double>(own->mean_square[i]))) << key;
            }
        }
        ASSERT_TRUE(walk.advance(block, weights).ok());
    }
    EXPECT_LT(largest_difference(before, logits_of(model->spec, weights, text)), 2e-3);
}

INSTANTIATE_TEST_SUITE_P(AllModels, CoupledModels, ::testing::ValuesIn(small_model_folders()), [](const auto& named) { return std::filesystem::path(named.param).filename().string(); });

std::vector<std::string> coupled(const std::string& model_name) {
    auto model = Checkpoint::open(std::string(SKIFF_TEST_DATA_DIR) + "/models/" + model_name);
    std::vector<std::string> names;
    for (const InputCoupling& coupling : find_couplings(model->spec, 1)) names.push_back(model->spec.values[static_cast<std::size_t>(coupling.value)].name);
    return names;
}

TEST(Couplings, AreFoundFromOperators) {
    using Names = std::vector<std::string>;
    EXPECT_EQ(coupled("llama"), (Names{"block0.attn_norm", "block0.attn.mix", "block0.ff_norm", "block0.ff.gated"}));
    EXPECT_EQ(coupled("qwen2"), (Names{"block0.attn_norm", "block0.attn.mix", "block0.ff_norm", "block0.ff.gated"}));
    EXPECT_EQ(coupled("opt"), (Names{"block0.attn_norm", "block0.attn.mix", "block0.ff_norm", "block0.ff.act"}));  // ReLU
    EXPECT_EQ(coupled("gpt2"), (Names{"block0.attn_norm", "block0.attn.mix", "block0.ff_norm"}));                  // GELU: nothing passes
}

// A block of llama whose inputs have a few large columns: the transforms see them.
TEST(BlockTransforms, LowerWhatTheyAreFor) {
    if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
    auto model = Checkpoint::open(std::string(SKIFF_SOURCE_DIR) + "/models/pocket");
    ASSERT_TRUE(model.ok());
    auto text = load_calibration(*model, {.n_samples = 2, .sample_tokens = 256});
    ASSERT_TRUE(text.ok());
    ThreadPool pool(2);
    const Scheme scheme = *parse_scheme("w3g32r");
    CalibrationWalk walk(model->spec, *text, 2);
    ASSERT_TRUE(walk.embed(*model->weights).ok());
    auto before = walk.observe(1, *model->weights, StatisticsNeed::gram);
    ASSERT_TRUE(before.ok());
    for (const BlockTransform& transform : block_transforms()) {
        EditedWeights weights(model->weights);
        BlockInputs inputs = *before;
        bool any_lower = false;
        const auto scheme_of = [&](const std::string&) { return &scheme; };
        ASSERT_TRUE(transform.apply({model->spec, 1, {weights, inputs, pool}, scheme_of}).ok());
        for (const InputCoupling& coupling : find_couplings(model->spec, 1)) {
            const std::string& first = coupling.readers[0].key;
            if (transform.name == "smooth") {
                const auto spread = [](const InputStatistics& of) {
                    const auto [least, most] = std::minmax_element(of.largest.begin(), of.largest.end());
                    return static_cast<double>(*most) / static_cast<double>(*least);
                };
                EXPECT_LT(spread(*inputs.at(first)), spread(*before->at(first))) << first;
                continue;
            }
            double lost_before = 0, lost = 0;  // of all that read the value, as awq weighs them
            for (const TensorRef& reader : coupling.readers) {
                const Weight original = *model->weights->load(reader.key), edited = *weights.load(reader.key);
                lost_before += output_loss(original, *encode_nearest(original, scheme, ScaleRule::search), *before->at(reader.key)).lost;
                lost += output_loss(edited, *encode_nearest(edited, scheme, ScaleRule::search), *inputs.at(reader.key)).lost;
            }
            EXPECT_LT(lost, lost_before * 1.02) << first;  // of all rows, where awq looks at a part
            any_lower = any_lower || lost < 0.99 * lost_before;
        }
        EXPECT_EQ(any_lower, transform.name == "awq");
    }
}

// Clipping is of what awq's scales leave, never of queries and keys, and loses less of what it is for.
TEST(BlockTransforms, ClippedWeightsLoseLess) {
    if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
    auto model = Checkpoint::open(std::string(SKIFF_SOURCE_DIR) + "/models/pocket");
    ASSERT_TRUE(model.ok());
    auto text = load_calibration(*model, {.n_samples = 2, .sample_tokens = 256});
    ASSERT_TRUE(text.ok());
    ThreadPool pool(2);
    Scheme scheme = *parse_scheme("w4g128");
    scheme.bits = 3;
    CalibrationWalk walk(model->spec, *text, 2);
    ASSERT_TRUE(walk.embed(*model->weights).ok());
    auto inputs = walk.observe(1, *model->weights, StatisticsNeed::gram);
    ASSERT_TRUE(inputs.ok());
    EditedWeights weights(model->weights);
    BlockInputs edited = *inputs;
    const auto scheme_of = [&](const std::string&) { return &scheme; };
    ASSERT_TRUE(clip_weights({model->spec, 1, {weights, edited, pool}, scheme_of, ScaleRule::min_max}).ok());
    int n_lower = 0;
    for (const auto& [key, seen] : *inputs) {
        const Weight original = *model->weights->load(key), clipped = *weights.load(key);
        const double before = output_loss(original, *encode_nearest(original, scheme, ScaleRule::min_max), *seen).lost, after = output_loss(original, *encode_nearest(clipped, scheme, ScaleRule::min_max), *seen).lost;
        const bool query_or_key = key.find("q_proj") != std::string::npos || key.find("k_proj") != std::string::npos;
        if (query_or_key) {
            EXPECT_EQ(after, before) << key;
        } else {
            EXPECT_LT(after, before * 1.01) << key;
        }
        n_lower += after < 0.97 * before;
    }
    EXPECT_GE(n_lower, 3);
}

}  // namespace
}  // namespace skiff
