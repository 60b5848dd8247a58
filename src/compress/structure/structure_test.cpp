// Structured cuts: the algebra against its definition, and every kind of unit over every architecture that the tests hold, where units that do nothing must be found.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "base/rng.h"
#include "compress/algebra/algebra.h"
#include "compress/calibrate/observe_inputs.h"
#include "compress/calibrate/walk.h"
#include "compress/pipeline.h"
#include "compress/quantize/orthogonal.h"
#include "compress/quantize/rotation.h"
#include "compress/small_models_testing.h"
#include "compress/structure/layer_choice.h"
#include "compress/structure/structure_config.h"
#include "compress/structure/unit_gradients.h"
#include "compress/structure/unit_importance.h"
#include "plan/session.h"

namespace skiff {
namespace {

// ---- the algebra

struct Problem {
    std::vector<float> weight, x;
    InputStatistics inputs;
    std::int64_t n_outputs = 0, n = 0;
};

// Inputs that depend on each other and have means, so that some can stand for others.
Problem random_problem(std::int64_t n_outputs, std::int64_t n, std::uint64_t seed) {
    Rng rng(seed);
    Problem problem;
    problem.n_outputs = n_outputs;
    problem.n = n;
    for (std::int64_t i = 0; i < n_outputs * n; ++i) problem.weight.push_back(rng.normal());
    const std::int64_t n_tokens = 8 * n, n_causes = n / 2 + 1;
    std::vector<float> mixing(static_cast<std::size_t>(n_causes * n));
    for (float& value : mixing) value = rng.normal();
    for (std::int64_t t = 0; t < n_tokens; ++t) {
        std::vector<float> causes;
        for (std::int64_t c = 0; c < n_causes; ++c) causes.push_back(rng.normal());
        for (std::int64_t i = 0; i < n; ++i) {
            float value = 0.3f * rng.normal() + 0.5f;
            for (std::int64_t c = 0; c < n_causes; ++c) value += causes[static_cast<std::size_t>(c)] * mixing[static_cast<std::size_t>(c * n + i)];
            problem.x.push_back(value);
        }
    }
    ThreadPool pool(1);
    InputObserver observer(n, StatisticsNeed::gram);
    observer.add(problem.x, pool);
    problem.inputs = observer.finish();
    return problem;
}

// Mean over the tokens of ||W x - W' x - b||^2.
double output_error(const Problem& problem, const std::vector<float>& weight, const std::vector<float>& bias) {
    const auto n = static_cast<std::size_t>(problem.n), n_tokens = problem.x.size() / n;
    double sum = 0;
    for (std::size_t t = 0; t < n_tokens; ++t)
        for (std::size_t row = 0; row < static_cast<std::size_t>(problem.n_outputs); ++row) {
            double difference = bias.empty() ? 0 : -static_cast<double>(bias[row]);
            for (std::size_t i = 0; i < n; ++i) difference += static_cast<double>(problem.weight[row * n + i] - weight[row * n + i]) * static_cast<double>(problem.x[t * n + i]);
            sum += difference * difference;
        }
    return sum / static_cast<double>(n_tokens);
}

class Structure : public ::testing::Test {
protected:
    void SetUp() override {
        if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
    }
};

TEST_F(Structure, WhatStaysIsSolvedForTheLeastError) {
    ThreadPool pool(2);
    const Problem problem = random_problem(70, 24, 1);
    std::vector<std::int64_t> kept;
    for (std::int64_t i = 0; i < 24; ++i)
        if (i % 4 != 1) kept.push_back(i);
    for (const auto intercept : {LeastSquares::Intercept::no, LeastSquares::Intercept::yes}) {
        auto solved = solve_kept({problem.weight, problem.inputs, intercept, 1e-9}, kept, pool);
        ASSERT_TRUE(solved.ok());
        std::vector<float> plain = problem.weight;
        for (std::size_t i = 0; i < plain.size(); ++i)
            if (i % 24 % 4 == 1) {
                plain[i] = 0;
                EXPECT_EQ(solved->weight[i], 0);
            }
        const double least = output_error(problem, solved->weight, solved->bias);
        EXPECT_LT(least, 0.5 * output_error(problem, plain, {}));
        // No small change of what stays, the bias included, does better.
        for (const std::int64_t column : kept)
            for (const float step : {-0.01f, 0.01f}) {
                std::vector<float> moved = solved->weight;
                for (std::int64_t row = 0; row < 70; ++row) moved[static_cast<std::size_t>(row * 24 + column)] += step;
                EXPECT_GE(output_error(problem, moved, solved->bias), least * (1 - 1e-5));
            }
        if (intercept == LeastSquares::Intercept::no) continue;
        std::vector<float> shifted = solved->bias;
        for (float& value : shifted) value += 0.05f;
        EXPECT_GT(output_error(problem, solved->weight, shifted), least);
    }
}

TEST_F(Structure, NothingGoesNothingChanges) {
    ThreadPool pool(1);
    const Problem problem = random_problem(5, 12, 2);
    std::vector<std::int64_t> all(12);
    for (std::size_t i = 0; i < 12; ++i) all[i] = static_cast<std::int64_t>(i);
    auto solved = solve_kept({problem.weight, problem.inputs}, all, pool);
    ASSERT_TRUE(solved.ok());
    EXPECT_EQ(solved->weight, problem.weight);
    auto kept = keep_by_least_squares({problem.weight, problem.inputs}, {12, 1, 1, 12}, pool);
    ASSERT_TRUE(kept.ok());
    EXPECT_EQ(*kept, all);
}

// Each removal is that with the least error of all, as solving for every candidate says.
TEST_F(Structure, UnitsGoInTheOrderOfTheirTrueLoss) {
    ThreadPool one(1), three(3);
    for (const std::int64_t s : {1, 3}) {
        const std::int64_t n = 18, n_units = n / s;
        const Problem problem = random_problem(7, n, 3 + static_cast<std::uint64_t>(s));
        const LeastSquares least{problem.weight, problem.inputs, LeastSquares::Intercept::no, 1e-9};
        std::vector<std::int64_t> left;
        for (std::int64_t u = 0; u < n_units; ++u) left.push_back(u);
        for (std::int64_t n_kept = n_units - 1; n_kept >= n_units / 2; --n_kept) {
            std::vector<std::int64_t> best;
            double best_error = 0;
            for (const std::int64_t without : left) {
                std::vector<std::int64_t> units, columns;
                for (const std::int64_t u : left)
                    if (u != without) units.push_back(u);
                for (const std::int64_t u : units)
                    for (std::int64_t i = 0; i < s; ++i) columns.push_back(u * s + i);
                auto solved = solve_kept(least, columns, one);
                ASSERT_TRUE(solved.ok());
                const double error = output_error(problem, solved->weight, {});
                if (best.empty() || error < best_error) best = units, best_error = error;
            }
            left = best;
            for (ThreadPool* pool : {&one, &three}) {
                auto kept = keep_by_least_squares(least, {n_units, s, 1, n_kept}, *pool);
                ASSERT_TRUE(kept.ok());
                EXPECT_EQ(*kept, left) << s << " " << n_kept;
            }
        }
    }
}

TEST_F(Structure, GroupsLoseEquallyMany) {
    ThreadPool pool(1);
    const Problem problem = random_problem(7, 24, 9);
    auto kept = keep_by_least_squares({problem.weight, problem.inputs}, {12, 2, 3, 6}, pool);
    ASSERT_TRUE(kept.ok());
    CutAxis axis;
    axis.n_units = 12;
    axis.n_groups = 3;
    axis.n_kept = 6;
    std::vector<double> scores;
    for (int i = 0; i < 12; ++i) scores.push_back(i % 5);
    for (const auto& units : {*kept, keep_largest(axis, scores), first_units(axis)}) {
        ASSERT_EQ(units.size(), 6u);
        for (std::int64_t group = 0; group < 3; ++group) EXPECT_EQ(std::count_if(units.begin(), units.end(), [&](std::int64_t u) { return u / 4 == group; }), 2);
    }
    EXPECT_EQ(keep_largest(axis, scores), (std::vector<std::int64_t>{2, 3, 4, 7, 8, 9}));
}

// Two readers of three units with two columns each, one stored the other way round: sums of weight times gradient by hand, squared, over two samples.
TEST_F(Structure, TaylorScoresAreSquaresOfSums) {
    class TwoReaders final : public WeightSource {
    public:
        bool contains(const std::string&) const override { return true; }
        Result<Weight> load(const std::string& key) const override {
            return key == "rows" ? make_float_weight({2, 6}, {1, 2, 3, 4, 5, 6, 1, 1, 1, 1, 1, 1}) : make_float_weight({6, 2}, {1, 1, 2, 1, 3, 1, 4, 1, 5, 1, 6, 1});
        }
        std::vector<std::string> keys() const override { return {"rows", "turned"}; }
    };
    std::vector<CutAxis> axes(2);
    axes[0].axis = axes[0].reader = "rows";
    axes[1].axis = axes[1].reader = "turned";
    axes[1].transposed = true;
    for (CutAxis& axis : axes) axis.n_units = axis.n_kept = 3, axis.unit_columns = 2;
    const std::vector<float> rows = {1, 0, 1, 1, 0, -1, 2, 2, 0, 0, 1, 0}, turned = {1, 2, 0, 2, 1, 0, 1, 0, 0, 1, -1, 0};
    UnitTaylorScores scores(axes);
    EXPECT_EQ(scores.keys(), (std::set<std::string>{"rows", "turned"}));
    for (int sample = 0; sample < 2; ++sample) ASSERT_TRUE(scores.add_sample({{"rows", rows}, {"turned", turned}}, TwoReaders()).ok());
    for (const CutAxis& axis : axes) EXPECT_EQ(scores.of(axis.axis), (std::vector<double>{2 * 25, 2 * 49, 2 * 25})) << axis.axis;
}

TEST_F(Structure, PatternsAreReadAndRefused) {
    auto neurons = parse_structure_pattern("neurons:25%");
    ASSERT_TRUE(neurons.ok());
    EXPECT_EQ(neurons->units, UnitKind::neurons);
    EXPECT_EQ(neurons->removal, (Removal{Removal::By::share, 0.25}));
    EXPECT_EQ(neurons->removal.text(), "25%");
    auto layers = parse_structure_pattern("layers:2");
    ASSERT_TRUE(layers.ok());
    EXPECT_EQ(layers->removal, (Removal{Removal::By::count, 2}));
    for (const char* bad : {"", "neurons", "neurons:", "neurons:x", "neurons:100%", "neurons:-1", "layers:1.5", "layers:nan%", "rows:1", "2:4", "neurons:25%%"}) EXPECT_FALSE(parse_structure_pattern(bad).ok()) << bad;
    EXPECT_FALSE(is_structure_pattern("2:4"));
    EXPECT_EQ(*units_kept({Removal::By::share, 0.25}, 768, 32), 576);
    EXPECT_EQ(*units_kept({Removal::By::share, 0.10}, 768, 32), 704);
    EXPECT_EQ(*units_kept({Removal::By::share, 0.10}, 75, 32), 68);  // 75 is no multiple: every width may stay
    EXPECT_EQ(*units_kept({Removal::By::share, 0}, 75, 32), 75);
    EXPECT_FALSE(units_kept({Removal::By::count, 4}, 4, 1).ok());
}

TEST_F(Structure, RoundedWidthsAreSaid) {
    struct Case {
        const char *pattern, *words;  // "": nothing to say
    };
    for (const Case& it : {Case{"neurons:25", "32 of the 768 neurons of each layer go where 25 were asked for"}, {"neurons:10%", "64 of the 768 neurons of each layer go where 10% would be 76.8"}, {"hidden:10%", "directions of the hidden state"},
                           {"neurons:25%", ""}, {"neurons:0%", ""}, {"neurons:1", ""}}) {
        const auto step = parse_structure_pattern(it.pattern);
        ASSERT_TRUE(step.ok());
        std::vector<std::string> remarks;
        note_rounding(*step, 768, *units_kept(step->removal, 768, 32), 32, remarks);
        EXPECT_EQ(remarks.size(), *it.words == '\0' ? 0u : 1u) << it.pattern;
        if (!remarks.empty()) {
            EXPECT_NE(remarks[0].find(it.words), std::string::npos) << remarks[0];
        }
    }
}

TEST_F(Structure, NamesOfLayersAreMovedOnce) {
    EXPECT_EQ(key_in_layer("model.layers.3.mlp.experts.3.w1.weight", 3, 12), "model.layers.12.mlp.experts.3.w1.weight");
    EXPECT_EQ(key_in_layer("h.10.attn.bias", 10, 9), "h.9.attn.bias");
    EXPECT_EQ(key_in_layer("0.attn.bias", 0, 1), "1.attn.bias");
    EXPECT_EQ(key_in_layer("model.embed_tokens.weight", 1, 0), "model.embed_tokens.weight");
}

// ---- whole models

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

std::string read(const std::string& path) { return *read_text_file(path, std::size_t{1} << 26); }

class StructureModels : public ::testing::TestWithParam<std::string> {
protected:
    void SetUp() override {
        if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
        folder_ = (std::filesystem::temp_directory_path() / ("skiff_structure_" + std::to_string(::getpid()))).string();
        ASSERT_TRUE(remove_all(folder_).ok());
        ASSERT_TRUE(make_directories(folder_).ok());
        auto opened = Checkpoint::open(GetParam());
        ASSERT_TRUE(opened.ok()) << opened.error().to_string();
        model_.emplace(std::move(*opened));
        model_->kind = Checkpoint::Kind::random;  // it has no tokenizer: random ids calibrate it
    }
    void TearDown() override { (void)remove_all(folder_); }

