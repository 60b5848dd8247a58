// The walk against the whole model, over every architecture that the tests hold.
#include "compress/calibrate/walk.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "base/rng.h"
#include "compress/algebra/algebra.h"
#include "compress/small_models_testing.h"

namespace skiff {
namespace {

using skiff::testing::random_text, skiff::testing::small_model_folders;

// Hidden states before each block, and inputs of the linear operators, from one pass of the whole model over each sample.
std::vector<float> whole_model(const Checkpoint& model, const CalibrationText& text, const std::string& value) {
    PlanOptions options;
    options.taps = {value};
    auto plan = lower(model.spec, *model.weights, options);
    EXPECT_TRUE(plan.ok()) << plan.error().to_string();
    auto session = Session::create(*plan, {.n_threads = 2, .n_context = 32, .max_batch = 32});
    std::vector<float> values;
    for (const auto& sample : text.samples) {
        EXPECT_TRUE((*session)->forward(0, sample, BatchItem::Logits::all).ok());
        const auto rows = (*session)->tap(value);
        values.insert(values.end(), rows.begin(), rows.end());
        EXPECT_TRUE((*session)->state().truncate(0, 0).ok());
    }
    return values;
}

class Walk : public ::testing::TestWithParam<std::string> {};

TEST_P(Walk, SeesWhatTheWholeModelComputes) {
    if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
    auto model = Checkpoint::open(GetParam());
    ASSERT_TRUE(model.ok()) << model.error().to_string();
    const CalibrationText text = random_text(model->spec.n_vocab);
    CalibrationWalk walk(model->spec, text, 2);
    ASSERT_TRUE(walk.embed(*model->weights).ok());
    for (std::size_t block = 1; block + 1 < walk.n_blocks(); ++block) {
        auto inputs = walk.observe(block, *model->weights, StatisticsNeed::gram);
        ASSERT_TRUE(inputs.ok()) << inputs.error().to_string();
        const auto readers = linear_inputs(model->spec.blocks[block]);
        ASSERT_EQ(inputs->size(), readers.size());
        for (const auto& [key, id] : readers) {
            SCOPED_TRACE(key);
            const auto x = whole_model(*model, text, model->spec.values[static_cast<std::size_t>(id)].name);
            const InputStatistics& seen = *inputs->at(key);
            ASSERT_EQ(seen.n_tokens, text.n_tokens());
            const auto n = static_cast<std::size_t>(model->spec.width(id)), n_tokens = static_cast<std::size_t>(seen.n_tokens);
            ASSERT_EQ(x.size(), n * n_tokens);
            for (std::size_t i = 0; i < n; ++i) {
                double mean = 0, absolute = 0, largest = 0;
                for (std::size_t t = 0; t < n_tokens; ++t) {
                    const double value = static_cast<double>(x[t * n + i]);
                    mean += value;
                    absolute += std::abs(value);
                    largest = std::max(largest, std::abs(value));
                }
                ASSERT_NEAR(seen.mean[i], mean / static_cast<double>(n_tokens), 1e-5 * largest + 1e-9);
                ASSERT_NEAR(seen.mean_absolute[i], absolute / static_cast<double>(n_tokens), 1e-5 * largest + 1e-9);
                ASSERT_NEAR(seen.largest[i], largest, 1e-5 * largest + 1e-9);
                for (std::size_t j : {std::size_t{0}, i, n - 1}) {
                    double product = 0, size = 0;
                    for (std::size_t t = 0; t < n_tokens; ++t) {
                        product += static_cast<double>(x[t * n + i]) * static_cast<double>(x[t * n + j]);
                        size += std::abs(static_cast<double>(x[t * n + i]) * static_cast<double>(x[t * n + j]));
                    }
                    ASSERT_NEAR(seen.gram[i * n + j], product / static_cast<double>(n_tokens), 1e-5 * size / static_cast<double>(n_tokens) + 1e-9);
                }
                ASSERT_NEAR(seen.mean_square[i], seen.gram[i * n + i], 1e-5f * seen.mean_square[i] + 1e-9f);
            }
        }
        ASSERT_TRUE(walk.advance(block, *model->weights).ok());
    }
}

INSTANTIATE_TEST_SUITE_P(AllModels, Walk, ::testing::ValuesIn(small_model_folders()), [](const auto& named) { return std::filesystem::path(named.param).filename().string(); });

TEST(CalibrationWalk, EditsOfABlockReachTheNext) {
    auto model = Checkpoint::open(std::string(SKIFF_TEST_DATA_DIR) + "/models/llama");
    ASSERT_TRUE(model.ok());
    const CalibrationText text = random_text(model->spec.n_vocab);
    CalibrationWalk plain(model->spec, text, 1), edited(model->spec, text, 2);
    ASSERT_TRUE(plain.embed(*model->weights).ok() && edited.embed(*model->weights).ok());
    EXPECT_EQ(std::vector<float>(plain.hidden().begin(), plain.hidden().end()), std::vector<float>(edited.hidden().begin(), edited.hidden().end()));
    EditedWeights weights(model->weights);
    for (const auto& [key, id] : linear_inputs(model->spec.blocks[1])) {
        const auto weight = weights.load(key);
        weights.replace(key, make_float_weight(weight->shape, std::vector<float>(static_cast<std::size_t>(element_count(weight->shape)))));
    }
    const std::vector<float> before(edited.hidden().begin(), edited.hidden().end());
    ASSERT_TRUE(edited.advance(1, weights).ok());  // nothing but the residual stream is left
    EXPECT_EQ(before, std::vector<float>(edited.hidden().begin(), edited.hidden().end()));
    ASSERT_TRUE(plain.advance(1, *model->weights).ok());
    EXPECT_NE(before, std::vector<float>(plain.hidden().begin(), plain.hidden().end()));
}

TEST(CalibrationWalk, StatesComeBackFromTheirFileAndFromNoOther) {
    const std::string path = (std::filesystem::temp_directory_path() / ("skiff_hidden_" + std::to_string(::getpid()))).string();
    auto model = Checkpoint::open(std::string(SKIFF_TEST_DATA_DIR) + "/models/llama");
    ASSERT_TRUE(model.ok());
    CalibrationText text = random_text(model->spec.n_vocab), other = text;
    other.sha256 = "other text";
    CalibrationWalk walk(model->spec, text, 1), again(model->spec, text, 1), stranger(model->spec, other, 1);
    ASSERT_TRUE(walk.embed(*model->weights).ok());
    ASSERT_TRUE(walk.save(path).ok());
    ASSERT_TRUE(again.restore(path).ok());
    EXPECT_EQ(std::vector<float>(walk.hidden().begin(), walk.hidden().end()), std::vector<float>(again.hidden().begin(), again.hidden().end()));
    EXPECT_EQ(stranger.restore(path).error().code, ErrorCode::corrupt);
    const std::string bytes = *read_text_file(path, 1 << 20);
    for (std::size_t size : {std::size_t{0}, std::size_t{7}, std::size_t{31}, bytes.size() - 1}) {
        std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes.substr(0, size);
        EXPECT_FALSE(again.restore(path).ok()) << size;
    }
    std::string changed = bytes;
    changed[bytes.size() / 2] = static_cast<char>(changed[bytes.size() / 2] ^ 1);
    std::ofstream(path, std::ios::binary | std::ios::trunc) << changed;
    EXPECT_EQ(again.restore(path).error().code, ErrorCode::corrupt);
    (void)remove_all(path);
}

TEST(CalibrationText, SamplesSpreadOverTheTextAndShortTextsAreRefused) {
    const std::string folder = std::string(SKIFF_SOURCE_DIR) + "/models/pocket";
    auto model = Checkpoint::open(folder);
    ASSERT_TRUE(model.ok());
    auto built_in = load_calibration(*model, {});
    ASSERT_TRUE(built_in.ok()) << built_in.error().to_string();
    EXPECT_EQ(built_in->samples.size(), 32u);
    EXPECT_EQ(built_in->longest(), 512);
    EXPECT_EQ(built_in->n_tokens(), 32 * 512);
    EXPECT_EQ(built_in->sha256.size(), 64u);
    EXPECT_NE(built_in->samples[0], built_in->samples[31]);
    auto longer = load_calibration(*model, {.n_samples = 4, .sample_tokens = 4096});  // the model has 512 positions
    ASSERT_TRUE(longer.ok());
    EXPECT_EQ(longer->longest(), 512);
    const std::string path = (std::filesystem::temp_directory_path() / ("skiff_calibration_" + std::to_string(::getpid()) + ".txt")).string();
    std::ofstream(path) << "Three short words.";
    auto refused = load_calibration(*model, {.file = path});
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, ErrorCode::usage);
    EXPECT_NE(refused.error().message.find("at least"), std::string::npos) << refused.error().message;
    EXPECT_FALSE(load_calibration(*model, {.file = path + "nowhere"}).ok());
    EXPECT_FALSE(load_calibration(*model, {.n_samples = 0}).ok());
    EXPECT_FALSE(load_calibration(*model, {.sample_tokens = 1}).ok());
    std::string text;
    for (int i = 0; i < 400; ++i) text += "The boat was light and the water was quiet. ";
    std::ofstream(path, std::ios::trunc) << text;
    auto few = load_calibration(*model, {.file = path});
    ASSERT_TRUE(few.ok());
    EXPECT_LT(few->samples.size(), 32u);
    EXPECT_FALSE(few->remarks.empty());
    (void)remove_all(path);
}

}  // namespace
}  // namespace skiff
