// What GGUF has no form for: refused with the reason, and written as dense matrices where that was asked for.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "compress/export_gguf.h"
#include "compress/pipeline.h"
#include "compress/small_models_testing.h"
#include "formats/gguf.h"
#include "model/dense_weights.h"
#include "plan/session.h"

namespace skiff {
namespace {

// With float activations and plain loops: what a form changes is not hidden by what kernels round.
std::vector<float> reference_logits(const ModelSpec& spec, const WeightSource& weights, const CalibrationText& text) {
    PlanOptions options;
    options.kernels = KernelChoice::reference;
    options.isa = Isa::generic;
    auto plan = lower(spec, weights, options);
    EXPECT_TRUE(plan.ok()) << plan.error().to_string();
    auto session = Session::create(*plan, {.n_threads = 1, .n_context = 32, .max_batch = 32});
    std::vector<float> logits;
    for (const auto& sample : text.samples) {
        EXPECT_TRUE((*session)->forward(0, sample, BatchItem::Logits::all).ok());
        logits.insert(logits.end(), (*session)->logits().begin(), (*session)->logits().end());
        EXPECT_TRUE((*session)->state().truncate(0, 0).ok());
    }
    return logits;
}

class DenseExport : public ::testing::Test {
protected:
    void SetUp() override {
        folder_ = (std::filesystem::temp_directory_path() / ("skiff_dense_" + std::to_string(::getpid()))).string();
        ASSERT_TRUE(make_directories(folder_).ok());
    }
    void TearDown() override { (void)remove_all(folder_); }

