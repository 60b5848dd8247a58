// On-policy distillation: the tokens are the student's, and the loss is the teacher's word on them alone.
#include "train/train_testing.h"

#include "corpus/corpus_testing.h"
#include "corpus/token_file_header.h"
#include "runtime/sampler.h"
#include "train/distillation_loss.h"
#include "train/objective.h"
#include "train/student_text.h"

namespace skiff::train {
namespace {

std::unique_ptr<TrainableModel> tiny(const char* name) {
    const TinyCase tiny = open_tiny_model(name);
    return make_trainable(tiny.spec, load_parameters(tiny.spec, tiny.weights));
}
at::Tensor some_windows() { return (at::arange(3 * 20, at::kLong) * 37 + 5).remainder(64).view({3, 20}); }

// Each token is what the window's own random numbers draw from the trainer's logits of all before it.
TEST(StudentText, IsDrawnFromTheStudent) {
    const auto model = tiny("llama");
    StudentText text(*model, {6, 11, 1});
    const at::Tensor windows = some_windows();
    auto found = text.continued(windows, 40, 0);
    ASSERT_TRUE(found.ok()) << found.error().to_string();
    EXPECT_TRUE(found->narrow(1, 0, 6).equal(windows.narrow(1, 0, 6)));
    EXPECT_FALSE(found->equal(windows));
    const at::NoGradGuard no_grad;
    const at::Tensor logits = model->logits(*found).view({3, 20, -1}).contiguous();
    const std::int64_t n_vocab = logits.size(2);
    std::int64_t n_other = 0;
    for (std::int64_t i = 0; i < 3; ++i) {
        Sampler sampler({.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0, .seed = text.seed_of(40 + static_cast<std::uint64_t>(i))});
        for (std::int64_t t = 6; t < 20; ++t) {
            auto token = sampler.sample(std::span<const float>(logits.data_ptr<float>() + (i * 20 + t - 1) * n_vocab, static_cast<std::size_t>(n_vocab)));
            ASSERT_TRUE(token.ok());
            n_other += *token != (*found)[i][t].item<std::int64_t>();
        }
    }
    EXPECT_LE(n_other, 1) << "a random number at the border of two tokens may tell rounding apart";

    StudentText again(*model, {6, 11, 2}), other_seed(*model, {6, 12, 1});
    EXPECT_TRUE(again.continued(windows, 40, 3)->equal(*found));
    EXPECT_TRUE(again.continued(windows.narrow(0, 1, 2), 41, 3)->equal(found->narrow(0, 1, 2))) << "whatever is written beside it";
    EXPECT_FALSE(other_seed.continued(windows, 40, 0)->equal(*found));
    // New weights, a new text: from the next step on.
    for (Parameter& parameter : model->parameters().all()) parameter.value.mul_(1.5);
    EXPECT_TRUE(text.continued(windows, 40, 0)->equal(*found));
    EXPECT_FALSE(text.continued(windows, 40, 1)->equal(*found));
}

class OnPolicy : public ::testing::Test {
protected:
    void SetUp() override {
        TokenFileHeader header(64, 7);
        std::vector<std::uint16_t> ids(200);
        for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::uint16_t>(i * 7 % 64);
        header.n_tokens = ids.size();
        header.n_documents = 1;
        Batches::Settings settings;
        settings.files = {folder_.write("a.tokens", std::string(reinterpret_cast<const char*>(&header), sizeof header) + std::string(reinterpret_cast<const char*>(ids.data()), ids.size() * 2))};
        settings.window = 19;
        settings.n_vocab = 64;
        auto batches = Batches::open(settings, nullptr, {}, {}, 1);
        ASSERT_TRUE(batches.ok()) << batches.error().to_string();
        batches_.emplace(std::move(*batches));
        options_.distill.teacher = tiny_model_path("llama");
        options_.distill.divergence = Divergence::reverse_kl;
        options_.distill.alpha = 0.4;
        options_.distill.on_policy_prompt = 5;
        options_.seed = 3;
    }
    TestFolder folder_;
    std::optional<Batches> batches_;
    TrainOptions options_;
};

TEST_F(OnPolicy, LearnsTheTeachersWordOnTheStudentsTokens) {
    options_.distill.on_policy = 1;
    const auto model = tiny("llama_tied_bf16"), other = tiny("llama_tied_bf16"), teacher = tiny("llama");
    auto objective = distillation_objective(*model, *batches_, options_, 19, {});
    ASSERT_TRUE(objective.ok()) << objective.error().to_string();
    const at::Tensor windows = some_windows();
    auto found = (*objective)->add_gradients({windows.narrow(1, 0, 19), windows.narrow(1, 1, 19), 6, 1.0 / 57, {}, 2, 0});
    ASSERT_TRUE(found.ok()) << found.error().to_string();

    StudentText text(*other, {5, 3, 1});
    const at::Tensor written = *text.continued(windows, 6, 2);
    at::Tensor targets = written.narrow(1, 1, 19).clone();
    targets.narrow(1, 0, 4).fill_(-1);
    at::Tensor soft;
    {
        const at::NoGradGuard no_grad;
        soft = teacher->logits(written.narrow(1, 0, 19));
    }
    const LogitsLoss loss = [&](const at::Tensor& logits, std::int64_t first) {
        return distillation_loss(logits, SoftTargets{soft, {}, {}}.rows(first, logits.size(0)), targets.reshape({-1}).narrow(0, first, logits.size(0)), {Divergence::reverse_kl, 1, 1, 0.5}, 1.0 / 45);
    };
    const double expected = other->add_gradients(written.narrow(1, 0, 19), loss, {}, {}, nullptr);
    EXPECT_GT(expected, 0);
    EXPECT_NEAR(*found, expected, 1e-5 * expected);
    for (const Parameter& parameter : other->parameters().all())
        EXPECT_LT(relative_difference(model->parameters().find(parameter.key)->value.grad(), parameter.value.grad()), 1e-4) << parameter.key;
}

TEST_F(OnPolicy, AShareOfTheMicroBatches) {
    const auto model = tiny("llama");  // its own teacher: nothing to learn but labels
    for (const auto& [share, expected] : {std::pair(0.0, 0), {0.25, 2}, {0.5, 4}, {1.0, 8}}) {
        options_.distill.on_policy = share;
        auto objective = distillation_objective(*model, *batches_, options_, 19, {});
        ASSERT_TRUE(objective.ok()) << objective.error().to_string();
        int without_labels = 0;
        for (std::uint64_t i = 0; i < 8; ++i) {
            auto loss = (*objective)->add_gradients({some_windows().narrow(1, 0, 19), some_windows().narrow(1, 1, 19), i * 3, 1.0 / 57, {}, 0, 0});
            ASSERT_TRUE(loss.ok());
            without_labels += std::abs(*loss) < 1e-4;
        }
        EXPECT_EQ(without_labels, expected) << share;
    }
    options_.distill.on_policy_prompt = 19;
    EXPECT_FALSE(distillation_objective(*model, *batches_, options_, 19, {}).ok());
}

}  // namespace
}  // namespace skiff::train
