// Pruning methods against reference formulas in numpy (tests/golden/pruning.py), and each of them as a step on a small model.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "base/json.h"
#include "base/rng.h"
#include "compress/algebra/algebra.h"
#include "compress/pipeline.h"
#include "compress/prune/allocate.h"
#include "compress/prune/prune_method.h"
#include "compress/small_models_testing.h"

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
            for (const InputStatistics* given : {&inputs, static_cast<const InputStatistics*>(nullptr)}) {
                const auto pruned = method.prune({weight, target, pool, given, 0.01, &remarks});
                ASSERT_TRUE(pruned.ok()) << pruned.error().to_string();
                const auto sparse = make_sparse(pruned->weight, target.pattern, pruned->bitmask);
                ASSERT_TRUE(sparse.ok()) << sparse.error().to_string();
                EXPECT_EQ(sparse->sparse()->n_values(), target.n_kept_units(n_rows, n_columns) * target.pattern.unit_values());
                if (target.sparsity == 0) {
                    EXPECT_EQ(kept_rows(*pruned, target.pattern), kept_rows({weight, full_bitmask({}, n_rows, n_columns)}, {}));
                }
            }
            EXPECT_EQ(!remarks.empty(), method.needs != StatisticsNeed::none);
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

TEST(Allocation, OwlSparesLayersWithOutliers) {
    const std::vector<float> scores = {1, 1, 1, 1, 1, 1, 1, 1, 1, 91};
    EXPECT_DOUBLE_EQ(outlier_ratio(scores), 0.1);
    const std::vector<double> ratios = {0.01, 0.02, 0.05}, sizes = {1, 1, 2};
    const auto sparsities = owl_sparsities(ratios, sizes, 0.6);
    EXPECT_NEAR((sparsities[0] + sparsities[1] + 2 * sparsities[2]) / 4, 0.6, 1e-12);
    EXPECT_NEAR(sparsities[0] - sparsities[2], 0.16, 1e-12);
    EXPECT_GT(sparsities[0], sparsities[1]);
    EXPECT_GT(sparsities[1], sparsities[2]);
    EXPECT_EQ(owl_sparsities(std::vector<double>{0.1, 0.1}, std::vector<double>{1, 3}, 0.5), (std::vector<double>{0.5, 0.5}));
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