    static Checkpoint opened(const std::string& path) {
        auto parent = Checkpoint::open(path);
        EXPECT_TRUE(parent.ok()) << parent.error().to_string();
        parent->kind = Checkpoint::Kind::random;  // calibrated on random ids
        return std::move(*parent);
    }
    // Wide enough for blocks.
    Checkpoint wide() const {
        const std::string config = join_path(folder_, "config.json");
        std::ofstream(config) << R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
            "vocab_size": 64, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu", "torch_dtype": "bfloat16"})";
        return opened("random:" + config);
    }
    Checkpoint made(const Checkpoint& parent, const RecipeStep& step) const {
        CompressOptions options;
        options.output = join_path(folder_, "child");
        options.if_exists = AtomicDirectory::IfExists::replace;
        const auto report = run_recipe(parent, {{step}, 0}, options);
        EXPECT_TRUE(report.ok()) << report.error().to_string();
        return *Checkpoint::open(options.output);
    }
    // Of the model as GGUF has it.
    std::vector<float> logits_in_gguf(const Checkpoint& dense, const CalibrationText& text) const {
        const std::string path = join_path(folder_, "model.gguf");
        const auto plan = plan_gguf_export(dense, {});
        EXPECT_TRUE(plan.ok()) << plan.error().to_string();
        EXPECT_TRUE(write_gguf_export(dense, *plan, path, 1, nullptr).ok());
        const auto read = Checkpoint::open(path);
        EXPECT_TRUE(read.ok()) << read.error().to_string();
        return reference_logits(read->spec, *read->weights, text);
    }
    std::string folder_;
};

const std::string llama = std::string(SKIFF_TEST_DATA_DIR) + "/models/llama", gpt2 = std::string(SKIFF_TEST_DATA_DIR) + "/models/gpt2";

void expect_refused(const Checkpoint& checkpoint, const char* what) {
    const auto plan = plan_gguf_export(checkpoint, {});
    ASSERT_FALSE(plan.ok());
    EXPECT_NE(plan.error().message.find(what), std::string::npos) << plan.error().message;
    EXPECT_NE(plan.error().message.find("--densify"), std::string::npos) << plan.error().message;
}

// Codes of pruned weights take the type of fewest bits that holds them, in which what was pruned is exactly zero.
TEST_F(DenseExport, PrunedCodesTakeTheSmallestBlocks) {
    for (const auto& [scheme, type] : {std::pair("w4g32", "Q4_0"), std::pair("w5g32", "Q5_0"), std::pair("w8g32", "Q8_0")}) {
        SCOPED_TRACE(scheme);
        PruneStep prune;
        prune.target = *parse_prune_target("50%");
        prune.scheme = *parse_scheme(scheme);
        const Checkpoint child = made(wide(), prune);
        expect_refused(child, "is pruned");
        std::vector<std::string> notes;
        const auto dense = with_dense_weights(child, notes);
        ASSERT_TRUE(dense.ok()) << dense.error().to_string();
        EXPECT_EQ(notes.size(), 1u);
        const auto plan = plan_gguf_export(*dense, {});
        ASSERT_TRUE(plan.ok()) << plan.error().to_string();
        int n = 0;
        for (const GgufTensorSpec& tensor : plan->layout.tensors)
            if (tensor.name.find("ffn_up") != std::string::npos) {
                EXPECT_EQ(tensor.type->name, type) << tensor.name;
                ++n;
            }
        EXPECT_GT(n, 0);
        const auto text = testing::random_text(child.spec.n_vocab);
        EXPECT_LT(testing::largest_difference(reference_logits(child.spec, *child.weights, text), logits_in_gguf(*dense, text)), 1e-2);  // scales and sums are rounded to half precision
        const auto read = Checkpoint::open(join_path(folder_, "model.gguf"));
        const std::string key = "model.layers.0.mlp.up_proj.weight";
        const auto before = *child.weights->load(key), after = *read->weights->load(key);
        std::vector<float> a(static_cast<std::size_t>(before.n_columns())), b(a);
        for (std::int64_t row = 0; row < before.n_rows(); ++row) {
            before.row(row, a.data());
            after.row(row, b.data());
            for (std::size_t i = 0; i < a.size(); ++i) {
                if (before.sparse()->keeps(row, static_cast<std::int64_t>(i))) continue;
                ASSERT_EQ(b[i], 0) << row << ", " << i;
            }
        }
    }
}

TEST_F(DenseExport, FactorsAndOutliersBecomeOneMatrix) {
    if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
    FactorizeStep thin, split;
    thin.method = "svd";
    thin.rule = FactorizeStep::Rule::share;
    thin.amount = 0.25;
    thin.multiple_of = 1;
    split.method = "sparse-low-rank:50%";
    split.rule = FactorizeStep::Rule::rank;
    split.amount = 2;
    split.calibration = {"", 16, 16};
    QuantizeStep rounded;
    rounded.schemes = default_wish(*parse_scheme("w4g32"));
    rounded.outliers = 0.1;
    for (const std::string& parent : {llama, gpt2})
        for (const auto& [step, word] : {std::pair(RecipeStep(thin), "product"), std::pair(RecipeStep(split), "sum"), std::pair(RecipeStep(rounded), "outliers")}) {
            SCOPED_TRACE(parent + " " + word);
            const Checkpoint child = made(opened(parent), step);
            expect_refused(child, word);
            std::vector<std::string> notes;
            const auto dense = with_dense_weights(child, notes);
            ASSERT_TRUE(dense.ok()) << dense.error().to_string();
            EXPECT_FALSE(notes.empty());
            const auto text = testing::random_text(child.spec.n_vocab);
            const auto expected = reference_logits(child.spec, *child.weights, text), found = reference_logits(dense->spec, *dense->weights, text);
            EXPECT_LT(testing::largest_difference(expected, found), 1e-2);  // scales and sums are rounded to half precision
            EXPECT_LT(testing::largest_difference(expected, logits_in_gguf(*dense, text)), 1e-2);  // scales and sums are rounded to half precision
        }
}

TEST_F(DenseExport, ADenseModelStaysAsItIs) {
    std::vector<std::string> notes;
    const auto parent = Checkpoint::open(llama);
    const auto dense = with_dense_weights(*parent, notes);
    ASSERT_TRUE(dense.ok());
    EXPECT_EQ(dense->weights, parent->weights);
    EXPECT_TRUE(notes.empty());
}

}  // namespace
}  // namespace skiff
