// Losses of distillation against composed ones in f64 and against differences; the file of a teacher's word; students made of a teacher's layers.
#include "train/train_testing.h"

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include <torch/csrc/autograd/autograd.h>

#include "model/layer_selection.h"
#include "train/distillation_loss.h"
#include "train/objective.h"
#include "train/optimizer.h"
#include "train/teacher_cache.h"

namespace skiff::train {
namespace {

struct LossCase {
    Divergence divergence;
    double temperature, alpha;
    std::int64_t n_vocab, top;  // top 0: the teacher's whole distribution
    at::ScalarType numbers;
};
std::vector<LossCase> loss_cases() {
    std::vector<LossCase> cases;
    for (const Divergence divergence : {Divergence::forward_kl, Divergence::reverse_kl, Divergence::jsd})
        for (const auto& [temperature, alpha] : {std::pair(1.0, 1.0), {2.0, 0.6}, {0.7, 0.0}, {4.0, 1.0}})
            for (const std::int64_t n_vocab : {2, 37, 515})
                for (const std::int64_t top : {0, 1, 20})
                    if (top < n_vocab)
                        for (const at::ScalarType numbers : {at::kFloat, at::kBFloat16}) cases.push_back({divergence, temperature, alpha, n_vocab, top, numbers});
    return cases;
}

TEST(DistillationLoss, IsTheComposedOneAndSoIsItsGradient) {
    at::manual_seed(5);
    constexpr std::int64_t n = 9;
    for (const LossCase& c : loss_cases()) {
        SCOPED_TRACE(testing::Message() << "divergence " << static_cast<int>(c.divergence) << ", T " << c.temperature << ", alpha " << c.alpha << ", " << c.n_vocab << " tokens, top " << c.top << ", "
                                        << c.numbers);
        const at::Tensor narrow = (at::randn({n, c.n_vocab}) * 2).to(c.numbers), x = narrow.to(at::kDouble).requires_grad_(true);
        const at::Tensor teacher = at::randn({n, c.n_vocab}) * 3;
        at::Tensor targets = at::randint(c.n_vocab, {n}, at::kLong);
        targets[4] = -1;
        const SoftTargets soft = c.top == 0 ? SoftTargets{teacher, {}, {}} : top_targets(teacher, c.temperature, c.top);
        const DistillLossSettings settings{c.divergence, c.temperature, c.alpha, 0.3};
        const at::Tensor expected = distillation_loss(x, soft, targets, settings, 0.25, Form::composed);
        torch::autograd::backward({expected});
        at::Tensor leaf = narrow.clone().requires_grad_(true);
        const at::Tensor found = distillation_loss(leaf.clone(), soft, targets, settings, 0.25);
        torch::autograd::backward({found});
        const double tolerance = c.numbers == at::kFloat ? 2e-5 : 1e-2;
        EXPECT_NEAR(found.item<double>(), expected.item<double>(), 2e-5 * std::max(1.0, std::fabs(expected.item<double>())));
        EXPECT_LT((leaf.grad().to(at::kDouble) - x.grad()).abs().max().item<double>(), tolerance * std::max(1e-2, x.grad().abs().max().item<double>()));
        EXPECT_EQ(leaf.grad()[4].abs().max().item<double>(), 0) << "a token that does not count";
        // Along a direction, by differences.
        const at::NoGradGuard no_grad;
        const at::Tensor direction = at::randn({n, c.n_vocab}, at::kDouble);
        const double step = 1e-5;
        const double slope = (distillation_loss(x + step * direction, soft, targets, settings, 0.25, Form::composed).item<double>() -
                              distillation_loss(x - step * direction, soft, targets, settings, 0.25, Form::composed).item<double>()) /
                             (2 * step);
        EXPECT_NEAR((x.grad() * direction).sum().item<double>(), slope, 1e-5 * std::max(1.0, std::fabs(slope)));
    }
}

// All but one token by name say what the whole distribution says: the rest is that token.
TEST(DistillationLoss, TheTopOfAllIsTheWhole) {
    at::manual_seed(6);
    const at::Tensor student = at::randn({5, 12}), teacher = at::randn({5, 12}), targets = at::randint(12, {5}, at::kLong);
    for (const Divergence divergence : {Divergence::forward_kl, Divergence::reverse_kl, Divergence::jsd}) {
        const DistillLossSettings settings{divergence, 1.5, 0.8, 0.5};
        EXPECT_NEAR(distillation_loss(student.clone(), {teacher, {}, {}}, targets, settings, 1).item<double>(),
                    distillation_loss(student.clone(), top_targets(teacher, 1.5, 11), targets, settings, 1).item<double>(), 1e-4);
    }
}

// Of equals nothing is lost, whatever the divergence; and the square of the temperature keeps the gradient's size: for nearly equal logits it is that of
// half the squared difference of the centred logits over the vocabulary (Hinton et al. 2015, equation 4).
TEST(DistillationLoss, AtTheEdges) {
    const at::Tensor logits = at::randn({3, 40}), targets = at::zeros({3}, at::kLong);
    for (const Divergence divergence : {Divergence::forward_kl, Divergence::reverse_kl, Divergence::jsd})
        EXPECT_NEAR(distillation_loss(logits.clone(), {logits, {}, {}}, targets, {divergence, 2, 1, 0.5}, 1).item<double>(), 0, 1e-5);
    at::Tensor student = at::zeros({1, 40}).requires_grad_(true);
    const at::Tensor teacher = at::randn({1, 40}), centred = teacher - teacher.mean();
    torch::autograd::backward({distillation_loss(student.clone(), {teacher, {}, {}}, at::zeros({1}, at::kLong), {Divergence::forward_kl, 1000, 1, 0.5}, 1)});
    EXPECT_LT((student.grad() * 40 + centred).abs().max().item<double>(), 1e-2);
}

TEST(InsideLosses, ByDifferences) {
    at::manual_seed(7);
    const at::Tensor own = at::randn({12, 12}, at::kDouble).requires_grad_(true), theirs = at::randn({12, 18}, at::kDouble), same = at::randn({12, 12}, at::kDouble);
    const std::function<at::Tensor(const at::Tensor&)> losses[] = {[&](const at::Tensor& x) { return relation_loss(x, theirs, 6, 3); }, [&](const at::Tensor& x) { return relative_square(x, same); }};
    for (const auto& loss : losses) {
        own.mutable_grad() = at::Tensor();
        torch::autograd::backward({loss(own)});
        const at::NoGradGuard no_grad;
        const at::Tensor direction = at::randn({12, 12}, at::kDouble);
        const double slope = (loss(own + 1e-5 * direction).item<double>() - loss(own - 1e-5 * direction).item<double>()) / 2e-5;
        EXPECT_NEAR((own.grad() * direction).sum().item<double>(), slope, 1e-6 * std::max(1.0, std::fabs(slope)));
    }
    EXPECT_NEAR(relation_loss(own, own.detach(), 6, 3).item<double>(), 0, 1e-12);
    // By hand: one sequence of two tokens, one head of width one: the second token looks at both, exp(x2 x1), exp(x2 x2).
    const at::Tensor a = at::tensor({1.0, 2.0}, at::kDouble).view({2, 1}), b = at::tensor({1.0, -1.0}, at::kDouble).view({2, 1});
    const double p = 1 / (1 + std::exp(1.0 - -1.0)), q = 1 / (1 + std::exp(4.0 - 2.0));  // of the first token, in b and in a
    EXPECT_NEAR(relation_loss(a, b, 2, 1).item<double>(), (p * std::log(p / q) + (1 - p) * std::log((1 - p) / (1 - q))) / 2, 1e-12);
    EXPECT_NEAR(relative_square(at::tensor({1.0, 2.0}), at::tensor({0.0, 2.0})).item<double>(), 0.25, 1e-7);
}

// ---- the file

struct CacheFile {
    std::string path = (std::filesystem::temp_directory_path() / ("skiff_teacher_" + std::to_string(::getpid()) + ".cache")).string();
    CacheFile() { std::filesystem::remove(path); }
    ~CacheFile() { std::filesystem::remove(path); }
};
TeacherCacheKey some_key() { return {"teacher", "corpus", 1000, 1, 4, 50, 5, 2.0}; }

TEST(TeacherCacheFile, GivesBackWhatItTook) {
    const CacheFile file;
    at::manual_seed(8);
    const SoftTargets first = top_targets(at::randn({8, 50}) * 4, 2, 5), second = top_targets(at::randn({4, 50}) * 4, 2, 5);
    {
        auto cache = TeacherCache::open(file.path, some_key());
        ASSERT_TRUE(cache.ok()) << cache.error().to_string();
        EXPECT_EQ(cache->n_windows(), 0u);
        ASSERT_TRUE(cache->append(first).ok());
        ASSERT_TRUE(cache->append(second).ok());
        EXPECT_FALSE(TeacherCache::open(file.path, some_key()).ok()) << "two at once";
    }
    std::filesystem::resize_file(file.path, std::filesystem::file_size(file.path) - 1);  // killed while the last window was written
    auto cache = TeacherCache::open(file.path, some_key());
    ASSERT_TRUE(cache.ok());
    ASSERT_EQ(cache->n_windows(), 2u);
    ASSERT_TRUE(cache->append(second).ok());
    const auto back = cache->read(0, 3);
    ASSERT_TRUE(back.ok()) << back.error().to_string();
    EXPECT_TRUE(back->tokens.equal(at::cat({first.tokens, second.tokens})));
    EXPECT_LT((back->log_probabilities - at::cat({first.log_probabilities, second.log_probabilities})).abs().max().item<double>(), 0.01);
    EXPECT_LT((back->log_probabilities.exp().sum(1) - 1).abs().max().item<double>(), 1e-5);
}

TEST(TeacherCacheFile, RefusesWhatBelongsToAnotherRun) {
    const CacheFile file;
    ASSERT_TRUE(TeacherCache::open(file.path, some_key()).ok());
    TeacherCacheKey others[] = {some_key(), some_key(), some_key(), some_key(), some_key(), some_key(), some_key(), some_key()};
    others[0].teacher_hash = "another";
    others[1].corpus_hash = "another";
    others[2].n_tokens = 1001;
    others[3].seed = 2;
    others[4].window = 8;
    others[5].n_vocab = 51;
    others[6].k = 6;
    others[7].temperature = 1;
    for (const TeacherCacheKey& other : others) {
        const auto cache = TeacherCache::open(file.path, other);
        ASSERT_FALSE(cache.ok());
        EXPECT_NE(cache.error().message.find("another run"), std::string::npos) << cache.error().message;
    }
    {
        std::fstream bytes(file.path, std::ios::in | std::ios::out | std::ios::binary);
        bytes.seekp(4096);
        for (int i = 0; i < 4 * (2 * 6 + 2 * 5); ++i) bytes.put('\x3c');  // log-probabilities of 1.06
    }
    const auto cache = TeacherCache::open(file.path, some_key());
    ASSERT_TRUE(cache.ok());
    EXPECT_FALSE(cache->read(0, 1).ok());
    std::ofstream(file.path, std::ios::trunc) << "text";
    EXPECT_FALSE(TeacherCache::open(file.path, some_key()).ok());
}

// ---- students of a teacher's layers

std::vector<std::string> case_names() {
    std::vector<std::string> names;
    auto list = read_json_file(tiny_model_path("index.json"));
    if (list.ok())
        for (const Json& name : list->items()) names.push_back(name.text());
    return names;
}
at::Tensor some_tokens() { return at::tensor({1, 5, 9, 33, 60, 7, 8, 21, 40, 3, 2, 50, 17, 5, 9, 34, 61, 11, 12, 1}, at::kLong).view({1, 20}); }

class LayersOf : public ::testing::TestWithParam<std::string> {};

// The selection computes what the whole model computes when it leaves the other blocks out.
TEST_P(LayersOf, ComputeAsIfTheOthersWereLeftOut) {
    auto checkpoint = Checkpoint::open(tiny_model_path(GetParam()));
    ASSERT_TRUE(checkpoint.ok());
    const auto whole = make_trainable(checkpoint->spec, load_parameters(checkpoint->spec, *checkpoint->weights));
    const std::int64_t n = checkpoint->spec.n_layers;
    const at::NoGradGuard no_grad;
    for (std::int64_t kept = 0; kept < n; ++kept) {
        auto child = select_layers(*checkpoint, {kept});
        if (!child.ok()) {
            EXPECT_NE(child.error().to_string().find("block"), std::string::npos) << child.error().to_string();  // blocks that the config tells apart by their place
            continue;
        }
        EXPECT_EQ(child->spec.n_layers, 1);
        const auto model = make_trainable(child->spec, load_parameters(child->spec, *child->weights));
        DroppedBlocks dropped(static_cast<std::size_t>(n), true);
        dropped[static_cast<std::size_t>(kept)] = false;
        EXPECT_LT(relative_difference(model->logits(some_tokens()), whole->head(whole->observe(some_tokens(), {}, {dropped}).hidden)), 1e-5) << "layer " << kept;
    }
}
INSTANTIATE_TEST_SUITE_P(Cases, LayersOf, ::testing::ValuesIn(case_names()), [](const auto& param) { return param.param; });

TEST(Layers, AreNamed) {
    auto list = [](const char* text) {
        auto layers = parse_layers(text, 6);
        return layers.ok() ? *layers : std::vector<std::int64_t>{-1};
    };
    EXPECT_EQ(list("0,2,4"), (std::vector<std::int64_t>{0, 2, 4}));
    EXPECT_EQ(list("every-other"), (std::vector<std::int64_t>{0, 2, 4}));
    EXPECT_EQ(list("first-2"), (std::vector<std::int64_t>{0, 1}));
    EXPECT_EQ(list("5"), (std::vector<std::int64_t>{5}));
    for (const char* wrong : {"", "6", "2,1", "1,1", "0,", "first-0", "first-7", "first-1,2", "all", "-1", "0;1"}) EXPECT_FALSE(parse_layers(wrong, 6).ok()) << wrong;
    EXPECT_EQ(matched_streams(3, 6), (std::vector<std::int64_t>{2, 4, 6}));
    EXPECT_EQ(matched_streams(4, 8), (std::vector<std::int64_t>{2, 4, 6, 8}));
    EXPECT_EQ(matched_streams(2, 3), (std::vector<std::int64_t>{2, 3}));
    EXPECT_EQ(matched_streams(3, 2), (std::vector<std::int64_t>{1, 1, 2}));
}

}  // namespace
}  // namespace skiff::train