    static StructureStep step_of(const std::string& pattern, const std::string& importance) {
        StructureStep step = *parse_structure_pattern(pattern);
        step.importance = importance;
        step.multiple_of = 1;
        step.calibration = {"", 12, 32};
        return step;
    }
    Result<Checkpoint> cut(const StructureStep& step, const std::string& name, int n_threads = 1) {
        Recipe recipe;
        recipe.steps.push_back(step);
        CompressOptions options;
        options.output = join_path(folder_, name);
        options.n_threads = n_threads;
        const testing::WeightsAsGradients gradients;
        options.gradients = &gradients;
        SKIFF_TRY(const auto report, run_recipe(*model_, recipe, options));
        (void)report;
        return Checkpoint::open(options.output);
    }

    // Zeros in the columns of some units of every reader: they do nothing from now on.
    void silence(UnitKind units, std::int64_t share) {
        auto edited = std::make_shared<EditedWeights>(model_->weights);
        ThreadPool pool(1);
        auto axes = find_cut_axes(model_->spec, units);
        ASSERT_TRUE(axes.ok()) << axes.error().to_string();
        for (const CutAxis& axis : *axes) {
            auto weight = model_->weights->load(axis.reader);
            ASSERT_TRUE(weight.ok());
            std::vector<float> values;
            ASSERT_TRUE(to_floats(*as_floats(*weight, pool).plain(), values));
            const std::int64_t n_columns = axis.n_units * axis.unit_columns, per_group = axis.n_units / axis.n_groups;
            for (std::int64_t i = 0; i < static_cast<std::int64_t>(values.size()); ++i) {
                const std::int64_t column = axis.transposed ? i / (static_cast<std::int64_t>(values.size()) / n_columns) : i % n_columns;
                if (column / axis.unit_columns % per_group % share == share - 1) values[static_cast<std::size_t>(i)] = 0;
            }
            edited->replace(axis.reader, make_float_weight(weight->shape, std::move(values)));
        }
        model_->weights = edited;
    }
    // The widest number of units of which some do nothing; below two there is nothing to cut.
    std::int64_t fewest_units(UnitKind units) const {
        auto axes = find_cut_axes(model_->spec, units);
        std::int64_t fewest = INT64_MAX;
        if (!axes.ok()) return 0;
        for (const CutAxis& axis : *axes) fewest = std::min(fewest, axis.n_units / axis.n_groups);
        return fewest;
    }

