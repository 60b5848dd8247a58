// A block's values are those of the engine, and its gradients those of differences, over every architecture that the tests hold.
#include "compress/quantize/block_gradients.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "compress/small_models_testing.h"

namespace skiff {
namespace {

using skiff::testing::random_text, skiff::testing::small_model_folders;

class DifferentiatedBlocks : public ::testing::TestWithParam<std::string> {};

TEST_P(DifferentiatedBlocks, ValuesAndGradients) {
    if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
    auto model = Checkpoint::open(GetParam());
    ASSERT_TRUE(model.ok()) << model.error().to_string();
    const CalibrationText text = random_text(model->spec.n_vocab);
    ThreadPool pool(2);
    CalibrationWalk walk(model->spec, text, 2);
    ASSERT_TRUE(walk.embed(*model->weights).ok());
    for (std::size_t block = 1; block + 1 < walk.n_blocks(); ++block) {
        auto gradients = BlockGradients::make(model->spec, block, *model->weights, text.longest());
        const bool has_experts = model->spec.architecture == "mixtral", has_convolution = model->spec.architecture == "lfm2";
        if (!gradients.ok()) {
            EXPECT_TRUE(has_experts || has_convolution) << gradients.error().to_string();
            EXPECT_EQ(gradients.error().code, ErrorCode::unsupported);
            ASSERT_TRUE(walk.advance(block, *model->weights).ok());
            continue;
        }
        const std::vector<float> all(walk.hidden().begin(), walk.hidden().end());
        ASSERT_TRUE(walk.advance(block, *model->weights).ok());
        const auto n = static_cast<std::size_t>(model->spec.d_model), length = text.samples[0].size() * n;
        const std::vector<float> x(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(length)), expected(walk.hidden().begin(), walk.hidden().begin() + static_cast<std::ptrdiff_t>(length));
        auto y = gradients->forward(x, pool);
        EXPECT_LT(testing::largest_difference(expected, {y.begin(), y.end()}), 1e-4);

        // A loss that weighs the outputs at random, and each matrix moved a little along a random direction.
        Rng rng(block);
        std::vector<float> dy(length);
        for (float& d : dy) d = rng.normal();
        gradients->clear_gradients();
        gradients->forward(x, pool);
        gradients->backward(dy, pool);
        const auto loss = [&] {
            double sum = 0;
            const auto now = gradients->forward(x, pool);
            for (std::size_t i = 0; i < length; ++i) sum += static_cast<double>(now[i]) * static_cast<double>(dy[i]);
            return sum;
        };
        for (auto& [key, matrix] : gradients->matrices()) {
            std::vector<float> direction(matrix.values.size());
            double slope = 0, size = 0, scale = 0;
            for (std::size_t i = 0; i < direction.size(); ++i) {
                direction[i] = rng.normal();
                slope += static_cast<double>(direction[i]) * static_cast<double>(matrix.gradient[i]);
                size += static_cast<double>(matrix.gradient[i]) * static_cast<double>(matrix.gradient[i]);
                scale += static_cast<double>(matrix.values[i]) * static_cast<double>(matrix.values[i]);
            }
            const double step = 5e-4 * std::sqrt(scale / static_cast<double>(direction.size()));
            const std::vector<float> kept = matrix.values;
            const auto moved = [&](double by) {
                for (std::size_t i = 0; i < direction.size(); ++i) matrix.values[i] = kept[i] + static_cast<float>(by) * direction[i];
                return loss();
            };
            const double measured = (moved(step) - moved(-step)) / (2 * step);
            matrix.values = kept;
            EXPECT_NEAR(measured, slope, 0.02 * std::sqrt(size) + 1e-3 * std::fabs(slope)) << key;
            EXPECT_GT(size, 0) << key;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(AllModels, DifferentiatedBlocks, ::testing::ValuesIn(small_model_folders()), [](const auto& named) { return std::filesystem::path(named.param).filename().string(); });

}  // namespace
}  // namespace skiff
