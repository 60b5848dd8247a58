// Rotated models compute the same, over every architecture that the tests hold; where one cannot be rotated the operator in the way is named.
#include "compress/quantize/rotation.h"

#include <gtest/gtest.h>

#include "compress/algebra/algebra.h"
#include "compress/quantize/orthogonal.h"
#include "compress/small_models_testing.h"
#include "model/arch/arch.h"

namespace skiff {
namespace {

using skiff::testing::largest_difference, skiff::testing::logits_of, skiff::testing::random_text, skiff::testing::small_model_folders;

TEST(Orthogonal, HadamardMatricesAreThat) {
    for (std::int64_t n : {1, 2, 4, 8, 12, 20, 24, 28, 36, 40, 48, 56, 64, 128, 160, 448, 896}) {
        const auto h = hadamard_matrix(n);
        ASSERT_TRUE(h.has_value()) << n;
        for (float entry : *h) ASSERT_EQ(std::fabs(entry), 1.0f);
        for (std::int64_t i = 0; i < n; i += n > 100 ? 7 : 1)
            for (std::int64_t j = 0; j < n; j += n > 100 ? 11 : 1) {
                float sum = 0;
                for (std::int64_t k = 0; k < n; ++k) sum += (*h)[static_cast<std::size_t>(i * n + k)] * (*h)[static_cast<std::size_t>(j * n + k)];
                ASSERT_EQ(sum, i == j ? static_cast<float>(n) : 0.0f) << n << " " << i << " " << j;
            }
    }
    for (std::int64_t n : {3, 6, 30, 92}) EXPECT_FALSE(hadamard_matrix(n).has_value()) << n;
}

TEST(Orthogonal, OthersAreRandomAndOrthogonalToo) {
    if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
    for (std::int64_t n : {1, 6, 30, 45, 64, 96}) {
        const auto made = random_orthogonal(n, 3), other = random_orthogonal(n, 4);
        ASSERT_TRUE(made.ok() && other.ok());
        EXPECT_EQ(made->kind, hadamard_matrix(n) ? "hadamard" : "random");
        EXPECT_EQ(made->matrix == other->matrix, n == 1 && made->matrix[0] == other->matrix[0]);
        EXPECT_EQ(made->matrix, random_orthogonal(n, 3)->matrix);
        for (std::int64_t i = 0; i < n; ++i)
            for (std::int64_t j = 0; j < n; ++j) {
                double sum = 0;
                for (std::int64_t k = 0; k < n; ++k) sum += static_cast<double>(made->matrix[static_cast<std::size_t>(i * n + k)]) * static_cast<double>(made->matrix[static_cast<std::size_t>(j * n + k)]);
                ASSERT_NEAR(sum, i == j ? 1 : 0, 1e-5);
            }
    }
}

// The rotated tensors as they come, the others as they are.
class RotatedWeights final : public WeightSource {
public:
    RotatedWeights(const Rotation& rotation, std::shared_ptr<WeightSource> base) : rotation_(rotation), base_(std::move(base)) {}
    bool contains(const std::string& key) const override { return key == rotation_.new_head() || base_->contains(key); }
    Result<Weight> load(const std::string& key) const override {
        ThreadPool pool(1);
        return rotation_.of(key) != nullptr ? rotation_.make(key, *base_, pool) : base_->load(key);
    }
    std::vector<std::string> keys() const override { return base_->keys(); }

private:
    const Rotation& rotation_;
    std::shared_ptr<WeightSource> base_;
};

class RotatedModels : public ::testing::TestWithParam<std::string> {};

TEST_P(RotatedModels, ComputeTheSame) {
    if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
    auto model = Checkpoint::open(GetParam());
    ASSERT_TRUE(model.ok()) << model.error().to_string();
    const CalibrationText text = random_text(model->spec.n_vocab);
    const auto before = logits_of(model->spec, *model->weights, text);
    const std::string& name = model->spec.architecture;
    for (const auto what : {RotationOptions::What::heads, RotationOptions::What::residual, RotationOptions::What::all}) {
        auto rotation = Rotation::plan(*model, {what, 5});
        const bool layer_norm = name == "gpt2" || name == "gpt_neox" || name == "opt", norms_what_is_added = name.starts_with("gemma");
        if (what != RotationOptions::What::heads && (layer_norm || norms_what_is_added)) {
            ASSERT_FALSE(rotation.ok());
            EXPECT_NE(rotation.error().message.find("cannot be rotated: "), std::string::npos) << rotation.error().message;
            continue;
        }
        ASSERT_TRUE(rotation.ok()) << rotation.error().to_string();
        auto spec = build_spec(rotation->config(model->config));
        ASSERT_TRUE(spec.ok());
        const RotatedWeights weights(*rotation, model->weights);
        EXPECT_LT(largest_difference(before, logits_of(*spec, weights, text)), 2e-3);
        bool differs = false;
        for (const auto& [key, declared] : model->spec.tensors) differs = differs || rotation->of(key) != nullptr;
        EXPECT_TRUE(differs);
    }
}

INSTANTIATE_TEST_SUITE_P(AllModels, RotatedModels, ::testing::ValuesIn(small_model_folders()), [](const auto& named) { return std::filesystem::path(named.param).filename().string(); });

}  // namespace
}  // namespace skiff
