// Factors against their definition, ranks by every rule, and every method on every architecture that the tests hold.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "base/atomic_file.h"
#include "base/hash.h"
#include "base/mapped_file.h"
#include "base/rng.h"
#include "compress/algebra/algebra.h"
#include "compress/calibrate/observe_inputs.h"
#include "compress/calibrate/walk.h"
#include "compress/lowrank/factor.h"
#include "compress/lowrank/ranks.h"
#include "compress/pipeline.h"
#include "plan/session.h"

namespace skiff {
namespace {

class LowRank : public ::testing::Test {
protected:
    void SetUp() override {
        if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
    }
};

struct Problem {
    std::vector<float> w, x;
    InputStatistics inputs;
};

Problem random_problem(std::int64_t n_rows, std::int64_t n, std::uint64_t seed) {
    Rng rng(seed);
    Problem problem;
    for (std::int64_t i = 0; i < n_rows * n; ++i) problem.w.push_back(rng.normal());
    for (std::int64_t t = 0; t < 6 * n; ++t) {
        const float common = rng.normal();
        for (std::int64_t i = 0; i < n; ++i) problem.x.push_back((rng.normal() + common) * (i % 5 == 0 ? 4.0f : 0.5f));
    }
    ThreadPool pool(1);
    InputObserver observer(n, StatisticsNeed::gram);
    observer.add(problem.x, pool);
    problem.inputs = observer.finish();
    return problem;
}

double output_error(const Problem& problem, std::size_t n, const std::vector<float>& instead) {
    double sum = 0;
    const std::size_t n_rows = problem.w.size() / n, n_tokens = problem.x.size() / n;
    for (std::size_t t = 0; t < n_tokens; ++t)
        for (std::size_t row = 0; row < n_rows; ++row) {
            double difference = 0;
            for (std::size_t i = 0; i < n; ++i) difference += static_cast<double>(problem.w[row * n + i] - instead[row * n + i]) * static_cast<double>(problem.x[t * n + i]);
            sum += difference * difference;
        }
    return sum / static_cast<double>(n_tokens);
}

TEST_F(LowRank, FullRankIsTheWeightAndTheLossIsWhatTheValuesSay) {
    ThreadPool pool(2);
    for (const auto& [n_rows, n] : {std::pair<std::int64_t, std::int64_t>{20, 30}, {30, 20}, {17, 17}}) {
        const Problem problem = random_problem(n_rows, n, 4);
        for (const FactorMethod& method : factor_methods()) {
            SCOPED_TRACE(std::string(method.name) + " " + std::to_string(n_rows));
            auto factors = method.factor(problem.w, n_rows, &problem.inputs, pool);
            ASSERT_TRUE(factors.ok()) << factors.error().to_string();
            const std::int64_t full = std::min(n_rows, n);
            ASSERT_EQ(static_cast<std::int64_t>(factors->values.size()), full);
            const auto whole = product_of(thin_pair(*factors, problem.w, full, pool), n_rows, n, pool);
            for (std::size_t i = 0; i < whole.size(); ++i) EXPECT_NEAR(whole[i], problem.w[i], 2e-5);
            if (method.name != "svd-llm") continue;
            for (const std::int64_t rank : {1, 5, 12}) {
                double behind = 0;
                for (std::size_t i = static_cast<std::size_t>(rank); i < factors->values.size(); ++i) behind += factors->values[i] * factors->values[i];
                const double lost = output_error(problem, static_cast<std::size_t>(n), product_of(thin_pair(*factors, problem.w, rank, pool), n_rows, n, pool));
                EXPECT_NEAR(lost, behind, 1e-3 * behind);
            }
        }
    }
}

TEST_F(LowRank, MethodsThatSeeTheInputsLoseLess) {
    ThreadPool pool(1);
    const Problem problem = random_problem(24, 32, 5);
    std::map<std::string, double> lost;
    for (const FactorMethod& method : factor_methods()) {
        auto factors = method.factor(problem.w, 24, &problem.inputs, pool);
        ASSERT_TRUE(factors.ok());
        lost[std::string(method.name)] = output_error(problem, 32, product_of(thin_pair(*factors, problem.w, 8, pool), 24, 32, pool));
    }
    EXPECT_LT(lost["svd-llm"], 0.9 * lost["asvd"]);
    EXPECT_LT(lost["asvd"], 0.9 * lost["svd"]);
    auto blind = find_factor_method("svd-llm");
    ASSERT_TRUE(blind.ok());
    EXPECT_EQ((*blind)->factor(problem.w, 24, nullptr, pool)->values, (*find_factor_method("svd"))->factor(problem.w, 24, nullptr, pool)->values);
    EXPECT_FALSE(find_factor_method("qr").ok());
}

TEST_F(LowRank, RanksByEveryRule) {
    using Rule = FactorizeStep::Rule;
    RankCandidate square{64, 64, {}, 1}, wide{64, 256, {}, 1};
    for (int i = 0; i < 64; ++i) {
        square.energy.push_back(std::pow(0.5, i));
        wide.energy.push_back(1);
    }
    const RankCandidate weights[] = {square, wide};
    auto ranks = [&](Rule rule, double amount, std::int64_t multiple = 8) {
        FactorizeStep step;
        step.rule = rule;
        step.amount = amount;
        step.multiple_of = multiple;
        return choose_ranks(step, weights);
    };
    using Ranks = std::vector<std::int64_t>;
    EXPECT_EQ(ranks(Rule::rank, 16), (Ranks{16, 16}));
    EXPECT_EQ(ranks(Rule::rank, 40), (Ranks{0, 40}));  // 40 * 128 is more than 64 * 64
    EXPECT_EQ(ranks(Rule::share, 0.5), (Ranks{0, 32}));  // 32 * 128 is just as much
    EXPECT_EQ(ranks(Rule::share, 1), (Ranks{0, 0}));
    EXPECT_EQ(ranks(Rule::remove, 0), (Ranks{0, 0}));
    EXPECT_EQ(ranks(Rule::remove, 0.5), (Ranks{16, 24}));
    EXPECT_EQ(ranks(Rule::remove, 0.5, 1), (Ranks{16, 25}));
    EXPECT_EQ(ranks(Rule::energy, 0.9), (Ranks{8, 0}));
    EXPECT_EQ(ranks(Rule::energy, 0.9, 1), (Ranks{4, 0}));
    // What the smallest multiple lifts above what was asked for is counted; a budget that even the smallest ranks exceed is an error.
    const auto above = [&](Rule rule, double amount) {
        FactorizeStep step;
        step.rule = rule;
        step.amount = amount;
        step.multiple_of = 8;
        return n_ranks_above(step, weights, choose_ranks(step, weights));
    };
    EXPECT_EQ(above(Rule::rank, 16), 0);
    EXPECT_EQ(above(Rule::rank, 3), 2);
    EXPECT_EQ(above(Rule::remove, 0.5), 0);
    EXPECT_EQ(above(Rule::remove, 0.9), 2);  // ranks of 3.2 and 5.1
    EXPECT_EQ(above(Rule::energy, 0.9), 0);
    const auto within = [&](double amount, std::int64_t multiple) {
        FactorizeStep step;
        step.rule = Rule::budget;
        step.amount = amount;
        step.multiple_of = multiple;
        return check_budget(step, weights);
    };
    EXPECT_TRUE(within(0.5, 8).ok());
    EXPECT_TRUE(within(0.9, 1).ok());
    ASSERT_FALSE(within(0.9, 8).ok());  // 8 * 128 and 8 * 320 of 4096 and 16384: 82.5 % go at most
    EXPECT_NE(within(0.9, 8).error().message.find("82.5 %"), std::string::npos) << within(0.9, 8).error().message;
    EXPECT_NE(within(0.9, 8).error().message.find("--multiple"), std::string::npos);
    // The budget comes out of the square one: its energy sits in few values. Half of all is more than it has.
    EXPECT_EQ(ranks(Rule::budget, 0), (Ranks{0, 0}));
    const Ranks some = ranks(Rule::budget, 0.1), half = ranks(Rule::budget, 0.5);
    EXPECT_GT(some[0], 0);
    EXPECT_EQ(some[1], 0);
    EXPECT_GT(half[1], 0);
    for (const auto& [chosen, share] : {std::pair{some, 0.9}, std::pair{half, 0.5}}) {
        std::int64_t size = 0;
        for (std::size_t i = 0; i < 2; ++i) size += chosen[i] > 0 ? factor_size(weights[i], chosen[i]) : weights[i].n_rows * weights[i].n_columns;
        EXPECT_LE(static_cast<double>(size), share * (64 * 64 + 64 * 256));
    }
}

std::vector<std::string> model_folders() {
    std::vector<std::string> folders;
    for (const auto& entry : std::filesystem::directory_iterator(std::string(SKIFF_TEST_DATA_DIR) + "/models"))
        if (entry.is_directory() && std::filesystem::exists(entry.path() / "model.safetensors")) folders.push_back(entry.path().string());
    std::sort(folders.begin(), folders.end());
    return folders;
}

std::vector<float> logits_of(const Checkpoint& model) {
    auto plan = lower(model.spec, *model.weights, {.kernels = KernelChoice::reference});
    EXPECT_TRUE(plan.ok()) << plan.error().to_string();
    if (!plan.ok()) return {};
    auto session = Session::create(*plan, {.n_threads = 1, .n_context = 32, .max_batch = 32});
    std::vector<std::int32_t> ids;
    for (std::int32_t i = 0; i < 24; ++i) ids.push_back((i * 37 + 5) % static_cast<std::int32_t>(model.spec.n_vocab));
    EXPECT_TRUE((*session)->forward(0, ids, BatchItem::Logits::all).ok());
    return {(*session)->logits().begin(), (*session)->logits().end()};
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {
    double most = 0, scale = 1e-30;
    for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) {
        most = std::max(most, static_cast<double>(std::fabs(a[i] - b[i])));
        scale = std::max(scale, static_cast<double>(std::fabs(a[i])));
    }
    return a.size() == b.size() && !a.empty() ? most / scale : 1e9;
}

double squared_difference(const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) sum += (static_cast<double>(a[i]) - static_cast<double>(b[i])) * (static_cast<double>(a[i]) - static_cast<double>(b[i]));
    return a.size() == b.size() && !a.empty() ? sum : 1e9;
}

class LowRankModels : public ::testing::TestWithParam<std::string> {
protected:
    void SetUp() override {
        if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
        folder_ = (std::filesystem::temp_directory_path() / ("skiff_lowrank_" + std::to_string(::getpid()))).string();
        ASSERT_TRUE(remove_all(folder_).ok());
        ASSERT_TRUE(make_directories(folder_).ok());
        auto opened = Checkpoint::open(GetParam());
        ASSERT_TRUE(opened.ok()) << opened.error().to_string();
        model_.emplace(std::move(*opened));
        model_->kind = Checkpoint::Kind::random;  // it has no tokenizer: random ids calibrate it
    }
    void TearDown() override { (void)remove_all(folder_); }

