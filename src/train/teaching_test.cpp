// A teacher's lessons as a run has them: projections between widths are trained, go on after an interruption and are no part of the model; a file of its word goes on
// inside a batch; a pass that leaves a block out says nothing of what is inside it.
#include "train/train_testing.h"

#include <cmath>
#include <functional>

#include "corpus/corpus_testing.h"
#include "corpus/token_file_header.h"
#include "train/distillation_loss.h"
#include "train/objective.h"
#include "train/optimizer.h"
#include "train/teacher_cache.h"
#include "train/train_state.h"

namespace skiff::train {
namespace {

constexpr std::int64_t window = 12, n_vocab = 97;

Batches some_batches(const TestFolder& folder) {
    TokenFileHeader header(n_vocab, 7);
    std::vector<std::uint16_t> ids(500);
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::uint16_t>(i * i % 89 + i % 7);
    header.n_tokens = ids.size();
    header.n_documents = 1;
    Batches::Settings settings;
    settings.files = {folder.write("some.tokens", std::string(reinterpret_cast<const char*>(&header), sizeof header) + std::string(reinterpret_cast<const char*>(ids.data()), ids.size() * 2))};
    settings.window = window;
    settings.n_vocab = n_vocab;
    auto batches = Batches::open(settings, nullptr, {}, {}, 1);
    EXPECT_TRUE(batches.ok()) << (batches.ok() ? "" : batches.error().to_string());
    return std::move(*batches);
}

std::unique_ptr<TrainableModel> student_of(const std::string& name) {
    const TinyCase tiny = open_tiny_model(name);
    return make_trainable(tiny.spec, load_parameters(tiny.spec, tiny.weights));
}

struct Lesson {
    TestFolder folder;
    Batches batches = some_batches(folder);
    TrainOptions options;
    std::unique_ptr<TrainableModel> student;
    std::unique_ptr<Objective> objective;

