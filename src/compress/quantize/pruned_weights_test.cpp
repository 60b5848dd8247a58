// Prune, then quantize: what was pruned stays pruned, by every method and on every scheme that has a code for zero.
#include "compress/quantize/pruned_weights.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/atomic_file.h"
#include "compress/method.h"
#include "compress/pipeline.h"
#include "compress/small_models_testing.h"
#include "tensor/prune_target.h"

namespace skiff {
namespace {

class PrunedThenQuantized : public ::testing::Test {
protected:
    void SetUp() override {
        if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
        folder_ = (std::filesystem::temp_directory_path() / ("skiff_kept_" + std::to_string(::getpid()))).string();
        ASSERT_TRUE(make_directories(folder_).ok());
    }
    void TearDown() override { (void)remove_all(folder_); }

    Checkpoint llama() const {
        const std::string config = join_path(folder_, "config.json");
        std::ofstream(config) << R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
            "vocab_size": 64, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu", "torch_dtype": "bfloat16"})";
        return *Checkpoint::open("random:" + config);
    }
    Result<CompressReport> step(const Checkpoint& parent, const RecipeStep& step, const std::string& name) const {
        CompressOptions options;
        options.output = join_path(folder_, name);
        options.if_exists = AtomicDirectory::IfExists::replace;
        options.unfinished = CompressOptions::Unfinished::restart;
        options.n_threads = 2;
        return run_recipe(parent, {{step}, 0}, options);
    }
    Checkpoint opened(const std::string& name) const {
        auto checkpoint = Checkpoint::open(join_path(folder_, name));
        EXPECT_TRUE(checkpoint.ok()) << checkpoint.error().to_string();
        checkpoint->kind = Checkpoint::Kind::random;  // it has no tokenizer: calibrated on random ids
        return std::move(*checkpoint);
    }
    Checkpoint pruned(const Checkpoint& parent, const char* pattern, const char* scheme = nullptr) const {
        PruneStep prune;
        prune.target = *parse_prune_target(pattern);
        if (scheme != nullptr) prune.scheme = *parse_scheme(scheme);
        const auto report = step(parent, prune, "pruned");
        EXPECT_TRUE(report.ok()) << report.error().to_string();
        return opened("pruned");
    }
    std::string folder_;
};

QuantizeStep quantize(const Scheme& scheme, std::string_view method = "nearest") {
    QuantizeStep step;
    step.method = method;
    step.schemes = default_wish(scheme);
    step.calibration = {"", 4, 32};
    step.method_options.n_iterations = 3;
    return step;
}
QuantizeStep quantize(const char* scheme, std::string_view method = "nearest") { return quantize(*parse_scheme(scheme), method); }

std::vector<std::byte> mask_of(const Weight& weight) { return {weight.sparse()->bitmask.data.begin(), weight.sparse()->bitmask.data.end()}; }

// Every pruned weight of the parent has its mask in the child, and codes of the scheme for what is kept. Their number.
int count_same_masks(const Checkpoint& parent, const Checkpoint& child, const Scheme& scheme) {
    int n = 0;
    for (const auto& [key, declared] : parent.spec.tensors) {
        if (!parent.weights->contains(key)) continue;
        const auto before = *parent.weights->load(key), after = *child.weights->load(key);
        if (before.sparse() == nullptr) continue;
        EXPECT_NE(after.sparse(), nullptr) << key << " is " << after.encoding_name();
        if (after.sparse() == nullptr) continue;
        EXPECT_EQ(after.sparse()->pattern, before.sparse()->pattern) << key;
        EXPECT_EQ(mask_of(after), mask_of(before)) << key;
        Scheme expected = scheme;
        if (scheme.kind == NumberKind::integer && !scheme.relative_scales() && scheme.group_size >= after.n_columns()) expected.group_size = 0;  // one group is the whole row
        EXPECT_EQ(after.sparse()->scheme.name(), expected.name()) << key;
        n += mask_of(after) == mask_of(before);
    }
    return n;
}

TEST_F(PrunedThenQuantized, MasksStayByEveryMethodOnEverySchemeWithAZero) {
    const Checkpoint parent = llama();
    int n_made = 0, n_refused = 0;
    for (const char* pattern : {"50%", "2:4", "block16x32:50%"}) {
        const Checkpoint half = pruned(parent, pattern);
        for (const SchemePreset& preset : scheme_presets())
            for (const WeightMethod& method : weight_methods()) {
                if (!preset.scheme.is_coded() || !method.defined_on(preset.scheme).ok()) continue;
                if (std::string_view(pattern) != "50%" && preset.name != "w4g32r") continue;
                SCOPED_TRACE(std::string(method.name) + " " + std::string(preset.name) + " of " + pattern);
                const auto report = step(half, quantize(preset.scheme, method.name), "child");
                if (!sparse_defined_on(preset.scheme).ok()) {
                    ASSERT_FALSE(report.ok());
                    EXPECT_NE(report.error().message.find("is pruned"), std::string::npos) << report.error().message;
                    ++n_refused;
                    continue;
                }
                ASSERT_TRUE(report.ok()) << report.error().to_string();
                const Checkpoint child = opened("child");
                EXPECT_EQ(count_same_masks(half, child, preset.scheme), 7);
                for (const float logit : testing::logits_of(child.spec, *child.weights, testing::random_text(64))) ASSERT_TRUE(std::isfinite(logit));
                ++n_made;
            }
    }
    EXPECT_GT(n_made, 20);
    EXPECT_GT(n_refused, 0);
}

// Prune and round in one step, or prune and then round: the same model, on every architecture of the test data.
TEST_F(PrunedThenQuantized, OneStepOrTwoAreTheSameModel) {
    std::size_t n_alike = 0;
    for (const std::string& folder : testing::small_model_folders()) {
        SCOPED_TRACE(folder);
        const auto parent = Checkpoint::open(folder);
        ASSERT_TRUE(parent.ok());
        const auto text = testing::random_text(parent->spec.n_vocab);
        const Checkpoint once = pruned(*parent, "50%", "w8g32");
        const auto expected = testing::logits_of(once.spec, *once.weights, text);
        const auto report = step(pruned(*parent, "50%"), quantize("w8g32"), "child");
        ASSERT_TRUE(report.ok()) << report.error().to_string();
        const Checkpoint child = opened("child");
        // Of what is kept scales may ask for f32, where those of the whole weight do not: prune holds them as it said before it chose.
        bool alike = true;
        for (const auto& [key, declared] : once.spec.tensors)
            if (once.weights->contains(key) && once.weights->load(key)->sparse() != nullptr) alike = alike && once.weights->load(key)->sparse()->scheme == child.weights->load(key)->sparse()->scheme;
        if (!alike) continue;
        EXPECT_EQ(testing::logits_of(child.spec, *child.weights, text), expected);
        ++n_alike;
    }
    EXPECT_GT(n_alike, testing::small_model_folders().size() / 2);
}

TEST_F(PrunedThenQuantized, CalibratedMethodsGoThroughTheWalkOfEveryKindOfModel) {
    const auto folders = testing::small_model_folders();
    for (std::size_t i = 0; i < folders.size(); i += 4) {
        SCOPED_TRACE(folders[i]);
        auto parent = Checkpoint::open(folders[i]);
        ASSERT_TRUE(parent.ok());
        const Checkpoint half = pruned(*parent, "50%");
        QuantizeStep wanted = quantize("w4g32r", "gptq");
        wanted.corrections = {.scale = true, .norm = true, .bias = true};
        const auto report = step(half, wanted, "child");
        ASSERT_TRUE(report.ok()) << report.error().to_string();
        EXPECT_GT(count_same_masks(half, opened("child"), *parse_scheme("w4g32r")), 0);
    }
}

// Transforms scale rows and columns, which leaves zeros where they are.
TEST_F(PrunedThenQuantized, MasksStayUnderTransformsAndCorrections) {
    const Checkpoint half = pruned(llama(), "50%");
    for (const char* transform : {"awq", "smooth"}) {
        SCOPED_TRACE(transform);
        QuantizeStep wanted = quantize("w8g32", "gptq");
        wanted.transforms = {transform};
        wanted.corrections = {.scale = true, .norm = true};
        const auto report = step(half, wanted, "child");
        ASSERT_TRUE(report.ok()) << report.error().to_string();
        EXPECT_EQ(count_same_masks(half, opened("child"), *parse_scheme("w8g32")), 7);
    }
}

TEST_F(PrunedThenQuantized, IsRefusedInWordsWhereItCannotBe) {
    const Checkpoint half = pruned(llama(), "50%");
    const auto refused = [&](const Checkpoint& parent, const QuantizeStep& wanted, const char* word) {
        const auto report = step(parent, wanted, "child");
        ASSERT_FALSE(report.ok()) << word;
        EXPECT_NE(report.error().message.find(word), std::string::npos) << report.error().message;
    };
    QuantizeStep wanted = quantize("w8g32");
    wanted.loadable = QuantizeStep::Loadable::elsewhere;
    refused(half, wanted, "no other program loads");
    wanted = quantize("w8");
    wanted.outliers = 0.05;
    refused(half, wanted, "--outliers");
    wanted = quantize("w8");
    wanted.inputs.kind = InputScaleRule::Kind::fixed;
    refused(half, wanted, "--activations");
    refused(half, quantize("w4g32a"), "no code for zero");
    // What has no form without zeros is written out where that was asked for.
    wanted = quantize("w4g32a");
    wanted.quantized = QuantizeStep::Quantized::requantize;
    auto report = step(half, wanted, "child");
    ASSERT_TRUE(report.ok()) << report.error().to_string();
    EXPECT_EQ(opened("child").weights->load("model.layers.0.mlp.up_proj.weight")->encoding_name(), "w4g32a");
    // Codes are not rounded twice unasked; asked, the mask stays.
    const Checkpoint coded = pruned(llama(), "50%", "w8g32");
    refused(coded, quantize("w4g32"), "is quantized already");
    wanted = quantize("w4g32");
    wanted.quantized = QuantizeStep::Quantized::requantize;
    report = step(coded, wanted, "child");
    ASSERT_TRUE(report.ok()) << report.error().to_string();
    EXPECT_EQ(count_same_masks(coded, opened("child"), *parse_scheme("w4g32")), 7);
}

// Of a sum of factors and of what pruning left, both parts are rounded and the mask stays; or the factors keep 16 bits, where a rule says so.
TEST_F(PrunedThenQuantized, SparsePlusLowRankKeepsBothParts) {
    FactorizeStep split;
    split.method = "sparse-low-rank:50%";
    split.rule = FactorizeStep::Rule::rank;
    split.amount = 8;
    split.multiple_of = 1;
    split.calibration = {"", 4, 32};
    ASSERT_TRUE(step(llama(), split, "split").ok());
    const Checkpoint both = opened("split");
    const std::string module = "model.layers.0.mlp.up_proj";
    for (const char* method : {"nearest", "gptq"})
        for (const bool factors : {true, false}) {
            SCOPED_TRACE(std::string(method) + (factors ? " of both" : " of what is sparse"));
            QuantizeStep wanted = quantize("w8g32", method);
            if (!factors) wanted.schemes.rules.push_back({"*.low_rank_*", std::nullopt});
            const auto report = step(both, wanted, "child");
            ASSERT_TRUE(report.ok()) << report.error().to_string();
            const Checkpoint child = opened("child");
            EXPECT_EQ(count_same_masks(both, child, *parse_scheme("w8g32")), 7);
            const auto up = *child.weights->load(module + ".low_rank_up"), down = *child.weights->load(module + ".low_rank_down");
            EXPECT_EQ(up.codes() != nullptr && down.codes() != nullptr, factors) << up.encoding_name() << ", " << down.encoding_name();
            const auto text = testing::random_text(64);
            EXPECT_LT(testing::largest_difference(testing::logits_of(both.spec, *both.weights, text), testing::logits_of(child.spec, *child.weights, text)), 0.1);
        }
}

// A checkpoint of another program holds its zeros as numbers.
TEST_F(PrunedThenQuantized, ZerosOfPlainWeightsAreLeftOut) {
    Checkpoint parent = llama();
    const Checkpoint half = pruned(parent, "2:4");
    ThreadPool pool(1);
    auto edited = std::make_shared<EditedWeights>(parent.weights);
    for (const auto& [key, declared] : half.spec.tensors)
        if (const auto weight = *half.weights->load(key); weight.sparse() != nullptr) edited->replace(key, densified(weight));
    parent.weights = edited;
    const auto report = step(parent, quantize("w8g32"), "child");
    ASSERT_TRUE(report.ok()) << report.error().to_string();
    EXPECT_EQ(count_same_masks(half, opened("child"), *parse_scheme("w8g32")), 7);
    const bool said = std::any_of(report->remarks.begin(), report->remarks.end(), [](const std::string& text) { return text.find("zeros are left out (2:4)") != std::string::npos; });
    EXPECT_TRUE(said);
}

TEST(PatternOfZeros, IsWhatTakesFewestBytes) {
    Rng rng(5);
    std::vector<float> values(64 * 64);
    for (float& value : values) value = rng.normal();
    const Scheme w4 = *parse_scheme("w4g32"), w8 = *parse_scheme("w8g32");
    const auto zeroed = [&](auto is_zero) {
        std::vector<float> some = values;
        for (std::size_t i = 0; i < some.size(); ++i)
            if (is_zero(static_cast<std::int64_t>(i / 64), static_cast<std::int64_t>(i % 64))) some[i] = 0;
        return make_float_weight({64, 64}, std::move(some));
    };
    EXPECT_FALSE(pattern_of_zeros(zeroed([](auto, auto) { return false; }), w4));
    EXPECT_FALSE(pattern_of_zeros(zeroed([](auto, auto column) { return column % 8 == 0; }), w8));   // few
    EXPECT_FALSE(pattern_of_zeros(zeroed([](auto, auto column) { return column % 3 == 0; }), w4));   // 1 + 2.7 bits of 4
    EXPECT_EQ(pattern_of_zeros(zeroed([](auto, auto column) { return column % 4 < 2; }), w4), (SparsePattern{1, 1, 2, 4}));
    EXPECT_EQ(pattern_of_zeros(zeroed([](auto, auto column) { return column % 8 < 5; }), w4), (SparsePattern{1, 1, 0, 0}));
    EXPECT_EQ(pattern_of_zeros(zeroed([](auto row, auto column) { return (row / 16 + column / 32) % 2 == 0; }), w4), (SparsePattern{16, 32, 0, 0}));
}

// GPTQ that knows of the mask loses less than one that does not, and than rounding to nearest.
TEST(MaskedGptq, MakesUpForErrorsWithWhatIsKept) {
    if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
    constexpr std::int64_t n_rows = 24, n_columns = 96, n_tokens = 500;
    Rng rng(7);
    std::vector<float> values(n_rows * n_columns), x(n_columns);
    for (float& value : values) value = rng.normal();
    const Weight dense = make_float_weight({n_rows, n_columns}, values);
    std::vector<float> scores(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) scores[i] = std::fabs(values[i]);
    auto mask = choose_units(*parse_prune_target("50%"), scores, n_rows, n_columns);
    const Weight pruned = *make_sparse(dense, {}, mask);
    InputStatistics inputs;
    inputs.n_tokens = n_tokens;
    inputs.gram.assign(n_columns * n_columns, 0);
    for (std::int64_t t = 0; t < n_tokens; ++t) {
        for (std::size_t c = 0; c < x.size(); ++c) x[c] = (c > 0 ? 0.8f * x[c - 1] : 0) + rng.normal();
        for (std::size_t a = 0; a < x.size(); ++a)
            for (std::size_t b = 0; b < x.size(); ++b) inputs.gram[a * x.size() + b] += x[a] * x[b] / static_cast<float>(n_tokens);
    }
    for (std::size_t a = 0; a < x.size(); ++a) inputs.mean_square.push_back(inputs.gram[a * x.size() + a]);
    ThreadPool pool(2);
    for (const char* name : {"w4g32", "w3g32r", "n4g32r"})
        for (const char* method : {"gptq", "autoround"}) {
            SCOPED_TRACE(std::string(method) + " " + name);
            const Scheme scheme = *parse_scheme(name);
            if (!sparse_defined_on(scheme).ok()) continue;
            const auto lost = [&](const char* by, const Weight& weight) {
                const auto codes = (*find_weight_method(by))->encode({weight, scheme, ScaleRule::search, pool, &inputs});
                EXPECT_TRUE(codes.ok()) << codes.error().to_string();
                return testing::output_loss(pruned, *make_sparse(*codes, {}, mask), inputs).lost;
            };
            EXPECT_LT(lost(method, pruned), lost("nearest", pruned));
            // Learnt offsets of half a step at most do not take zeros off the zero of equal steps; those of a codebook may.
            const double knowing = lost(method, pruned), blind = lost(method, as_floats(pruned, pool));
            EXPECT_LE(knowing, blind);
            EXPECT_TRUE(knowing < blind || std::string_view(method) == "autoround") << blind;
            // Codes of what is gone stand for zero before the mask is applied too.
            const auto codes = *(*find_weight_method(method))->encode({pruned, scheme, ScaleRule::search, pool, &inputs});
            EXPECT_EQ(testing::output_loss(codes, *make_sparse(codes, {}, mask), inputs).lost, 0);
        }
}

}  // namespace
}  // namespace skiff