    Result<Checkpoint> run(const Checkpoint& parent, std::vector<RecipeStep> steps, const std::string& name) {
        Recipe recipe;
        recipe.steps = std::move(steps);
        CompressOptions options;
        options.output = join_path(folder_, name);
        SKIFF_TRY(const auto report, run_recipe(parent, recipe, options));
        remarks_ = report.remarks;
        return Checkpoint::open(options.output);
    }
    static FactorizeStep step_of(const std::string& method, FactorizeStep::Rule rule, double amount) {
        FactorizeStep step;
        step.method = method;
        step.rule = rule;
        step.amount = amount;
        step.multiple_of = 1;
        step.calibration = {"", 12, 32};
        return step;
    }

    std::string folder_;
    std::optional<Checkpoint> model_;
    std::vector<std::string> remarks_;
};

TEST_P(LowRankModels, WhatDoesNotSaveStaysWhole) {
    for (const auto& [rule, amount] : {std::pair{FactorizeStep::Rule::remove, 0.0}, std::pair{FactorizeStep::Rule::share, 1.0}, std::pair{FactorizeStep::Rule::budget, 0.0}}) {
        auto child = run(*model_, {step_of("svd", rule, amount)}, rank_rule_name(rule));
        ASSERT_TRUE(child.ok()) << child.error().to_string();
        EXPECT_EQ(*child->content_hash(), *model_->content_hash());
        EXPECT_NE(remarks_.at(0).find("stay whole"), std::string::npos);
    }
}

// A weight of low rank is written as factors without loss, and the result runs without the weight.
TEST_P(LowRankModels, WeightsOfLowRankLoseNothing) {
    auto edited = std::make_shared<EditedWeights>(model_->weights);
    ThreadPool pool(1);
    const auto uses = tensor_uses(model_->spec);
    for (const auto& [key, tensor] : model_->spec.tensors) {
        if (uses.at(key) != TensorUse::linear || tensor.dimensions.size() != 2) continue;
        const Shape shape = model_->spec.shape(tensor);
        Rng rng(hash64(std::as_bytes(std::span(key))));
        ThinPair pair;
        for (std::int64_t i = 0; i < shape[0] * 2; ++i) pair.up.push_back(0.2f * rng.normal());
        for (std::int64_t i = 0; i < shape[1] * 2; ++i) pair.down.push_back(0.2f * rng.normal());
        edited->replace(key, make_float_weight(shape, product_of(pair, shape[0], shape[1], pool)));
    }
    model_->weights = edited;
    const auto before = logits_of(*model_);
    for (const FactorMethod& method : factor_methods()) {
        SCOPED_TRACE(method.name);
        auto child = run(*model_, {step_of(std::string(method.name), FactorizeStep::Rule::rank, 2)}, std::string(method.name));
        ASSERT_TRUE(child.ok()) << child.error().to_string();
        std::int64_t n_factors = 0;
        for (const auto& [key, tensor] : child->spec.tensors) n_factors += key.ends_with(".low_rank_up");
        EXPECT_GT(n_factors, 0);
        EXPECT_LT(child->spec.n_parameters(), model_->spec.n_parameters());
        EXPECT_LT(difference(before, logits_of(*child)), 1e-4);
    }
}

TEST_P(LowRankModels, RulesThatLookGiveModelsThatRunAndQuantize) {
    for (const auto& [rule, amount] : {std::pair{FactorizeStep::Rule::energy, 0.7}, std::pair{FactorizeStep::Rule::budget, 0.3}}) {
        SCOPED_TRACE(rank_rule_name(rule));
        QuantizeStep quantize;
        quantize.schemes = {*parse_scheme("w8"), std::nullopt, std::nullopt};
        auto child = run(*model_, {step_of("svd-llm", rule, amount)}, rank_rule_name(rule));
        ASSERT_TRUE(child.ok()) << child.error().to_string();
        const auto before = logits_of(*child);
        for (const float value : before) ASSERT_TRUE(std::isfinite(value));
        auto quantized = run(*child, {quantize}, std::string(rank_rule_name(rule)) + "8");
        ASSERT_TRUE(quantized.ok()) << quantized.error().to_string();
        std::int64_t n_factors = 0;
        for (const auto& [key, tensor] : quantized->spec.tensors) {
            if (!key.ends_with(".low_rank_up")) continue;
            ++n_factors;
            EXPECT_NE(quantized->weights->load(key)->codes(), nullptr) << key;
        }
        EXPECT_GT(n_factors, 0);
        // Of the squares, not of the largest difference alone: products of products, as in gated convolutions, spread rounding unevenly.
        EXPECT_LT(squared_difference(before, logits_of(*quantized)), 0.1 * 0.1 * squared_difference(before, std::vector<float>(before.size())));
    }
}

// At nothing pruned the two parts make up the weight; at half, directions beside the sparse part lose less than the sparse part alone.
TEST_P(LowRankModels, SparseAndLowRankTogether) {
    const auto exact = logits_of(*model_);
    FactorizeStep step = step_of("sparse-low-rank:0%", FactorizeStep::Rule::rank, 2);
    auto whole = run(*model_, {step}, "whole");
    ASSERT_TRUE(whole.ok()) << whole.error().to_string();
    EXPECT_LT(squared_difference(exact, logits_of(*whole)), 0.05 * 0.05 * squared_difference(exact, std::vector<float>(exact.size())));
    std::int64_t n_split = 0;
    for (const auto& [key, tensor] : whole->spec.tensors) n_split += key.ends_with(".low_rank_up");
    EXPECT_GT(n_split, 0);
    step.method = "sparse-low-rank:50%";
    step.rule = FactorizeStep::Rule::share;
    step.amount = 0.5;
    auto half = run(*model_, {step}, "half");
    ASSERT_TRUE(half.ok()) << half.error().to_string();
    PruneStep prune;
    prune.method = "wanda";
    prune.calibration = step.calibration;
    auto pruned = run(*model_, {prune}, "pruned");
    ASSERT_TRUE(pruned.ok()) << pruned.error().to_string();
    EXPECT_LT(squared_difference(exact, logits_of(*half)), 0.7 * squared_difference(exact, logits_of(*pruned)));
    step.rule = FactorizeStep::Rule::remove;
    EXPECT_FALSE(run(*model_, {step}, "without").ok());
}

TEST_P(LowRankModels, FactorsMakeUpForRounding) {
    QuantizeStep quantize;
    quantize.schemes = {*parse_scheme("w3"), std::nullopt, std::nullopt};
    auto rounded = run(*model_, {quantize}, "rounded");
    ASSERT_TRUE(rounded.ok()) << rounded.error().to_string();
    rounded->kind = Checkpoint::Kind::random;
    const auto exact = logits_of(*model_);
    FactorizeStep step = step_of("correction", FactorizeStep::Rule::share, 1);
    EXPECT_FALSE(run(*rounded, {step}, "without").ok());
    step.original = GetParam();
    auto whole = run(*rounded, {step}, "whole");
    ASSERT_TRUE(whole.ok()) << whole.error().to_string();
    const double before = difference(exact, logits_of(*rounded)), after = difference(exact, logits_of(*whole));
    EXPECT_LT(after, 0.03 * before + 0.003);  // factors are rounded to 16 bits
    step.rule = FactorizeStep::Rule::rank;
    step.amount = 4;
    auto some = run(*rounded, {step}, "some");
    ASSERT_TRUE(some.ok()) << some.error().to_string();
    EXPECT_LT(squared_difference(exact, logits_of(*some)), squared_difference(exact, logits_of(*rounded)));
    EXPECT_FALSE(run(*model_, {step}, "plain").ok());  // nothing is quantized
}

INSTANTIATE_TEST_SUITE_P(AllArchitectures, LowRankModels, ::testing::ValuesIn(model_folders()), [](const auto& row) { return std::filesystem::path(row.param).filename().string(); });

}  // namespace
}  // namespace skiff
