// Importance matrices of llama.cpp: those that we write are read again, weigh what a calibration text weighs, and strange ones are refused.
#include "compress/calibrate/importance.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/atomic_file.h"
#include "compress/method.h"
#include "compress/small_models_testing.h"

namespace skiff {
namespace {

using skiff::testing::random_text;

class ImportanceFiles : public ::testing::Test {
protected:
    void TearDown() override { (void)remove_all(path_); }
    const std::string path_ = (std::filesystem::temp_directory_path() / ("skiff_importance_" + std::to_string(::getpid()) + ".gguf")).string();
};

TEST_F(ImportanceFiles, HoldWhatTheWalkSees) {
    for (const char* name : {"llama", "qwen2", "mixtral", "gemma2", "phi3"}) {
        SCOPED_TRACE(name);
        auto model = Checkpoint::open(std::string(SKIFF_TEST_DATA_DIR) + "/models/" + name);
        ASSERT_TRUE(model.ok());
        const CalibrationText text = random_text(model->spec.n_vocab);
        auto measured = measure_importance(*model, text, 2, nullptr);
        ASSERT_TRUE(measured.ok()) << measured.error().to_string();
        ASSERT_TRUE(measured->write(path_, text.longest()).ok());
        auto file = ImportanceFile::open(path_, *model);
        ASSERT_TRUE(file.ok()) << file.error().to_string();
        CalibrationWalk walk(model->spec, text, 2);
        ASSERT_TRUE(walk.embed(*model->weights).ok());
        for (std::size_t block = 1; block + 1 < walk.n_blocks(); ++block) {
            auto inputs = walk.observe(block, *model->weights, StatisticsNeed::moments);
            ASSERT_TRUE(inputs.ok());
            for (const auto& [key, seen] : *inputs) {
                const InputStatistics* own = file->find(key);
                ASSERT_NE(own, nullptr) << key;
                EXPECT_EQ(own->n_tokens, seen->n_tokens);
                ASSERT_EQ(own->mean_square.size(), seen->mean_square.size());
                for (std::size_t i = 0; i < own->mean_square.size(); ++i) EXPECT_FLOAT_EQ(own->mean_square[i], seen->mean_square[i]);
            }
            ASSERT_TRUE(walk.advance(block, *model->weights).ok());
        }
        EXPECT_EQ(file->json()["chunks"].int_or(0), static_cast<std::int64_t>(text.samples.size()));
    }
}

TEST_F(ImportanceFiles, WeighMethods) {
    ThreadPool pool(2);
    Rng rng(1);
    std::vector<float> values(64 * 64);
    for (float& value : values) value = rng.normal();
    const Weight weight = make_float_weight({64, 64}, values);
    InputStatistics inputs;
    inputs.n_tokens = 1000;
    inputs.mean_square.assign(64, 0.01f);
    for (std::size_t i = 0; i < 64; i += 7) inputs.mean_square[i] = 10;
    const auto lost = [&](std::string_view method, const char* scheme, const InputStatistics* told) {
        auto result = (*find_weight_method(method))->encode({weight, *parse_scheme(scheme), ScaleRule::search, pool, told});
        EXPECT_TRUE(result.ok());
        std::vector<float> w(64), q(64);
        double sum = 0;
        for (std::int64_t row = 0; row < 64; ++row) {
            weight.row(row, w.data());
            result->row(row, q.data());
            for (std::size_t i = 0; i < 64; ++i) sum += static_cast<double>((w[i] - q[i]) * (w[i] - q[i]) * inputs.mean_square[i]);
        }
        return sum;
    };
    for (const auto& [method, scheme] : {std::pair{"weighted", "w3g32r"}, std::pair{"hqq", "w3g32r"}, std::pair{"hqq", "w3g32a"}, std::pair{"kmeans", "k8"}}) EXPECT_LT(lost(method, scheme, &inputs), 0.8 * lost(method, scheme, nullptr)) << method << " " << scheme;
}

TEST_F(ImportanceFiles, OfOtherModelsAreRefused) {
    auto llama = Checkpoint::open(std::string(SKIFF_TEST_DATA_DIR) + "/models/llama"), qwen2 = Checkpoint::open(std::string(SKIFF_TEST_DATA_DIR) + "/models/qwen2"), gpt2 = Checkpoint::open(std::string(SKIFF_TEST_DATA_DIR) + "/models/gpt2");
    ASSERT_TRUE(llama.ok() && qwen2.ok() && gpt2.ok());
    auto measured = measure_importance(*llama, random_text(llama->spec.n_vocab), 1, nullptr);
    ASSERT_TRUE(measured.ok());
    ASSERT_TRUE(measured->write(path_, 17).ok());
    auto other = ImportanceFile::open(path_, *qwen2);
    ASSERT_FALSE(other.ok());  // the same names, other sizes
    EXPECT_NE(other.error().to_string().find("inputs"), std::string::npos) << other.error().to_string();
    Imatrix strange = *measured;
    strange.entries.clear();
    strange.entries["blk.77.attn_q.weight"] = {{1, 2}, 1, {100}};
    ASSERT_TRUE(strange.write(path_, 17).ok());
    other = ImportanceFile::open(path_, *llama);
    ASSERT_FALSE(other.ok());
    EXPECT_NE(other.error().message.find("has nothing for this model"), std::string::npos);
    EXPECT_FALSE(ImportanceFile::open(path_ + "nowhere", *llama).ok());
}

}  // namespace
}  // namespace skiff