    std::string folder_;
    std::optional<Checkpoint> model_;
};

TEST_P(StructureModels, ZeroStrengthIsACopy) {
    for (const char* units : {"neurons", "heads", "kv_groups", "layers", "hidden"}) {
        SCOPED_TRACE(units);
        std::vector<std::string> importances;
        if (std::string(units) == "layers")
            for (const auto& row : layer_importances()) importances.emplace_back(row.name);
        else
            for (const auto& row : unit_importances()) importances.emplace_back(row.name);
        if (!GetParam().ends_with("/llama")) importances.resize(1);  // nothing is judged at zero strength
        for (const std::string& importance : importances) {
            SCOPED_TRACE(importance);
            const std::string name = std::string(units) + importance;
            auto child = cut(step_of(std::string(units) + ":0%", importance), name);
            if (std::string(units) == "hidden" && !child.ok() && child.error().code == ErrorCode::unsupported) continue;  // no RMS norms
            ASSERT_TRUE(child.ok()) << child.error().to_string();
            ASSERT_EQ(child->spec, model_->spec);
            EXPECT_EQ(*child->content_hash(), *model_->content_hash());
        }
    }
}

TEST_P(StructureModels, UnitsThatDoNothingGo) {
    for (const auto& [units, name] : {std::pair{UnitKind::neurons, "neurons"}, std::pair{UnitKind::heads, "heads"}, std::pair{UnitKind::kv_groups, "kv_groups"}}) {
        SCOPED_TRACE(name);
        const std::int64_t n = fewest_units(units);
        if (n < 2) continue;
        auto untouched = model_->weights;
        const std::int64_t share = std::min<std::int64_t>(n, 4);
        silence(units, share);
        const auto before = logits_of(*model_);
        for (const auto& [importance, compensation] : {std::pair{"obs", StructureStep::Compensation::least_squares}, std::pair{"contribution", StructureStep::Compensation::none}, std::pair{"taylor", StructureStep::Compensation::none}}) {
            SCOPED_TRACE(importance);
            // As many of each as do nothing: n / share, where layers differ the least of them.
            StructureStep step = step_of(std::string(name) + ":" + std::to_string(n / share), importance);
            step.compensation = compensation;
            auto child = cut(step, std::string(name) + importance);
            ASSERT_TRUE(child.ok()) << child.error().to_string();
            EXPECT_LT(child->spec.n_parameters(), model_->spec.n_parameters());
            EXPECT_LT(difference(before, logits_of(*child)), model_->weights->load(model_->spec.tensors.begin()->first)->encoding_name() == "BF16" ? 0.02 : 2e-4);
        }
        model_->weights = untouched;
    }
}

TEST_P(StructureModels, EveryImportanceGivesAModelThatRuns) {
    for (const UnitImportance& importance : unit_importances())
        for (const char* units : {"neurons", "kv_groups"}) {
            if (importance.needs == StatisticsNeed::gram) continue;  // the test before this one
            SCOPED_TRACE(std::string(units) + " " + std::string(importance.name));
            if (fewest_units(parse_structure_pattern(std::string(units) + ":1")->units) < 2) continue;
            StructureStep step = step_of(std::string(units) + ":1", std::string(importance.name));
            if (importance.needs == StatisticsNeed::none) step.compensation = StructureStep::Compensation::none;
            auto child = cut(step, std::string(units) + std::string(importance.name));
            ASSERT_TRUE(child.ok()) << child.error().to_string();
            for (const float value : logits_of(*child)) ASSERT_TRUE(std::isfinite(value));
            EXPECT_LT(child->spec.n_parameters(), model_->spec.n_parameters());
        }
}

TEST_P(StructureModels, ALayerThatDoesNothingGoes) {
    if (model_->spec.n_layers < 2 || GetParam().ends_with("post_norm")) return;
    auto edited = std::make_shared<EditedWeights>(model_->weights);
    ThreadPool pool(1);
    const std::size_t block = 1;  // the first layer
    for (const Op& op : model_->spec.blocks[block].ops) {
        const auto* linear = std::get_if<LinearOp>(&op.detail);
        if (linear == nullptr || (!op.name.ends_with(".attn.o") && !op.name.ends_with(".conv.out") && !op.name.ends_with(".ff.down"))) continue;
        for (const std::string& key : {linear->terms[0].weight.key, linear->bias.key}) {
            if (key.empty()) continue;
            auto weight = model_->weights->load(key);
            ASSERT_TRUE(weight.ok());
            edited->replace(key, make_float_weight(weight->shape, std::vector<float>(static_cast<std::size_t>(element_count(weight->shape)))));
        }
    }
    model_->weights = edited;
    const auto before = logits_of(*model_);
    for (const LayerImportance& importance : layer_importances()) {
        if (importance.reads == LayerImportance::Reads::nothing) continue;  // cannot know
        SCOPED_TRACE(importance.name);
        auto child = cut(step_of("layers:1", std::string(importance.name)), std::string(importance.name));
        if (!child.ok() && child.error().code == ErrorCode::unsupported) continue;  // layers that depend on their number say so
        ASSERT_TRUE(child.ok()) << child.error().to_string();
        EXPECT_EQ(child->spec.n_layers, model_->spec.n_layers - 1);
        EXPECT_EQ(child->manifest["steps"].items()[0]["found"]["dropped"].dump(), "[0]");
        EXPECT_LT(difference(before, logits_of(*child)), 1e-5);
    }
}

// A model whose stream never leaves a part of its directions, wherever those point, loses nothing with the others.
TEST_P(StructureModels, DirectionsThatAreNeverTakenGo) {
    const std::int64_t width = model_->spec.d_model;
    auto rotation = Rotation::plan(*model_, {RotationOptions::What::residual, 5});
    if (!rotation.ok()) return;  // no RMS norms, or norms behind
    // Whatever is written into the stream is projected onto all directions but two of a random basis.
    auto basis = random_orthogonal(width, 11);
    ASSERT_TRUE(basis.ok());
    ThreadPool pool(1);
    auto edited = std::make_shared<EditedWeights>(model_->weights);
    for (const Block& block : model_->spec.blocks)
        for (const Op& op : block.ops) {
            const auto* embed = std::get_if<EmbedOp>(&op.detail);
            const auto* linear = std::get_if<LinearOp>(&op.detail);
            const bool writes = embed != nullptr || (linear != nullptr && (op.name.ends_with(".attn.o") || op.name.ends_with(".conv.out") || op.name.ends_with(".ff.down")));
            if (!writes) continue;
            const std::string key = embed != nullptr ? embed->table.key : linear->terms[0].weight.key;
            auto weight = model_->weights->load(key);
            ASSERT_TRUE(weight.ok());
            Weight floats = as_floats(*weight, pool);
            if (embed == nullptr) floats = transposed(floats);  // rows are vectors of the stream now
            std::vector<float> values;
            ASSERT_TRUE(to_floats(*floats.plain(), values));
            for (std::size_t row = 0; row < values.size(); row += static_cast<std::size_t>(width))
                for (std::int64_t gone = 0; gone < 2; ++gone) {
                    float along = 0;
                    for (std::int64_t i = 0; i < width; ++i) along += values[row + static_cast<std::size_t>(i)] * basis->matrix[static_cast<std::size_t>(i * width + gone)];
                    for (std::int64_t i = 0; i < width; ++i) values[row + static_cast<std::size_t>(i)] -= along * basis->matrix[static_cast<std::size_t>(i * width + gone)];
                }
            floats = make_float_weight(floats.shape, std::move(values));
            edited->replace(key, embed == nullptr ? transposed(floats) : floats);
            if (linear != nullptr && !linear->bias.empty()) {
                auto bias = model_->weights->load(linear->bias.key);
                edited->replace(linear->bias.key, make_float_weight(bias->shape, std::vector<float>(static_cast<std::size_t>(width))));
            }
        }
    // All in f32, as turned weights are stored in their own type; and next to no eps, which beside a mean over fewer numbers counts for more.
    for (const auto& [key, declared] : model_->spec.tensors) {
        const auto weight = edited->load(key);
        if (weight.ok() && weight->plain() != nullptr && weight->plain()->dtype != DType::f32) edited->replace(key, as_floats(*weight, pool));
    }
    for (Block& block : model_->spec.blocks)
        for (Op& op : block.ops)
            if (auto* norm = std::get_if<NormOp>(&op.detail)) norm->eps = 1e-9f;
    for (const char* key : {"rms_norm_eps", "norm_eps"})
        if (model_->config.contains(key)) model_->config.set(key, 1e-9);
    model_->weights = edited;
    const auto before = logits_of(*model_);
    auto child = cut(step_of("hidden:2", "directions"), "narrow");
    if (!child.ok() && child.error().code == ErrorCode::unsupported) return;  // tied tables of a model without a folder, scales that follow the width
    ASSERT_TRUE(child.ok()) << child.error().to_string();
    EXPECT_EQ(child->spec.d_model, width - 2);
    EXPECT_LT(difference(before, logits_of(*child)), 2e-3);
}

// Units in another order compute the same, and then the first ones are those that stay.
TEST_P(StructureModels, SortedUnitsComputeTheSame) {
    const auto before = logits_of(*model_);
    for (const UnitImportance& importance : unit_importances())
        for (const char* units : {"neurons", "heads", "kv_groups"}) {
            if (importance.needs == StatisticsNeed::gram && std::string(units) == "heads") continue;
            SCOPED_TRACE(std::string(units) + " " + std::string(importance.name));
            StructureStep step = step_of(std::string(units) + ":0%", std::string(importance.name));
            step.order = StructureStep::Order::by_importance;
            auto child = cut(step, std::string("sorted") + units + std::string(importance.name));
            ASSERT_TRUE(child.ok()) << child.error().to_string();
            ASSERT_EQ(child->spec, model_->spec);
            EXPECT_LT(difference(before, logits_of(*child)), 1e-5);
            if (importance.needs != StatisticsNeed::none || importance.gradients == UnitImportance::Gradients::yes) continue;
            ThreadPool pool(1);
            auto axes = find_cut_axes(child->spec, step.units);
            ASSERT_TRUE(axes.ok());
            for (CutAxis& axis : *axes) {
                auto order = importance.rank({child->spec, axis, *child->weights, nullptr, {}, step, pool});
                ASSERT_TRUE(order.ok());
                for (std::size_t i = 0; i < order->size(); ++i) ASSERT_EQ((*order)[i], static_cast<std::int64_t>(i)) << axis.axis;
            }
        }
    StructureStep step = step_of("neurons:1", "l2");
    step.order = StructureStep::Order::by_importance;
    EXPECT_FALSE(cut(step, "sorted").ok());
}

TEST_P(StructureModels, LeadingUnitsStayAsTheyAre) {
    for (const char* units : {"neurons", "kv_groups"}) {
        if (fewest_units(parse_structure_pattern(std::string(units) + ":1")->units) < 2) continue;
        StructureStep step = step_of(std::string(units) + ":50%", "leading");
        step.compensation = StructureStep::Compensation::none;
        auto child = cut(step, std::string("leading") + units);
        ASSERT_TRUE(child.ok()) << child.error().to_string();
        auto whole = find_cut_axes(model_->spec, step.units), left = find_cut_axes(child->spec, step.units);
        ASSERT_TRUE(whole.ok() && left.ok());
        ThreadPool pool(1);
        for (std::size_t i = 0; i < whole->size(); ++i) {
            const CutAxis &a = (*whole)[i], &b = (*left)[i];
            EXPECT_LT(b.n_units, a.n_units);
            const std::vector<float> all = *reader_matrix(a, *model_->weights, pool), some = *reader_matrix(b, *child->weights, pool);
            const std::size_t n = static_cast<std::size_t>(a.n_units * a.unit_columns), m = static_cast<std::size_t>(b.n_units * b.unit_columns);
            for (std::size_t j = 0; j < some.size(); ++j) ASSERT_EQ(some[j], all[j / m * n + j % m]) << b.axis;
        }
    }
}

TEST_F(Structure, LayersOfElasticTrainingGoInANestedOrder) {
    EXPECT_EQ(elastic_layer_order(6), (std::vector<std::int64_t>{3, 1, 4, 2, 0, 5}));
    EXPECT_EQ(elastic_layer_order(1), (std::vector<std::int64_t>{0}));
    EXPECT_EQ(elastic_layer_order(2), (std::vector<std::int64_t>{0, 1}));
    for (std::int64_t n = 4; n <= 40; ++n) {
        const auto order = elastic_layer_order(n);
        EXPECT_EQ(std::set<std::int64_t>(order.begin(), order.end()).size(), static_cast<std::size_t>(n));
        // A third of them leaves no two neighbours out.
        const std::set<std::int64_t> third(order.begin(), order.begin() + n / 3);
        for (const std::int64_t layer : third) EXPECT_EQ(third.count(layer + 1), 0u) << n;
        EXPECT_EQ(order.back(), n - 1);
    }
}

TEST_P(StructureModels, SameBytesWhateverTheThreads) {
    for (const char* pattern : {"neurons:30%", "kv_groups:1"}) {
        if (fewest_units(parse_structure_pattern(pattern)->units) < 2) continue;
        ASSERT_TRUE(cut(step_of(pattern, "obs"), std::string("one") + pattern[0], 1).ok());
        ASSERT_TRUE(cut(step_of(pattern, "obs"), std::string("two") + pattern[0], 2).ok());
        for (const char* file : {"model.safetensors", "config.json", "skiff.json"})
            EXPECT_EQ(read(join_path(join_path(folder_, std::string("one") + pattern[0]), file)), read(join_path(join_path(folder_, std::string("two") + pattern[0]), file)));
    }
}

TEST_P(StructureModels, SensitiveLayersLoseLess) {
    if (model_->spec.n_layers < 2 || fewest_units(UnitKind::neurons) < 8) return;
    StructureStep step = step_of("neurons:50%", "contribution");
    step.spread = StructureStep::Spread::sensitivity;
    auto child = cut(step, "spread");
    if (!child.ok()) {  // an architecture whose config cannot say layers that differ
        EXPECT_EQ(child.error().code, ErrorCode::unsupported) << child.error().to_string();
        return;
    }
    for (const float value : logits_of(*child)) ASSERT_TRUE(std::isfinite(value));
    const Json& found = child->manifest["steps"].items()[0]["found"];
    std::int64_t before = 0, after = 0;
    for (const auto& [axis, sizes] : found["sizes"].members()) {
        before += sizes["before"].int_or(0);
        after += sizes["after"].int_or(0);
        EXPECT_EQ(child->spec.find_axis(axis)->size, sizes["after"].int_or(0));
    }
    EXPECT_NEAR(static_cast<double>(after), 0.5 * static_cast<double>(before), 2.0);
    const auto& kl = found["sensitivities"].members();
    for (const auto& a : kl)
        for (const auto& b : kl) {
            const double share_a = found["sizes"][a.first]["after"].number_or(0) / found["sizes"][a.first]["before"].number_or(1);
            const double share_b = found["sizes"][b.first]["after"].number_or(0) / found["sizes"][b.first]["before"].number_or(1);
            const bool alike = found["sizes"][a.first]["before"].int_or(0) == found["sizes"][b.first]["before"].int_or(1);
            if (alike && a.second.number_or(0) > 1.2 * b.second.number_or(0)) {
                EXPECT_GE(share_a, share_b) << a.first << " " << b.first;
            }
        }
}

INSTANTIATE_TEST_SUITE_P(AllArchitectures, StructureModels, ::testing::ValuesIn(model_folders()), [](const auto& row) { return std::filesystem::path(row.param).filename().string(); });

}  // namespace
}  // namespace skiff
