// Pruning methods against reference formulas in numpy (tests/golden/pruning.py), and each of them as a step on a small model.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>

#include "base/json.h"
#include "base/rng.h"
#include "compress/algebra/algebra.h"
#include "compress/pipeline.h"
#include "compress/prune/allocate.h"
#include "compress/prune/layer_shares.h"
#include "compress/prune/prune_method.h"
#include "compress/small_models_testing.h"
#include "compress/step_work.h"
#include "compress/structure/removal_probe.h"

namespace skiff {
namespace {

constexpr std::int64_t n_rows = 5, n_columns = 160, n_tokens = 400;

// As in tests/golden/pruning.py.
std::vector<double> numbers(std::int64_t n, std::uint64_t state) {
    std::vector<double> values;
    for (std::int64_t i = 0; i < n; ++i) {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        values.push_back(static_cast<double>(state * 2685821657736338717u >> 40) / 8388608.0 - 1);
    }
    return values;
}

InputStatistics statistics() {
    auto x = numbers(n_tokens * n_columns, 11);
    const auto at = [&](std::int64_t t, std::int64_t c) -> double& { return x[static_cast<std::size_t>(t * n_columns + c)]; };
    for (std::int64_t t = 0; t < n_tokens; ++t)
        for (std::int64_t c = 1; c < n_columns; ++c) at(t, c) += 0.6 * at(t, c - 1);
    InputStatistics inputs;
    inputs.n_tokens = n_tokens;
    const auto size = [](std::int64_t c) { return 0.25 + static_cast<double>(c % 7); };
    for (std::int64_t a = 0; a < n_columns; ++a)
        for (std::int64_t b = 0; b < n_columns; ++b) {
            double sum = 0;
            for (std::int64_t t = 0; t < n_tokens; ++t) sum += at(t, a) * at(t, b);
            inputs.gram.push_back(static_cast<float>(sum * size(a) * size(b) / static_cast<double>(n_tokens)));
            if (a == b) inputs.mean_square.push_back(inputs.gram.back());
        }
    return inputs;
}

Weight example_weight() {
    std::vector<float> values;
    for (double value : numbers(n_rows * n_columns, 5)) values.push_back(static_cast<float>(value));
    return make_float_weight({n_rows, n_columns}, std::move(values));
}

std::vector<float> kept_rows(const Pruned& pruned, const SparsePattern& pattern) {
    const Weight weight = densified(*make_sparse(pruned.weight, pattern, pruned.bitmask));
    std::vector<float> values(static_cast<std::size_t>(weight.n_rows() * weight.n_columns()));
    for (std::int64_t row = 0; row < weight.n_rows(); ++row) weight.row(row, values.data() + row * weight.n_columns());
    return values;
}

// tr(D H D^T) of the difference: what the outputs lose.
double loss(const std::vector<float>& pruned, const Weight& weight, const InputStatistics& inputs) {
    double sum = 0;
    std::vector<float> row(static_cast<std::size_t>(n_columns));
    for (std::int64_t r = 0; r < weight.n_rows(); ++r) {
        weight.row(r, row.data());
        for (std::int64_t c = 0; c < n_columns; ++c) row[static_cast<std::size_t>(c)] -= pruned[static_cast<std::size_t>(r * n_columns + c)];
        for (std::int64_t a = 0; a < n_columns; ++a)
            for (std::int64_t b = 0; b < n_columns; ++b)
                sum += static_cast<double>(row[static_cast<std::size_t>(a)]) * inputs.gram[static_cast<std::size_t>(a * n_columns + b)] * row[static_cast<std::size_t>(b)];
    }
    return sum;
}

TEST(PruneMethods, AgreeWithTheReferenceFormulas) {
    if (!algebra_available().ok()) GTEST_SKIP() << "OpenBLAS cannot be opened here";
    const auto golden = read_json_file(std::string(SKIFF_TEST_DATA_DIR) + "/compress/pruning.json");
    ASSERT_TRUE(golden.ok());
    const InputStatistics inputs = statistics();
    const Weight weight = example_weight();
    for (int n_threads : {1, 3}) {
        ThreadPool pool(n_threads);
        for (const char* name : {"wanda 50%", "wanda 2:4", "sparsegpt 50%", "sparsegpt 2:4"}) {
            SCOPED_TRACE(name);
            const std::string text = name;
            const PruneTarget target = *parse_prune_target(text.substr(text.find(' ') + 1));
            const PruneMethod* method = *find_prune_method(text.substr(0, text.find(' ')));
            const auto pruned = method->prune({weight, target, pool, &inputs});
            ASSERT_TRUE(pruned.ok()) << pruned.error().to_string();
            const auto values = kept_rows(*pruned, target.pattern);
            const Json& expected = (*golden)[name];
            ASSERT_EQ(expected.size(), static_cast<std::size_t>(n_rows));
            for (std::int64_t r = 0; r < n_rows; ++r)
                for (std::int64_t c = 0; c < n_columns; ++c) {
                    const double wanted = expected.items()[static_cast<std::size_t>(r)].items()[static_cast<std::size_t>(c)].number_or(NAN);
                    ASSERT_NEAR(values[static_cast<std::size_t>(r * n_columns + c)], wanted, 2e-4 * (1 + std::fabs(wanted))) << r << ", " << c;
                }
        }
    }
}

TEST(PruneMethods, LoseInTheOrderThatIsKnown) {
    if (!algebra_available().ok()) GTEST_SKIP() << "OpenBLAS cannot be opened here";
    const InputStatistics inputs = statistics();
    const Weight weight = example_weight();
    ThreadPool pool(2);
    for (const char* text : {"50%", "2:4", "block1x8:50%"}) {
        const PruneTarget target = *parse_prune_target(text);
        std::map<std::string_view, double> losses;
        for (const PruneMethod& method : prune_methods()) losses[method.name] = loss(kept_rows(*method.prune({weight, target, pool, &inputs}), target.pattern), weight, inputs);
        EXPECT_LT(losses["sparsegpt"], losses["wanda"]) << text;
        EXPECT_LT(losses["wanda"], losses["magnitude"]) << text;
    }
}

// Every method keeps what the target says, at 0 % everything as it is, and without inputs falls back and says so.
TEST(PruneMethods, KeepWhatTheTargetSays) {
    const InputStatistics inputs = statistics();
    const Weight weight = example_weight();
    ThreadPool pool(2);
    for (const PruneMethod& method : prune_methods())
        for (const char* text : {"0%", "37%", "2:4", "3:7", "5x1:50%", "block5x32:50%", "block2x16:25%", "100%"}) {
            SCOPED_TRACE(std::string(method.name) + " " + text);
            const PruneTarget target = parse_prune_target(text)->resolved(n_rows, n_columns);
            if (!method.defined_on(target).ok()) continue;
            std::vector<std::string> remarks;
            const std::vector<float> sensitivity = wanda_scores(weight, inputs.mean_square, pool);
            for (const InputStatistics* given : {&inputs, static_cast<const InputStatistics*>(nullptr)}) {
                const auto pruned = method.prune({weight, target, pool, given, 0.01, &remarks, given != nullptr ? std::span<const float>(sensitivity) : std::span<const float>()});
                ASSERT_TRUE(pruned.ok()) << pruned.error().to_string();
                const auto sparse = make_sparse(pruned->weight, target.pattern, pruned->bitmask);
                ASSERT_TRUE(sparse.ok()) << sparse.error().to_string();
                EXPECT_EQ(sparse->sparse()->n_values(), target.n_kept_units(n_rows, n_columns) * target.pattern.unit_values());
                if (target.sparsity == 0) {
                    EXPECT_EQ(kept_rows(*pruned, target.pattern), kept_rows({weight, full_bitmask({}, n_rows, n_columns)}, {}));
                }
            }
            EXPECT_EQ(remarks.size(), method.needs != StatisticsNeed::none || method.gradients != PruneMethod::Gradients::none ? 1u : 0u);
        }
}

TEST(Allocation, GlobalMagnitudeTakesOneThreshold) {
    Rng rng(3);
    std::vector<Weight> weights;
    for (float deviation : {1.0f, 2.0f}) {
        std::vector<float> values(200 * 100);
        for (float& value : values) value = deviation * rng.normal();
        weights.push_back(make_float_weight({200, 100}, std::move(values)));
    }
    ThreadPool pool(2);
    const auto sparsities = global_magnitude_sparsities(weights, 0.5, pool);
    EXPECT_NEAR((sparsities[0] + sparsities[1]) / 2, 0.5, 1e-6);
    EXPECT_GT(sparsities[0], 0.6);  // |x| < t and |x| < t / 2 of normal numbers: 0.65 and 0.35
    EXPECT_LT(sparsities[1], 0.4);
    EXPECT_EQ(global_magnitude_sparsities(weights, 0, pool), (std::vector<double>{0, 0}));
    EXPECT_EQ(global_magnitude_sparsities(weights, 1, pool), (std::vector<double>{1, 1}));
}

// Units of different sizes, and scores that are no magnitudes: what goes is what lies below one score, and as many weights as were asked for.
TEST(Allocation, GlobalTakesOneThresholdOfUnitScores) {
    ThreadPool pool(2);
    std::vector<float> scores;
    for (int i = 0; i < 1000; ++i) scores.push_back(static_cast<float>(1000 + i));
    const std::vector<float> small(scores.begin(), scores.begin() + 500), large(scores.begin() + 500, scores.end());
    const ScoreHistogram layers[] = {score_histogram(small, pool), score_histogram(large, pool)};
    const auto alike = global_sparsities(layers, std::vector<double>{1, 1}, 0.5);
    EXPECT_NEAR(alike[0] + alike[1], 1, 1e-9);
    EXPECT_GT(alike[0], 0.95);  // the scores about the threshold share a bin of a 16th of an octave
    // The units of the first layer are of three weights: half of all 2000 weights are two thirds of its units.
    const auto heavy = global_sparsities(layers, std::vector<double>{3, 1}, 0.5);
    EXPECT_NEAR(heavy[0], 2.0 / 3, 1e-6);
    EXPECT_EQ(heavy[1], 0);
    // A mean over blocks lies closer together than the weights do: shares of layers differ more.
    Rng rng(3);
    std::vector<ScoreHistogram> singles, blocks;
    for (const float deviation : {1.0f, 2.0f}) {
        std::vector<float> magnitudes(64 * 64);
        for (float& value : magnitudes) value = std::fabs(deviation * rng.normal());
        singles.push_back(score_histogram(magnitudes, pool));
        blocks.push_back(score_histogram(unit_means({16, 32, 0, 0}, magnitudes, 64, 64, &pool), pool));
    }
    EXPECT_LT(global_sparsities(singles, std::vector<double>{1, 1}, 0.5)[0], 0.7);
    EXPECT_EQ(global_sparsities(blocks, std::vector<double>{512, 512}, 0.5), (std::vector<double>{1, 0}));
}

TEST(Allocation, OwlSparesLayersWithOutliers) {
    const std::vector<std::vector<float>> scores = {{1, 1, 1, 1}, {1, 1, 1, 1, 1, 91}};
    EXPECT_DOUBLE_EQ(outlier_ratio(scores), 0.1);
    const std::vector<double> ratios = {0.01, 0.02, 0.05}, sizes = {1, 1, 2};
    const auto sparsities = owl_sparsities(ratios, sizes, 0.6);
    EXPECT_NEAR((sparsities[0] + sparsities[1] + 2 * sparsities[2]) / 4, 0.6, 1e-12);
    EXPECT_NEAR(sparsities[0] - sparsities[2], 0.16, 1e-12);
    EXPECT_GT(sparsities[0], sparsities[1]);
    EXPECT_GT(sparsities[1], sparsities[2]);
    EXPECT_EQ(owl_sparsities(std::vector<double>{0.1, 0.1}, std::vector<double>{1, 3}, 0.5), (std::vector<double>{0.5, 0.5}));
    // Near the ends layers differ less, and the mean stays.
    for (const double share : {0.0, 0.01, 0.97, 1.0}) {
        const auto near = owl_sparsities(ratios, sizes, share);
        EXPECT_NEAR((near[0] + near[1] + 2 * near[2]) / 4, share, 1e-12);
        for (const double each : near) EXPECT_TRUE(each >= 0 && each <= 1) << each;
    }
}

// By hand: the first layer's loss is a third of the second's at first, then steeper; of the third, with twice the weights, what bends down is taken at its hull.
TEST(Allocation, LeastLossFollowsTheSlopes) {
    const std::vector<double> levels = {0.4, 0.5, 0.6}, sizes = {1, 1, 2};
    const std::vector<std::vector<double>> losses = {{0, 1, 7}, {0, 3, 8}, {0, 6, 8}};
    // Costs of a weight: 10, 60; 30, 50; hull 20 all the way. 0.4 has 1.6 of 4 weights gone; every step brings 0.1, of the third layer 0.4.
    EXPECT_EQ(least_loss_sparsities(levels, losses, sizes, 0.4), (std::vector<double>{0.4, 0.4, 0.4}));
    const auto some = least_loss_sparsities(levels, losses, sizes, 0.475);  // 0.3 more: 0.1 of the first, 0.2 of the third
    EXPECT_NEAR(some[0], 0.5, 1e-12);
    EXPECT_NEAR(some[1], 0.4, 1e-12);
    EXPECT_NEAR(some[2], 0.5, 1e-12);
    const auto more = least_loss_sparsities(levels, losses, sizes, 0.575);  // 0.7: then 0.1 and 0.1 of the second
    EXPECT_NEAR(more[0], 0.5, 1e-12);
    EXPECT_NEAR(more[1], 0.6, 1e-12);
    EXPECT_NEAR(more[2], 0.6, 1e-12);
    for (const double each : least_loss_sparsities(levels, losses, sizes, 0.6)) EXPECT_NEAR(each, 0.6, 1e-12);
}

TEST(Allocation, WholeUnitsKeepTheSum) {
    const std::vector<LayerUnits> layers = {{32, 64}, {32, 64}, {48, 32}, {10, 7}};
    for (const double sparsity : {0.0, 0.3, 0.5, 0.77, 1.0})
        for (const double spread : {0.0, 0.013, 0.11}) {
            const double s = spread * std::min(1.0, 2 * std::min(sparsity, 1 - sparsity));
            const std::vector<double> wanted = {sparsity + s, sparsity - s / 3, sparsity - s, sparsity + s / 2};
            const auto whole = whole_units(wanted, layers, sparsity);
            double kept = 0, uniform = 0;
            for (std::size_t i = 0; i < layers.size(); ++i) {
                const auto n = static_cast<double>(layers[i].n_units);
                EXPECT_NEAR(whole[i] * n, std::nearbyint(whole[i] * n), 1e-9);
                EXPECT_LE(std::fabs(whole[i] - wanted[i]), 2 / n);
                kept += (1 - whole[i]) * n * static_cast<double>(layers[i].step_weights);
                uniform += (n - std::nearbyint(n * sparsity)) * static_cast<double>(layers[i].step_weights);
            }
            EXPECT_LE(std::fabs(kept - uniform), 16) << sparsity << " " << spread;  // half a step of the second smallest
        }
}

// ---- as a step

struct Child {
    std::string folder;
    Checkpoint checkpoint;
    CompressReport report;
};
std::optional<Child> prune_folder(const std::string& parent_folder, const PruneStep& step) {
    auto parent = Checkpoint::open(parent_folder);
    if (!parent.ok()) return std::nullopt;
    parent->kind = Checkpoint::Kind::random;  // it has no tokenizer: calibrated on random ids
    Child child;
    child.folder = ::testing::TempDir() + "/skiff_pruned_" + std::to_string(::getpid());
    std::filesystem::remove_all(child.folder);
    Recipe recipe;
    recipe.steps.push_back(step);
    CompressOptions options;
    options.output = child.folder;
    options.n_threads = 2;
    const testing::WeightsAsGradients gradients;
    options.gradients = &gradients;
    auto report = run_recipe(*parent, recipe, options);
    EXPECT_TRUE(report.ok()) << report.error().to_string();
    if (!report.ok()) return std::nullopt;
    child.report = std::move(*report);
    auto opened = Checkpoint::open(child.folder);
    EXPECT_TRUE(opened.ok()) << opened.error().to_string();
    if (!opened.ok()) return std::nullopt;
    child.checkpoint = std::move(*opened);
    return child;
}

PruneStep step_of(const char* method, const char* pattern, const char* scheme = nullptr) {
    PruneStep step;
    step.method = method;
    step.target = *parse_prune_target(pattern);
    if (scheme != nullptr) step.scheme = *parse_scheme(scheme);
    step.calibration = {"", 16, 16};
    return step;
}

TEST(PruneStepOnModels, NothingGoneIsTheSameModel) {
    for (const std::string& folder : testing::small_model_folders()) {
        SCOPED_TRACE(folder);
        const auto child = prune_folder(folder, step_of("magnitude", "0%"));
        ASSERT_TRUE(child);
        const auto parent = Checkpoint::open(folder);
        const auto text = testing::random_text(parent->spec.n_vocab);
        EXPECT_EQ(testing::logits_of(parent->spec, *parent->weights, text), testing::logits_of(child->checkpoint.spec, *child->checkpoint.weights, text));
        std::filesystem::remove_all(child->folder);
    }
}

// What is written says what it is, has the bytes that were promised, and runs on every kernel alike.
TEST(PruneStepOnModels, KeepsItsShareAndRuns) {
    const auto folders = testing::small_model_folders();
    ASSERT_FALSE(folders.empty());
    for (const std::string& folder : folders)
        for (const PruneStep& step : {step_of("magnitude", "50%", "w8g32"), step_of("magnitude-l2", "block16x32:50%", "w4g32r"), step_of("magnitude", "2:4"), step_of("magnitude", "4x1:50%", "w4g32")}) {
            SCOPED_TRACE(folder + " " + step.target.name());
            const auto child = prune_folder(folder, step);
            ASSERT_TRUE(child);
            std::size_t n_sparse = 0;
            std::uint64_t bytes = 0;
            for (const auto& [key, declared] : child->checkpoint.spec.tensors) {
                if (!child->checkpoint.weights->contains(key)) continue;
                const auto weight = child->checkpoint.weights->load(key);
                ASSERT_TRUE(weight.ok()) << weight.error().to_string();
                if (weight->sparse() == nullptr) continue;
                ++n_sparse;
                bytes += weight->stored_bytes();
                const PruneTarget target = step.target.resolved(weight->n_rows(), weight->n_columns());
                EXPECT_EQ(weight->sparse()->n_values(), target.n_kept_units(weight->n_rows(), weight->n_columns()) * target.pattern.unit_values()) << key;
                EXPECT_EQ(weight->sparse()->pattern, target.pattern);
            }
            EXPECT_GT(n_sparse, 0u);
            const auto text = testing::random_text(child->checkpoint.spec.n_vocab);
            const auto logits = testing::logits_of(child->checkpoint.spec, *child->checkpoint.weights, text);
            for (float logit : logits) ASSERT_TRUE(std::isfinite(logit));
            EXPECT_GT(child->report.manifest.tensors.size(), n_sparse);
            std::filesystem::remove_all(child->folder);
        }
}

TEST(PruneStepOnModels, MethodsThatLookAtTheDataGoThroughTheWalk) {
    if (!algebra_available().ok()) GTEST_SKIP() << "OpenBLAS cannot be opened here";
    const auto folders = testing::small_model_folders();
    for (const char* method : {"wanda", "sparsegpt"})
        for (std::size_t i = 0; i < folders.size(); i += 4) {
            SCOPED_TRACE(folders[i] + " " + method);
            const auto child = prune_folder(folders[i], step_of(method, "50%", "w8g32"));
            ASSERT_TRUE(child);
            for (const std::string& remark : child->report.remarks) EXPECT_EQ(remark.find("not measured"), std::string::npos) << remark;
            std::filesystem::remove_all(child->folder);
        }
}

// By every method that has scores and in blocks too: together as much goes as was asked for, and layers differ.
TEST(PruneStepOnModels, GlobalAllocationFollowsTheMethodsScores) {
    if (!algebra_available().ok()) GTEST_SKIP() << "OpenBLAS cannot be opened here";
    for (const PruneMethod& method : prune_methods())
        for (const char* pattern : {"50%", "block2x4:50%"}) {
            SCOPED_TRACE(std::string(method.name) + " " + pattern);
            PruneStep step = step_of(std::string(method.name).c_str(), pattern);
            step.allocation = PruneStep::Allocation::global;
            if (method.scores == nullptr) {
                const auto parent = Checkpoint::open(testing::small_model_folders()[0]);
                const auto work = make_step_work(*parent, RecipeStep(step));
                ASSERT_FALSE(work.ok());
                EXPECT_NE(work.error().message.find("cannot be compared"), std::string::npos) << work.error().message;
                continue;
            }
            const auto child = prune_folder(testing::small_model_folders()[0], step);
            ASSERT_TRUE(child);
            std::int64_t kept = 0, all = 0;
            std::set<int> shares;
            for (const auto& [key, declared] : child->checkpoint.spec.tensors) {
                if (!child->checkpoint.weights->contains(key)) continue;
                const auto weight = child->checkpoint.weights->load(key);
                if (weight->sparse() == nullptr) continue;
                kept += weight->sparse()->n_values(), all += element_count(weight->shape);
                shares.insert(static_cast<int>(100 * weight->sparse()->n_values() / element_count(weight->shape)));
            }
            EXPECT_NEAR(static_cast<double>(kept) / static_cast<double>(all), 0.5, 0.03);  // edges of blocks
            EXPECT_GT(shares.size(), 2u);
            std::filesystem::remove_all(child->folder);
        }
}

// The bias takes exactly the mean of what the outputs lost: E[(W - Q) x], with what the calibration text showed; and the config says that there is one.
TEST(PruneStepOnModels, BiasesTakeTheMeanOfWhatGoes) {
    if (!algebra_available().ok()) GTEST_SKIP() << "OpenBLAS cannot be opened here";
    const std::string folder = std::string(SKIFF_TEST_DATA_DIR) + "/models/llama";
    PruneStep step = step_of("magnitude", "50%");
    step.corrections.bias = true;
    const auto child = prune_folder(folder, step);
    ASSERT_TRUE(child);
    EXPECT_TRUE(child->checkpoint.config["attention_bias"].is_bool());
    auto parent = Checkpoint::open(folder);
    parent->kind = Checkpoint::Kind::random;
    const auto text = load_calibration(*parent, step.calibration);
    ASSERT_TRUE(text.ok());
    CalibrationWalk walk(parent->spec, *text, 1);
    ASSERT_TRUE(walk.embed(*parent->weights).ok());
    const auto inputs = walk.observe(1, 1, *parent->weights, StatisticsNeed::moments);
    ASSERT_TRUE(inputs.ok());
    const std::string module = "model.layers.0.self_attn.q_proj";
    const auto before = *parent->weights->load(module + ".weight"), after = *child->checkpoint.weights->load(module + ".weight"), bias = *child->checkpoint.weights->load(module + ".bias");
    const std::vector<float>& mean = inputs->at(module + ".weight")->mean;
    std::vector<float> w(mean.size()), q(mean.size()), biases;
    ASSERT_TRUE(to_floats(*bias.plain(), biases));
    double largest = 0;
    for (std::int64_t row = 0; row < before.n_rows(); ++row) {
        before.row(row, w.data());
        after.row(row, q.data());
        double expected = 0;
        for (std::size_t i = 0; i < mean.size(); ++i) expected += static_cast<double>(w[i] - q[i]) * static_cast<double>(mean[i]);
        EXPECT_NEAR(biases[static_cast<std::size_t>(row)], expected, 1e-5 + 1e-3 * std::fabs(expected));
        largest = std::max(largest, std::fabs(expected));
    }
    EXPECT_GT(largest, 1e-4);
    std::filesystem::remove_all(child->folder);
}

TEST(PruneStepOnModels, GlobalMagnitudeGivesLayersTheirOwnShare) {
    PruneStep step = step_of("magnitude", "50%");
    step.allocation = PruneStep::Allocation::global;
    const auto child = prune_folder(testing::small_model_folders()[0], step);
    ASSERT_TRUE(child);
    std::int64_t kept = 0, all = 0;
    for (const auto& [key, declared] : child->checkpoint.spec.tensors) {
        if (!child->checkpoint.weights->contains(key)) continue;
        const auto weight = child->checkpoint.weights->load(key);
        if (weight->sparse() == nullptr) continue;
        kept += weight->sparse()->n_values(), all += element_count(weight->shape);
    }
    EXPECT_NEAR(static_cast<double>(kept) / static_cast<double>(all), 0.5, 0.01);
    std::filesystem::remove_all(child->folder);
}

struct Kept {
    std::map<std::string, std::vector<float>> values;  // of pruned matrices
    std::int64_t n_values = 0;
};
Kept kept_of(const Checkpoint& child) {
    Kept kept;
    for (const auto& [key, declared] : child.spec.tensors) {
        if (!child.weights->contains(key)) continue;
        const auto weight = child.weights->load(key);
        if (weight->sparse() == nullptr) continue;
        kept.n_values += weight->sparse()->n_values();
        std::vector<float>& values = kept.values[key];
        values.resize(static_cast<std::size_t>(element_count(weight->shape)));
        for (std::int64_t row = 0; row < weight->n_rows(); ++row) weight->row(row, values.data() + row * weight->n_columns());
    }
    return kept;
}

// Where the gradients are the weights, weight times gradient orders them as their magnitude does: also of matrices that are stored the other way round.
TEST(PruneStepOnModels, WeightTimesGradientIsAskedOfEveryMatrix) {
    for (const std::string& folder : testing::small_model_folders()) {
        SCOPED_TRACE(folder);
        const auto expected = prune_folder(folder, step_of("magnitude", "40%"));
        ASSERT_TRUE(expected);
        const Kept by_magnitude = kept_of(expected->checkpoint);
        ASSERT_FALSE(by_magnitude.values.empty());
        for (const char* method : {"snip", "taylor"}) {
            const auto child = prune_folder(folder, step_of(method, "40%"));
            ASSERT_TRUE(child);
            EXPECT_EQ(kept_of(child->checkpoint).values, by_magnitude.values) << method;
            EXPECT_EQ(child->report.method_remarks, std::vector<std::string>());
            EXPECT_TRUE(child->checkpoint.manifest["steps"].items()[0]["calibration"].is_object());
        }
        std::filesystem::remove_all(expected->folder);
    }
}

TEST(PruneStepOnModels, WithoutTrainingGradientsAreRefused) {
    const auto parent = Checkpoint::open(testing::small_model_folders()[0]);
    ASSERT_TRUE(parent.ok());
    for (const char* method : {"snip", "taylor"}) {
        const RecipeStep step = step_of(method, "50%");
        const auto work = make_step_work(*parent, step);
        ASSERT_FALSE(work.ok());
        EXPECT_NE(work.error().to_string().find("built without LibTorch"), std::string::npos) << work.error().to_string();
    }
}

// Layers may differ; the model keeps what it would with one share for all, and nothing changes at 0 %.
TEST(PruneStepOnModels, MeasuredAllocationsKeepTheMean) {
    if (!algebra_available().ok()) GTEST_SKIP() << "OpenBLAS cannot be opened here";
    const auto folders = testing::small_model_folders();
    for (const auto& [allocation, word] : {std::pair{PruneStep::Allocation::owl, "outlier_ratios"}, std::pair{PruneStep::Allocation::sensitivity, "mean_kl"}})
        for (std::size_t i = 0; i < folders.size(); i += 5)
            for (const char* text : {"magnitude 0%", "magnitude 50%", "wanda 60%", "taylor 30%"}) {
                SCOPED_TRACE(folders[i] + " " + word + " " + text);
                const std::string method = std::string(text).substr(0, std::string(text).find(' ')), pattern = std::string(text).substr(method.size() + 1);
                const auto uniform = prune_folder(folders[i], step_of(method.c_str(), pattern.c_str()));
                ASSERT_TRUE(uniform);
                const Kept expected = kept_of(uniform->checkpoint);
                PruneStep step = step_of(method.c_str(), pattern.c_str());
                step.allocation = allocation;
                const auto child = prune_folder(folders[i], step);
                ASSERT_TRUE(child);
                const Kept kept = kept_of(child->checkpoint);
                std::int64_t smallest = INT64_MAX;  // matrices lose whole columns of a row each
                for (const auto& [key, values] : kept.values) smallest = std::min(smallest, child->checkpoint.spec.shape(child->checkpoint.spec.tensors.at(key))[0]);
                EXPECT_LE(std::llabs(kept.n_values - expected.n_values), smallest);
                if (pattern == "0%") {
                    EXPECT_EQ(kept.values, expected.values);
                }
                const Json& found = child->report.manifest.steps.back()["found"];
                EXPECT_TRUE(found["sparsities"].is_object());
                if (pattern != "0%") {
                    EXPECT_EQ(found[word].size(), static_cast<std::size_t>(child->checkpoint.spec.n_layers));
                    const auto& remarks = child->report.remarks;
                    EXPECT_TRUE(std::any_of(remarks.begin(), remarks.end(), [](const std::string& remark) { return remark.starts_with("blocks lose "); }));
                    if (allocation == PruneStep::Allocation::sensitivity) {
                        EXPECT_EQ(found["tokens"].int_or(0), child->report.manifest.steps.back()["calibration"]["tokens"].int_or(-1));
                    }
                }
            }
    PruneStep nm = step_of("magnitude", "2:4");
    nm.allocation = PruneStep::Allocation::owl;
    const auto parent = Checkpoint::open(folders[0]);
    auto work = make_step_work(*parent, nm);
    ASSERT_TRUE(work.ok());
    ThreadPool pool(1);
    EXPECT_FALSE((*work)->plan(pool, nullptr).ok());
}

TEST(Allocation, IsToldByBlocks) {
    const auto parent = Checkpoint::open(std::string(SKIFF_TEST_DATA_DIR) + "/models/llama");
    ASSERT_TRUE(parent.ok());
    std::vector<PrunedMatrix> matrices;
    std::vector<double> shares;
    for (const auto& [key, share] : {std::pair{"model.layers.0.mlp.up_proj.weight", 0.5}, {"model.layers.0.mlp.gate_proj.weight", 0.25}, {"model.layers.1.mlp.up_proj.weight", 0.1}, {"lm_head.weight", 0.9}}) {
        const Shape shape = parent->spec.shape(parent->spec.tensors.at(key));
        matrices.push_back({key, shape[0], shape[1]});
        shares.push_back(share);
    }
    EXPECT_EQ(lost_by_blocks(parent->spec, matrices, shares), "blocks lose 38, 10 %");
}

// The logits of some of the text fit: the figure is of those, and says so.
TEST(PruneStepOnModels, ProbesSayHowMuchTextTheySaw) {
    const auto parent = Checkpoint::open(std::string(SKIFF_TEST_DATA_DIR) + "/models/llama");
    ASSERT_TRUE(parent.ok());
    const auto text = testing::random_text(parent->spec.n_vocab);
    const auto whole = RemovalProbe::create(*parent, text, 1), part = RemovalProbe::create(*parent, text, 1, std::uint64_t(20 * parent->spec.n_vocab) * sizeof(float));
    ASSERT_TRUE(whole.ok() && part.ok());
    EXPECT_EQ(whole->n_tokens(), text.n_tokens());
    EXPECT_TRUE(whole->remarks(text).empty());
    EXPECT_EQ(part->n_tokens(), 9);
    ASSERT_EQ(part->remarks(text).size(), 1u);
    EXPECT_NE(part->remarks(text)[0].find("measured on 9 of the 43 tokens"), std::string::npos) << part->remarks(text)[0];
}

// A block of much larger weights in one column has the outliers, and keeps more.
TEST(PruneStepOnModels, OutliersKeepMore) {
    if (!algebra_available().ok()) GTEST_SKIP() << "OpenBLAS cannot be opened here";
    PruneStep step = step_of("wanda", "50%");
    step.allocation = PruneStep::Allocation::owl;
    const auto child = prune_folder(std::string(SKIFF_TEST_DATA_DIR) + "/models/llama", step);
    ASSERT_TRUE(child);
    const Json& found = child->report.manifest.steps.back()["found"];
    for (const auto& a : found["outlier_ratios"].members())
        for (const auto& b : found["outlier_ratios"].members())
            if (a.second.number_or(0) > b.second.number_or(0)) {
                EXPECT_LT(found["sparsities"][a.first].number_or(1), found["sparsities"][b.first].number_or(0));
            }
    std::filesystem::remove_all(child->folder);
}

// Outliers beside the codes: nearer to the parent than the codes alone, through the file and the kernels.
TEST(OutliersOnModels, BringTheModelNearerToItsParent) {
    for (const std::string& folder : testing::small_model_folders()) {
        SCOPED_TRACE(folder);
        const auto parent = Checkpoint::open(folder);
        ASSERT_TRUE(parent.ok());
        const auto text = testing::random_text(parent->spec.n_vocab);
        const auto wanted = testing::logits_of(parent->spec, *parent->weights, text);
        std::map<double, double> errors, weight_errors;
        for (double share : {0.0, 0.3}) {
            QuantizeStep step;
            step.schemes = default_wish(*parse_scheme("w3g32"));
            step.schemes.head = step.schemes.embedding = std::nullopt;
            step.outliers = share;
            Recipe recipe;
            recipe.steps.push_back(step);
            CompressOptions options;
            options.output = ::testing::TempDir() + "/skiff_outliers_" + std::to_string(::getpid());
            std::filesystem::remove_all(options.output);
            const auto report = run_recipe(*parent, recipe, options);
            ASSERT_TRUE(report.ok()) << report.error().to_string();
            const auto child = Checkpoint::open(options.output);
            ASSERT_TRUE(child.ok()) << child.error().to_string();
            std::size_t n_terms = 0;
            for (const Block& block : child->spec.blocks)
                for (const Op& op : block.ops)
                    if (const auto* linear = std::get_if<LinearOp>(&op.detail))
                        for (const LinearTerm& term : linear->terms) n_terms += term.kind == LinearTerm::Kind::sparse;
            EXPECT_EQ(n_terms > 0, share > 0);
            for (const ManifestTensor& tensor : report->manifest.tensors) weight_errors[share] += tensor.relative_squared_error;
            double sum = 0;
            const auto logits = testing::logits_of(child->spec, *child->weights, text);
            for (std::size_t i = 0; i < logits.size(); ++i) sum += std::pow(static_cast<double>(logits[i]) - wanted[i], 2);
            errors[share] = sum;
            std::filesystem::remove_all(options.output);
        }
        EXPECT_LT(weight_errors[0.3], weight_errors[0.0]);
        EXPECT_LT(errors[0.3], errors[0.0]);
    }
}

TEST(PruneStepOnModels, RefusalsSayWhatToDo) {
    const auto folders = testing::small_model_folders();
    const auto parent = Checkpoint::open(folders[0]);
    ASSERT_TRUE(parent.ok());
    Recipe recipe;
    recipe.steps.push_back(step_of("magnitude", "50%", "w4g32a"));
    CompressOptions options;
    options.output = ::testing::TempDir() + "/skiff_pruned_refused";
    const auto refused = run_recipe(*parent, recipe, options);
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.error().to_string().find("no code for zero"), std::string::npos);
    EXPECT_FALSE(find_prune_method("best").ok());
}

}  // namespace
}  // namespace skiff