    explicit Lesson(const std::function<void(TrainOptions&)>& change, const std::string& teacher = "qwen3", const std::string& name = "llama") : student(student_of(name)) {  // 24 and 20 wide
        options.distill.teacher = tiny_model_path(teacher);
        options.n_steps = 4;
        options.batch = 4;
        change(options);
        auto made = distillation_objective(*student, batches, options, window, {});
        EXPECT_TRUE(made.ok()) << (made.ok() ? "" : made.error().to_string());
        objective = std::move(*made);
    }
    MicroBatch batch(std::uint64_t first, std::int64_t n = 4, SubNetwork part = {}) {
        const at::Tensor tokens = batches.shuffled(first, n);
        MicroBatch result{tokens.narrow(1, 0, window), tokens.narrow(1, 1, window), first, 1.0 / static_cast<double>(4 * window)};
        result.network = std::move(part);
        return result;
    }
    double learn(std::uint64_t first, std::int64_t n = 4, SubNetwork part = {}) {
        const auto loss = objective->add_gradients(batch(first, n, std::move(part)));
        EXPECT_TRUE(loss.ok()) << (loss.ok() ? "" : loss.error().to_string());
        return loss.ok() ? *loss : NAN;
    }
    std::vector<ParameterSet::Trained> trained() const {
        auto all = student->parameters().trained(student->spec());
        for (auto& more : objective->trained()) all.push_back(std::move(more));
        return all;
    }
};
void by_hidden_states(TrainOptions& options) { options.distill.hidden_weight = 2; }

TEST(Projections, HaveTheGradientOfDifferences) {
    Lesson lesson(by_hidden_states);
    const auto projections = lesson.objective->trained();
    ASSERT_EQ(projections.size(), 2u);  // one for each of the student's blocks
    lesson.learn(0);
    std::vector<at::Tensor> gradients;
    for (const auto& projection : projections) {
        ASSERT_EQ(projection.value.sizes(), (std::vector<std::int64_t>{24, 20}));
        ASSERT_TRUE(projection.value.grad().defined()) << projection.name;
        gradients.push_back(projection.value.grad().clone());
    }
    for (std::size_t i = 0; i < projections.size(); ++i) {
        const auto& projection = projections[i];
        const at::Tensor &gradient = gradients[i], direction = gradient / gradient.norm();
        EXPECT_GT(gradient.norm().item<double>(), 0);
        const auto loss_at = [&](double along) {
            const at::NoGradGuard no_grad;
            at::Tensor value = projection.value;
            value.add_(direction, along);
            double loss = 0;
            {
                const at::AutoGradMode with_grad(true);
                loss = lesson.learn(0);
            }
            value.sub_(direction, along);
            return loss;
        };
        const double expected = gradient.norm().item<double>();
        EXPECT_NEAR((loss_at(1e-2) - loss_at(-1e-2)) / 2e-2, expected, 0.02 * expected) << projection.name;
    }
}

TEST(Projections, AreTrainedGoOnAndAreNoPartOfTheModel) {
    Lesson lesson(by_hidden_states), again(by_hidden_states);
    const at::Tensor before = lesson.objective->trained()[0].value.detach().clone();
    EXPECT_TRUE(before.equal(again.objective->trained()[0].value.detach())) << "they begin by the seed";
    const auto trained = lesson.trained(), trained_again = again.trained();
    Optimizer optimizer(trained, {}), optimizer_again(trained_again, {});
    const auto step = [](Lesson& of, Optimizer& by, std::int64_t at) {
        const double loss = of.learn(static_cast<std::uint64_t>(4 * at));
        by.step(1e-2, at + 1, by.gradient_norm());
        return loss;
    };
    for (std::int64_t at = 0; at < 3; ++at) step(lesson, optimizer, at);
    EXPECT_GT((lesson.objective->trained()[0].value.detach() - before).abs().max().item<double>(), 1e-3);
    // The state holds them: a run that goes on takes the same next step.
    ASSERT_TRUE(save_state(lesson.folder.path(""), state_tensors(trained, optimizer), 3, "run").ok());
    const auto resumed = load_state(lesson.folder.path(""), state_tensors(trained_again, optimizer_again), "run");
    ASSERT_TRUE(resumed.ok()) << resumed.error().to_string();
    EXPECT_EQ(**resumed, 3);
    EXPECT_EQ(step(lesson, optimizer, 3), step(again, optimizer_again, 3));
    for (std::size_t i = 0; i < trained.size(); ++i) EXPECT_TRUE(trained[i].value.equal(trained_again[i].value)) << trained[i].name;
    for (const std::string& key : lesson.student->parameters().source({})->keys()) EXPECT_EQ(key.find("projection"), std::string::npos) << key;
    EXPECT_EQ(lesson.student->parameters().source({})->keys().size(), open_tiny_model("llama").weights.tensors.size());
}

// 10 windows are in the file, and a batch has 8 to 15: the five that lack are added, and all are what a teacher beside would say.
TEST(TeacherCacheFile, GoesOnInsideABatch) {
    TestFolder place;
    const auto with_file = [&](TrainOptions& options) {
        options.distill.cache = place.path("teacher.cache");
        options.distill.cache_top = 96;
        options.n_steps = 8;
    };
    {
        Lesson lesson(with_file);
        lesson.learn(0, 5);
        lesson.learn(5, 5);
    }
    {
        Lesson lesson(with_file);
        EXPECT_TRUE(std::isfinite(lesson.learn(0, 8)));
        EXPECT_TRUE(std::isfinite(lesson.learn(8, 8)));
    }
    Lesson lesson(with_file), beside([](TrainOptions&) {});
    for (const std::uint64_t begin : {0u, 4u, 8u, 12u}) EXPECT_NEAR(lesson.learn(begin), beside.learn(begin), 2e-3) << begin;
    // One window further than the file goes is a hole.
    const auto hole = lesson.objective->add_gradients(lesson.batch(17));
    ASSERT_FALSE(hole.ok());
    EXPECT_NE(hole.error().to_string().find("fewer windows"), std::string::npos);
}

TEST(RelationLoss, SaysNothingOfABlockThatIsLeftOut) {
    Lesson lesson([](TrainOptions& options) { options.distill.attention_weight = 1; }, "llama_biases");
    const double whole = lesson.learn(0);
    const double without_last = lesson.learn(0, 4, {DroppedBlocks{false, true}}), without_first = lesson.learn(0, 4, {DroppedBlocks{true, false}});
    Lesson plain([](TrainOptions&) {}, "llama_biases");
    EXPECT_GT(whole, plain.learn(0) + 1e-6);
    EXPECT_NEAR(without_last, plain.learn(0, 4, {DroppedBlocks{false, true}}), 1e-9);
    EXPECT_GT(without_first, plain.learn(0, 4, {DroppedBlocks{true, false}}) + 1e-6);
}

}  // namespace
}  // namespace skiff::train
