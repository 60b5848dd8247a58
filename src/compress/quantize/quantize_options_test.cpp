// The table of quantization: every method, transform, correction, way of learning and form of inputs on every preset is either made and read again, or
// refused in words.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/atomic_file.h"
#include "compress/calibrate/importance.h"
#include "compress/pipeline.h"
#include "compress/quantize/block_transform.h"
#include "compress/small_models_testing.h"

namespace skiff {
namespace {

class QuantizeOptionsTable : public ::testing::Test {
protected:
    void SetUp() override {
        if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
        folder_ = (std::filesystem::temp_directory_path() / ("skiff_options_" + std::to_string(::getpid()))).string();
        ASSERT_TRUE(make_directories(folder_).ok());
        const std::string config = join_path(folder_, "config.json");
        std::ofstream(config) << R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
            "vocab_size": 64, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu", "torch_dtype": "bfloat16"})";
        auto opened = Checkpoint::open("random:" + config);
        ASSERT_TRUE(opened.ok()) << opened.error().to_string();
        parent_ = std::move(*opened);
    }
    void TearDown() override { (void)remove_all(folder_); }

    Result<CompressReport> make(QuantizeStep step) const {
        step.calibration = {"", 4, 32};
        step.method_options.n_iterations = 3;
        CompressOptions options;
        options.output = join_path(folder_, "child");
        options.if_exists = AtomicDirectory::IfExists::replace;
        options.unfinished = CompressOptions::Unfinished::restart;
        options.n_threads = 1;
        options.gradients = gradients_;
        return run_recipe(parent_, {{step}, 0}, options);
    }
    // Made, read, and of finite logits; or an error that says why. Whether it was made.
    bool made(const QuantizeStep& step) const {
        const auto report = make(step);
        if (!report.ok()) {
            EXPECT_TRUE(report.error().code == ErrorCode::unsupported || report.error().code == ErrorCode::usage) << report.error().to_string();
            EXPECT_GT(report.error().message.size(), 20u);
            return false;
        }
        auto child = Checkpoint::open(join_path(folder_, "child"));
        EXPECT_TRUE(child.ok()) << child.error().to_string();
        if (!child.ok()) return false;
        CalibrationText text = testing::random_text(parent_.spec.n_vocab);
        const auto logits = testing::logits_of(child->spec, *child->weights, text);
        for (float logit : logits) {
            EXPECT_TRUE(std::isfinite(logit));
            if (!std::isfinite(logit)) return false;
        }
        return true;
    }
    std::string folder_;
    Checkpoint parent_;
    const GradientSource* gradients_ = nullptr;
};

QuantizeStep step_of(const SchemePreset& preset, std::string_view method) {
    QuantizeStep step;
    step.method = method;
    step.schemes = default_wish(preset.scheme);
    if (method == "kmeans") step.schemes.head = step.schemes.embedding = std::nullopt;
    return step;
}

TEST_F(QuantizeOptionsTable, MethodsBySchemesByTransformsAndCorrections) {
    for (const SchemePreset& preset : scheme_presets())
        for (const WeightMethod& method : weight_methods()) {
            SCOPED_TRACE(std::string(method.name) + " " + std::string(preset.name));
            const bool defined = method.defined_on(preset.scheme).ok();
            EXPECT_EQ(made(step_of(preset, method.name)), defined);
            if (!defined) continue;
            QuantizeStep all = step_of(preset, method.name);
            for (const BlockTransform& transform : block_transforms()) all.transforms.emplace_back(transform.name);
            all.corrections = {.scale = true, .norm = true, .bias = true};
            all.method_options.learning = MethodOptions::Learning::by_operator;
            EXPECT_TRUE(made(all));
        }
}

// Clusters by the squared gradients of the loss: of what these weigh, nothing found otherwise loses less, since the levels of each row are exact.
TEST_F(QuantizeOptionsTable, ClustersByGradients) {
    const testing::WeightsAsGradients gradients;
    const auto clusters = [](const char* name) {
        QuantizeStep step;
        step.method = "kmeans";
        step.schemes = default_wish(*parse_scheme(name));
        step.schemes.head = step.schemes.embedding = std::nullopt;
        step.importance = importance_by_gradients;
        return step;
    };
    EXPECT_FALSE(made(clusters("k4")));  // there is no training here
    gradients_ = &gradients;
    for (const std::string& folder : {std::string(), "random:" + std::string(SKIFF_TEST_DATA_DIR) + "/models/gpt2/config.json"}) {  // gpt2: (inputs, outputs)
        if (!folder.empty()) parent_ = *Checkpoint::open(folder);
        const auto columns = keys_stored_as_columns(parent_.spec);
        for (const char* name : {"k4", "k8g32", "k16tensor"}) {
            SCOPED_TRACE(folder + name);
            // Sum of g^2 (w - q)^2, with g = w.
            const auto lost = [&](const QuantizeStep& step) {
                EXPECT_TRUE(made(step));
                auto child = Checkpoint::open(join_path(folder_, "child"));
                double sum = 0;
                for (const auto& [key, use] : tensor_uses(parent_.spec)) {
                    const Weight weight = *child->weights->load(key);
                    if (use != TensorUse::linear || weight.codes() == nullptr) continue;
                    const Weight stored = *parent_.weights->load(key), original = columns.count(key) != 0 ? transposed(stored) : stored;
                    std::vector<float> a(static_cast<std::size_t>(weight.n_columns())), b(a);
                    for (std::int64_t row = 0; row < weight.n_rows(); ++row) {
                        original.row(row, a.data());
                        weight.row(row, b.data());
                        for (std::size_t i = 0; i < a.size(); ++i) sum += std::pow(static_cast<double>(a[i]) * (static_cast<double>(a[i]) - static_cast<double>(b[i])), 2);
                    }
                }
                EXPECT_GT(sum, 0);
                return sum;
            };
            QuantizeStep plain = clusters(name);
            plain.importance.clear();
            const double by_gradients = lost(clusters(name)), by_inputs = lost(plain);
            EXPECT_LT(by_gradients, 0.9 * by_inputs);
        }
    }
    QuantizeStep vectors = clusters("v4k256");
    EXPECT_FALSE(made(vectors));
    vectors.schemes = default_wish(*parse_scheme("k4"));
    vectors.method = "nearest";
    EXPECT_FALSE(made(vectors));
}

TEST_F(QuantizeOptionsTable, EachTransformCorrectionAndFormOfInputsAlone) {
    const SchemePreset& w8 = *std::find_if(scheme_presets().begin(), scheme_presets().end(), [](const SchemePreset& preset) { return preset.name == "w8"; });
    for (const BlockTransform& transform : block_transforms())
        for (const auto clip : {MethodOptions::Clip::none, MethodOptions::Clip::search}) {
            QuantizeStep step = step_of(w8, "nearest");
            step.transforms = {std::string(transform.name)};
            step.method_options.clip = clip;
            EXPECT_TRUE(made(step)) << transform.name;
        }
    for (const RoundingCorrections& corrections : {RoundingCorrections{.scale = true}, RoundingCorrections{.norm = true}, RoundingCorrections{.bias = true}}) {
        QuantizeStep step = step_of(w8, "nearest");
        step.corrections = corrections;
        EXPECT_TRUE(made(step));
        auto child = Checkpoint::open(join_path(folder_, "child"));
        ASSERT_TRUE(child.ok());
        EXPECT_EQ(child->spec.tensors.count("model.layers.0.mlp.down_proj.bias"), corrections.bias ? 1u : 0u);
        EXPECT_EQ(child->config["mlp_bias"].bool_or(false), corrections.bias);
        EXPECT_EQ(child->manifest["parent"]["content_hash"].text(), *parent_.content_hash());
    }
}

// W8A8 for other programs: signed bytes, and the word that inputs get a scale for each token. Here it computes what it did without.
TEST_F(QuantizeOptionsTable, InputsByTokenAreDeclared) {
    for (const SchemePreset& preset : scheme_presets()) {
        SCOPED_TRACE(preset.name);
        QuantizeStep step = step_of(preset, "nearest");
        step.inputs.kind = InputScaleRule::Kind::by_token;
        ASSERT_EQ(made(step), can_fix_inputs(preset.scheme));
        if (!can_fix_inputs(preset.scheme)) continue;
        auto child = Checkpoint::open(join_path(folder_, "child"));
        ASSERT_TRUE(child.ok());
        int n_groups = 0;
        for (const auto& [name, group] : child->config["quantization_config"]["config_groups"].members()) {
            if (!group["input_activations"].is_object()) continue;
            ++n_groups;
            EXPECT_EQ(group["format"].text(), "int-quantized");
            EXPECT_TRUE(group["input_activations"]["dynamic"].bool_or(false));
            EXPECT_EQ(group["input_activations"]["strategy"].text(), "token");
        }
        EXPECT_EQ(n_groups, 1);
        EXPECT_FALSE(child->weights->contains("model.layers.0.mlp.down_proj.input_scale"));
        const Weight weight = *child->weights->load("model.layers.0.mlp.down_proj.weight");
        ASSERT_NE(weight.codes(), nullptr);
        EXPECT_EQ(weight.codes()->scheme, preset.scheme);
        QuantizeStep plain = step;
        plain.inputs = {};
        ASSERT_TRUE(made(plain));
        const Weight alone = *Checkpoint::open(join_path(folder_, "child"))->weights->load("model.layers.0.mlp.down_proj.weight");
        std::vector<float> a(static_cast<std::size_t>(weight.n_columns())), b(a);
        for (std::int64_t row = 0; row < weight.n_rows(); ++row) {
            weight.row(row, a.data());
            alone.row(row, b.data());
            ASSERT_EQ(a, b);
        }
    }
}

TEST_F(QuantizeOptionsTable, FixedInputsBySchemesAndRules) {
    for (const SchemePreset& preset : scheme_presets())
        for (const RangeRule rule : {RangeRule::min_max, RangeRule::percentile, RangeRule::least_error}) {
            SCOPED_TRACE(preset.name);
            QuantizeStep step = step_of(preset, "nearest");
            step.inputs = {InputScaleRule::Kind::fixed, rule, 99.9};
            ASSERT_EQ(made(step), can_fix_inputs(preset.scheme));
            if (!can_fix_inputs(preset.scheme)) break;
            // int-quantized, as the package has it; read again with the scale, and the kernels use it.
            auto child = Checkpoint::open(join_path(folder_, "child"));
            ASSERT_TRUE(child.ok());
            int n_fixed = 0;
            for (const Block& block : child->spec.blocks)
                for (const Op& op : block.ops)
                    if (const auto* linear = std::get_if<LinearOp>(&op.detail); linear != nullptr && linear->input_scale > 0) ++n_fixed;
            EXPECT_EQ(n_fixed, 7);
            bool found = false;
            for (const auto& [name, group] : child->config["quantization_config"]["config_groups"].members()) {
                if (!group["input_activations"].is_object()) continue;
                found = true;
                EXPECT_EQ(group["format"].text(), "int-quantized");
                EXPECT_FALSE(group["input_activations"]["dynamic"].bool_or(true));
            }
            EXPECT_TRUE(found);
            ModelSpec dynamic = child->spec;
            for (Block& block : dynamic.blocks)
                for (Op& op : block.ops)
                    if (auto* linear = std::get_if<LinearOp>(&op.detail)) linear->input_scale = 0;
            const auto run = [&](const ModelSpec& spec) {
                auto plan = lower(spec, *child->weights, {});
                EXPECT_TRUE(plan.ok());
                auto session = Session::create(*plan, {.n_threads = 2, .n_context = 32, .max_batch = 32});
                EXPECT_TRUE((*session)->forward(0, testing::random_text(spec.n_vocab).samples[1], BatchItem::Logits::all).ok());
                return std::vector<float>((*session)->logits().begin(), (*session)->logits().end());
            };
            const auto fixed = run(child->spec), own = run(dynamic);
            EXPECT_LT(testing::largest_difference(own, fixed), 0.15);
            if (best_isa() >= Isa::avx2) {
                EXPECT_NE(fixed, own);
            }
        }
}

TEST_F(QuantizeOptionsTable, ImportanceByMethods) {
    const std::string path = join_path(folder_, "importance.gguf");
    auto text = load_calibration(parent_, {"", 4, 32});
    ASSERT_TRUE(text.ok());
    auto measured = measure_importance(parent_, *text, 2, nullptr);
    ASSERT_TRUE(measured.ok());
    ASSERT_TRUE(measured->write(path, 32).ok());
    for (const SchemePreset& preset : scheme_presets())
        for (const WeightMethod& method : weight_methods()) {
            SCOPED_TRACE(std::string(method.name) + " " + std::string(preset.name));
            QuantizeStep step = step_of(preset, method.name);
            step.importance = path;
            const bool can = method.name == "weighted" || method.name == "hqq" || method.name == "kmeans";
            EXPECT_EQ(made(step), can && method.defined_on(preset.scheme).ok());
        }
    QuantizeStep step = step_of(scheme_presets()[0], "weighted");
    step.importance = path;
    step.schemes = default_wish(*parse_scheme("w4g32"));
    auto report = make(step);
    ASSERT_TRUE(report.ok());
    EXPECT_EQ(report->manifest.steps[0]["found"]["importance"]["name"].text(), "importance.gguf");
    EXPECT_TRUE(report->method_remarks.empty());
    step.transforms = {std::string(block_transforms()[0].name)};  // the file says what inputs were before it
    EXPECT_FALSE(made(step));
}

// What is bad about a model is said, whatever the method: see also methods_test.cpp for what methods are given.
TEST_F(QuantizeOptionsTable, NumbersThatAreNotFiniteAreNamed) {
    class Spoilt final : public WeightSource {
    public:
        explicit Spoilt(std::shared_ptr<WeightSource> base) : base_(std::move(base)) {}
        bool contains(const std::string& key) const override { return base_->contains(key); }
        std::vector<std::string> keys() const override { return base_->keys(); }
        Result<Weight> load(const std::string& key) const override {
            SKIFF_TRY(auto weight, base_->load(key));
            if (key != "model.layers.0.mlp.up_proj.weight") return weight;
            std::vector<float> values(static_cast<std::size_t>(element_count(weight.shape)));
            for (std::int64_t row = 0; row < weight.n_rows(); ++row) weight.row(row, values.data() + row * weight.n_columns());
            values[static_cast<std::size_t>(3 * weight.n_columns() + 5)] = std::nanf("");
            return make_float_weight(weight.shape, std::move(values));
        }

    private:
        std::shared_ptr<WeightSource> base_;
    };
    parent_.weights = std::make_shared<Spoilt>(parent_.weights);
    for (const WeightMethod& method : weight_methods()) {
        QuantizeStep step = step_of(scheme_presets()[0], method.name);
        step.schemes = default_wish(*parse_scheme(method.name == "kmeans" ? "k16" : "w4g32"));
        if (method.name == "kmeans") step.schemes.head = step.schemes.embedding = std::nullopt;
        const auto report = make(step);
        ASSERT_FALSE(report.ok()) << method.name;
        const std::string text = report.error().to_string();
        EXPECT_NE(text.find("model.layers.0.mlp.up_proj.weight"), std::string::npos) << text;
        EXPECT_NE(text.find("row 3, column 5"), std::string::npos) << text;
    }
}

}  // namespace
}  // namespace skiff
