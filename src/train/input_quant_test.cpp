// Inputs as codes, in training: the numbers are those of the kernels that code them, gradients those of the straight-through formulas, and the file says what was trained.
#include "train/train_testing.h"

#include <cmath>
#include <set>

#include <torch/csrc/autograd/autograd.h>

#if defined(SKIFF_FAKE_CUDA)
#include "backend/cuda/device_session_testing.h"
#endif
#include "base/json.h"
#include "compress/quantize/coded_inputs.h"
#include "corpus/corpus_testing.h"
#include "kernels/layout.h"
#include "kernels/kernels.h"
#include "plan/session.h"
#include "train/training_setup.h"

namespace skiff::train {
namespace {

at::Tensor some_inputs(std::int64_t n = 7, std::int64_t width = 70) {
    at::manual_seed(9);
    at::Tensor x = at::randn({n, width}) * at::exp(at::randn({n, 1}));
    x[2].zero_();
    x[3].narrow(0, 32, 32).zero_();
    return x;
}

// What the processor's kernels read: codes times scales.
at::Tensor coded_by_kernels(const at::Tensor& x, float fixed_scale, Isa isa) {
    const std::int64_t n = x.size(0), width = x.size(1), padded = padded_for_codes(width);
    std::vector<std::int8_t> codes(static_cast<std::size_t>(n * padded));
    std::vector<float> scales(static_cast<std::size_t>(n * padded / 32));
    std::vector<std::int16_t> sums(static_cast<std::size_t>(n * padded / 8));
    choose_kernel(quantize_kernels(), isa).fn({x.data_ptr<float>(), codes.data(), scales.data(), sums.data(), width, padded, fixed_scale}, {0, n});
    at::Tensor y = at::empty_like(x);
    for (std::int64_t row = 0; row < n; ++row)
        for (std::int64_t i = 0; i < width; ++i)
            y.data_ptr<float>()[row * width + i] = static_cast<float>(codes[static_cast<std::size_t>(row * padded + i)]) * scales[static_cast<std::size_t>(row * padded / 32 + i / 32)];
    return y;
}

TEST(RoundedInputs, AreTheNumbersThatTheKernelsRead) {
    const at::Tensor x = some_inputs();
    FixedInputScale fixed;
    fixed.begin(0.011f);
    for (const Isa isa : {Isa::generic, best_isa()}) {
        EXPECT_TRUE(rounded_inputs(x, InputForm::blocks).equal(coded_by_kernels(x, 0, isa)));
        EXPECT_TRUE(fixed.rounded(x).detach().equal(coded_by_kernels(x, 0.011f, isa)));
    }
    EXPECT_GT((fixed.rounded(x).detach().abs() >= 127 * 0.0109f).sum().item<std::int64_t>(), 3) << "nothing was clipped";
}

TEST(RoundedInputs, ByTokenAgainstTheFormulas) {
    const at::Tensor x = some_inputs(), largest = x.abs().amax(1, true);
    EXPECT_LT((rounded_inputs(x, InputForm::tokens) - (at::round(x / largest * 127) * (largest / 127)).nan_to_num(0)).abs().max().item<double>(), 1e-5);
    // Nothing that e4m3 has lies nearer, times the scale with which the largest is 448.
    const at::Tensor y = rounded_inputs(x, InputForm::e4m3);
    const Codebook& e4m3 = *find_codebook("e4m3");
    for (std::int64_t row = 0; row < x.size(0); ++row) {
        const double scale = largest[row][0].item<double>() / 448;
        for (std::int64_t i = 0; i < x.size(1); ++i) {
            const double wanted = x[row][i].item<double>(), found = y[row][i].item<double>();
            double nearest = INFINITY;
            bool is_one = scale == 0;
            for (int code = 0; code < 256; ++code) {
                if (!e4m3.has(code)) continue;
                const double value = static_cast<double>(e4m3.levels[static_cast<std::size_t>(code)]) * scale;
                nearest = std::min(nearest, std::fabs(value - wanted));
                is_one = is_one || std::fabs(value - found) <= 1e-6 * std::fabs(value);
            }
            EXPECT_TRUE(is_one) << found / scale;
            EXPECT_LE(std::fabs(found - wanted), nearest + 1e-6 * std::fabs(wanted));
        }
    }
}

TEST(RoundedInputs, HalfNumbersAndNoTokens) {
    const at::Tensor x = some_inputs().to(at::kBFloat16);
    FixedInputScale fixed;
    fixed.begin(0.02f);
    for (const InputForm form : {InputForm::blocks, InputForm::tokens, InputForm::e4m3}) {
        EXPECT_TRUE(rounded_inputs(x, form).equal(rounded_inputs(x.to(at::kFloat), form).to(at::kBFloat16)));
        EXPECT_EQ(rounded_inputs(at::zeros({2, 40}), form).abs().max().item<double>(), 0);
        EXPECT_EQ(rounded_inputs(at::zeros({0, 40}), form).numel(), 0);
    }
    EXPECT_TRUE(fixed.rounded(x).detach().equal(fixed.rounded(x.to(at::kFloat)).detach().to(at::kBFloat16)));
}

TEST(RoundedInputs, LetGradientsThrough) {
    for (const InputForm form : {InputForm::blocks, InputForm::tokens, InputForm::e4m3}) {
        at::Tensor x = some_inputs().requires_grad_(true);
        const at::Tensor g = at::randn(x.sizes());
        torch::autograd::backward({rounded_inputs(x, form)}, {g});
        EXPECT_TRUE(x.grad().equal(g));
    }
}

TEST(FixedInputs, GradientsByHand) {
    FixedInputScale fixed;
    fixed.begin(0.5f);
    at::Tensor x = at::tensor({0.2f, 0.3f, -1.1f, 63.4f, 64.0f, -100.0f}).view({2, 3}).requires_grad_(true);  // 0.4, 0.6, -2.2, 126.8, 128, -200 steps
    const at::Tensor y = fixed.rounded(x);
    EXPECT_TRUE(y.detach().equal(at::tensor({0.0f, 0.5f, -1.0f, 63.5f, 63.5f, -63.5f}).view({2, 3})));
    torch::autograd::backward({y}, {at::tensor({1.0f, 2.0f, 4.0f, 8.0f, 16.0f, 32.0f}).view({2, 3})});
    EXPECT_TRUE(x.grad().equal(at::tensor({1.0f, 2.0f, 4.0f, 8.0f, 0.0f, 0.0f}).view({2, 3})));
    const double of_scale = 1 * (0 - 0.4) + 2 * (1 - 0.6) + 4 * (-2 + 2.2) + 8 * (127 - 126.8) + 16 * 127 - 32 * 127;
    EXPECT_NEAR(fixed.ratio().grad()[0].item<double>(), of_scale * 0.5 / std::sqrt(127.0 * 3), 1e-3);
}

// LSQ's formula as autograd sees it, the rounding passing gradients through.
TEST(FixedInputs, GradientsAreThoseOfTheFormula) {
    FixedInputScale fixed;
    fixed.begin(0.01f);
    {
        const at::NoGradGuard no_grad;
        at::Tensor(fixed.ratio()).fill_(1.3);
    }
    at::Tensor x = some_inputs().requires_grad_(true), x_leaf = x.detach().clone().requires_grad_(true), s_leaf = at::full({1}, 0.013f).requires_grad_(true);
    const at::Tensor g = at::randn(x.sizes());
    torch::autograd::backward({fixed.rounded(x)}, {g});
    const at::Tensor clipped = at::clamp(x_leaf / s_leaf, -127, 127), level = clipped + (at::round(clipped) - clipped).detach();
    torch::autograd::backward({level * s_leaf}, {g});
    EXPECT_LT((x.grad() - x_leaf.grad()).abs().max().item<double>(), 1e-5);
    EXPECT_NEAR(fixed.ratio().grad()[0].item<double>(), s_leaf.grad()[0].item<double>() * 0.01 / std::sqrt(127.0 * 70), 1e-3 * std::fabs(s_leaf.grad()[0].item<double>()) * 0.01);
}

// Where all is clipped the value is linear in the scale, so that differences are exact.
TEST(FixedInputs, DifferencesWhereAllIsClipped) {
    FixedInputScale fixed;
    fixed.begin(0.5f);
    at::manual_seed(3);
    const at::Tensor x = at::where(at::randn({4, 33}) > 0, at::full({4, 33}, 200.0f), at::full({4, 33}, -300.0f)), g = at::randn({4, 33});
    torch::autograd::backward({fixed.rounded(x)}, {g});
    const at::NoGradGuard no_grad;
    const auto at_ratio = [&](double ratio) {
        at::Tensor(fixed.ratio()).fill_(ratio);
        return (fixed.rounded(x).to(at::kDouble) * g).sum().item<double>();
    };
    const double slope = (at_ratio(1.25) - at_ratio(0.75)) / 0.5;
    EXPECT_NEAR(fixed.ratio().grad()[0].item<double>() * std::sqrt(127.0 * 33), slope, 1e-4 * std::fabs(slope));
}

// A scale that begins too large or too small is learnt: what is left of the error is near what the best scale leaves.
TEST(FixedInputs, LearnTheScaleThatLosesLeast) {
    at::manual_seed(4);
    const at::Tensor x = at::randn({64, 64});
    const auto error_of = [&](FixedInputScale& fixed) { return (fixed.rounded(x) - x).square().sum(); };
    double best = INFINITY;
    for (int i = 1; i <= 400; ++i) {
        const at::NoGradGuard no_grad;
        FixedInputScale fixed;
        fixed.begin(static_cast<float>(i) * 1e-4f);
        best = std::min(best, error_of(fixed).item<double>());
    }
    for (const float begin : {0.15f, 0.012f}) {
        FixedInputScale fixed;
        fixed.begin(begin);
        at::Tensor ratio = fixed.ratio();
        double before = 0;
        for (int step = 0; step < 300; ++step) {
            const at::Tensor error = error_of(fixed);
            if (step == 0) before = error.item<double>();
            torch::autograd::backward({error});
            const at::NoGradGuard no_grad;
            ratio.sub_(ratio.grad().sign(), 0.05 * std::pow(0.98, step));
            ratio.mutable_grad().zero_();
        }
        EXPECT_GT(before, 2 * best);
        EXPECT_LT(error_of(fixed).item<double>(), 1.25 * best) << begin << " became " << fixed.scale();
    }
    // No step turns the sign.
    FixedInputScale fixed;
    fixed.begin(2);
    const at::NoGradGuard no_grad;
    at::Tensor(fixed.ratio()).fill_(-3);
    EXPECT_FLOAT_EQ(fixed.scale(), 0.02f);
}

TEST(FixedInputs, BeginWhereTheRuleSays) {
    FixedInputScale nothing, fixed;
    EXPECT_FALSE(nothing.begin({InputScaleRule::Kind::fixed, RangeRule::min_max, 100}).ok());
    const at::Tensor x = some_inputs();
    EXPECT_TRUE(fixed.rounded(x).equal(x));
    EXPECT_TRUE(fixed.rounded(x * -2).equal(x * -2));
    ASSERT_TRUE(fixed.begin({InputScaleRule::Kind::fixed, RangeRule::min_max, 100}).ok());
    EXPECT_FLOAT_EQ(fixed.scale(), x.abs().max().item<float>() * 2 / 127);
}

ParameterSet rounded_parameters(const Checkpoint& checkpoint, const char* scheme, const std::function<InputForm(const std::string&)>& form_of) {
    auto parameters = load_parameters(checkpoint.spec, *checkpoint.weights);
    for (const std::string& key : operator_weights(checkpoint.spec)) EXPECT_TRUE(parameters.quantize(key, *parse_scheme(scheme), FakeQuant::Codes::follow).ok());
    const Status status = parameters.round_inputs(checkpoint.spec, form_of);
    EXPECT_TRUE(status.ok()) << (status.ok() ? "" : status.error().to_string());
    parameters.refresh();
    return parameters;
}

TEST(InputForms, OneScaleForEachValueThatIsRead) {
    const auto checkpoint = Checkpoint::open(tiny_model_path("llama"));
    ASSERT_TRUE(checkpoint.ok());
    const ParameterSet parameters = rounded_parameters(*checkpoint, "w8", [](const std::string&) { return InputForm::fixed; });
    const auto scale_of = [&](const std::string& name) { return parameters.find("model.layers.0." + name + ".weight")->input_scale; };
    EXPECT_EQ(scale_of("self_attn.q_proj"), scale_of("self_attn.v_proj"));
    EXPECT_EQ(scale_of("mlp.gate_proj"), scale_of("mlp.up_proj"));
    EXPECT_NE(scale_of("mlp.gate_proj"), scale_of("mlp.down_proj"));
    std::size_t n = 0;
    for (const ParameterSet::Trained& trained : parameters.trained(checkpoint->spec)) n += trained.name.ends_with(".input_scale") ? 1 : 0;
    EXPECT_EQ(n, 8u);  // four values in each of two layers
}

TEST(InputForms, LayersThatShareWeightsCannotFixThem) {
    auto checkpoint = Checkpoint::open(tiny_model_path("llama"));
    ASSERT_TRUE(checkpoint.ok());
    for (Op& op : checkpoint->spec.blocks[2].ops)
        if (auto* linear = std::get_if<LinearOp>(&op.detail); linear != nullptr && linear->terms[0].weight.key.ends_with("down_proj.weight")) linear->terms[0].weight.key = "model.layers.0.mlp.down_proj.weight";
    auto parameters = load_parameters(checkpoint->spec, *checkpoint->weights);
    ASSERT_TRUE(parameters.quantize("model.layers.0.mlp.down_proj.weight", *parse_scheme("w8"), FakeQuant::Codes::follow).ok());
    const Status status = parameters.round_inputs(checkpoint->spec, [](const std::string&) { return InputForm::fixed; });
    ASSERT_FALSE(status.ok());
    EXPECT_NE(status.error().message.find("layers that use the same weights"), std::string::npos);
    EXPECT_TRUE(parameters.round_inputs(checkpoint->spec, [](const std::string&) { return InputForm::tokens; }).ok());
}

// What reads its input otherwise is no part of a common product.
TEST(InputForms, OnlyOperatorsThatReadAlikeAreOneProduct) {
    const auto checkpoint = Checkpoint::open(tiny_model_path("llama"));
    ASSERT_TRUE(checkpoint.ok());
    const auto names_of = [&](const ParameterSet& parameters) {
        const ParameterView view(parameters);
        const auto graph = build_graph(checkpoint->spec, view, {});
        EXPECT_TRUE(graph.ok());
        std::set<std::string> names;
        for (const auto& step : (*graph)[1]) names.insert(step->name);
        return names;
    };
    const auto is_q = [](const std::string& key) { return key.find("q_proj") != std::string::npos; };
    const auto together = names_of(rounded_parameters(*checkpoint, "w8", [](const std::string&) { return InputForm::blocks; }));
    const auto apart = names_of(rounded_parameters(*checkpoint, "w8", [&](const std::string& key) { return is_q(key) ? InputForm::tokens : InputForm::blocks; }));
    EXPECT_EQ(apart.size(), together.size() + 1);
    EXPECT_TRUE(std::any_of(together.begin(), together.end(), [](const std::string& name) { return name.find("attn.q + ") != std::string::npos; }));
    EXPECT_FALSE(std::any_of(apart.begin(), apart.end(), [](const std::string& name) { return name.find("attn.q + ") != std::string::npos; }));
}

const at::Tensor& text() {
    static const at::Tensor tokens = at::tensor({1, 5, 9, 33, 60, 7, 8, 21, 40, 3, 2, 50, 17, 5, 9, 34, 61, 11, 12, 1}, at::kLong).view({1, 20});
    return tokens;
}

// The whole gradient, of weights, their scales and those of inputs: as composed operators have it, and with blocks that are computed again.
TEST(InputForms, GradientsOfAllPasses) {
    const auto checkpoint = Checkpoint::open(tiny_model_path("llama"));
    ASSERT_TRUE(checkpoint.ok());
    const auto gradients = [&](const TrainableOptions& options) {
        const auto model = make_trainable(checkpoint->spec, rounded_parameters(*checkpoint, "w8", [](const std::string&) { return InputForm::fixed; }), options);
        {
            const at::NoGradGuard no_grad;
            model->observe(text(), {});
        }
        EXPECT_TRUE(model->parameters().begin_input_scales({InputScaleRule::Kind::fixed, RangeRule::percentile, 98}).ok());
        model->add_gradients(text().narrow(1, 0, 19), text().narrow(1, 1, 19), 1.0 / 19);
        model->parameters().collect_gradients();
        std::map<std::string, at::Tensor> found;
        for (const ParameterSet::Trained& trained : model->parameters().trained(checkpoint->spec))
            if (trained.value.grad().defined()) found[trained.name] = trained.value.grad();
        return found;
    };
    const auto expected = gradients({});
    EXPECT_EQ(expected.count("model.layers.1.mlp.down_proj.weight.input_scale"), 1u);
    EXPECT_NE(expected.at("model.layers.1.mlp.down_proj.weight.input_scale").item<double>(), 0);
    for (const TrainableOptions& options : {TrainableOptions{.form = Form::composed}, TrainableOptions{.recompute_blocks = true}}) {
        const auto found = gradients(options);
        ASSERT_EQ(found.size(), expected.size());
        for (const auto& [name, gradient] : expected) EXPECT_LT(relative_difference(found.at(name), gradient), 2e-3) << name;
    }
}

at::Tensor logits_of(const ModelSpec& spec, const WeightSource& weights, KernelChoice kernels) {
    PlanOptions options;
    options.kernels = kernels;
    auto plan = lower(spec, weights, options);
    EXPECT_TRUE(plan.ok()) << (plan.ok() ? "" : plan.error().to_string());
    auto session = Session::create(*plan, {.n_threads = 1, .n_context = 32});
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < text().size(1); ++i) ids.push_back(text()[0][i].item<std::int32_t>());
    EXPECT_TRUE((*session)->forward(0, ids, BatchItem::Logits::all).ok());
    const auto found = (*session)->logits();
    return at::tensor(at::ArrayRef<float>(found.data(), found.size())).view({static_cast<std::int64_t>(ids.size()), -1});
}

double divergence(const at::Tensor& expected, const at::Tensor& found) {
    const at::Tensor p = at::log_softmax(expected, 1), q = at::log_softmax(found, 1);
    return (p.exp() * (p - q)).sum(1).mean().item<double>();
}

#if defined(SKIFF_FAKE_CUDA)
// 8-bit floats on a device that multiplies them (--gemm fp8), in runs of more than 64 tokens: of training that rounds so, not of training that does not.
TEST(InputForms, EightBitFloatsAreThoseOfTheDevice) {
    cuda::Small small({{"intermediate_size", 184}});
    auto parameters = load_parameters(small.spec, *small.weights);
    const Scheme e4m3 = *parse_scheme("e4m3");
    for (const Parameter& parameter : parameters.all())
        if (parameter.role == TensorDecl::Role::linear || parameter.role == TensorDecl::Role::embedding) { ASSERT_TRUE(parameters.quantize(parameter.key, e4m3, FakeQuant::Codes::follow).ok()); }
    // The device multiplies the head's codes with floats.
    ASSERT_TRUE(parameters.round_inputs(small.spec, [&](const std::string& key) { return parameters.find(key)->role == TensorDecl::Role::linear ? InputForm::e4m3 : InputForm::floats; }).ok());
    parameters.refresh();
    const auto model = make_trainable(small.spec, std::move(parameters));
    const auto ids = cuda::some_tokens(90, 131);
    at::Tensor tokens = at::empty({1, 90}, at::kLong);
    std::copy(ids.begin(), ids.end(), tokens.data_ptr<std::int64_t>());
    for (std::int64_t step = 1; step <= 3; ++step) {  // away from where rounding to nearest had them
        model->add_gradients(tokens.narrow(1, 0, 89), tokens.narrow(1, 1, 89), 1.0 / 89);
        model->parameters().collect_gradients();
        const at::NoGradGuard no_grad;
        for (ParameterSet::Trained& trained : model->parameters().trained(small.spec)) {
            trained.value.sub_(trained.value.grad(), 0.05);
            trained.value.mutable_grad().zero_();
        }
        model->parameters().refresh();
    }
    const at::NoGradGuard no_grad;
    const auto source = model->parameters().source(DType::f32);
    auto options = cuda::small_options(128);
    options.session.max_batch = 100;
    options.matmul = cuda::Matmul::fp8;
    options.library = cuda::DeviceSessionOptions::Library::must;
    options.cublaslt = "fake";
    const auto session = cuda::device_session(small.spec, *source, options);
    ASSERT_NE(session, nullptr);
    const auto found = cuda::all_logits(*session, ids, 90), floats = cuda::all_logits(*cuda::reference_session(small.spec, *source, options.session), ids, 90);
    const at::Tensor device = at::tensor(at::ArrayRef<float>(found.data(), found.size())).view({90, -1}), exact = at::tensor(at::ArrayRef<float>(floats.data(), floats.size())).view({90, -1});
    const at::Tensor trained = model->logits(tokens);
    EXPECT_LT(divergence(trained, device), 1e-3);
    EXPECT_LT(divergence(trained, device), 0.2 * divergence(trained, exact));
}
#endif

// From the options to the folder: what comes out says how its inputs are coded, and computes what was trained.
class WrittenInputs : public ::testing::TestWithParam<std::string> {
protected:
    TrainOptions options_of(const std::string& scheme, const std::string& name) {
        TrainOptions options;
        std::vector<std::uint16_t> ids(600);
        for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::uint16_t>(3 + (i * i / 7 + i * 5) % 90);
        options.data.texts = {write_tokens(folder_, "text.tokens", ids, 97, 0)};
        options.quant.schemes = default_wish(*parse_scheme(scheme));
        options.quant.activations = QuantTrainOptions::Activations::int8;
        options.quant.inputs = *input_rule(GetParam(), 99.9);
        options.output = folder_.path(name);
        options.n_steps = 3;
        options.schedule.warmup_steps = 0;
        options.batch = 2;
        options.context = 19;
        options.numbers = TrainOptions::Numbers::f32;
        return options;
    }
    TestFolder folder_;
};

TEST_P(WrittenInputs, AreThoseOfTraining) {
    for (const char* scheme : {"w8", "w8g32"}) {
        SCOPED_TRACE(scheme);
        auto parent = Checkpoint::open(tiny_model_path("llama"));
        ASSERT_TRUE(parent.ok());
        const TrainOptions options = options_of(scheme, scheme);
        auto setup = prepare_training(*parent, options, {});
        ASSERT_TRUE(setup.ok()) << setup.error().to_string();
        TrainableModel& model = *(*setup)->model;
        std::map<const FixedInputScale*, float> before;
        for (const Parameter& parameter : model.parameters().all())
            if (parameter.input_scale) before[parameter.input_scale.get()] = parameter.input_scale->scale();
        for (std::int64_t step = 1; step <= 4; ++step) {
            model.add_gradients(text().narrow(1, 0, 19), text().narrow(1, 1, 19), 1.0 / 19);
            model.parameters().collect_gradients();
            (*setup)->optimizer->step(3e-3, step, (*setup)->optimizer->gradient_norm());
            model.parameters().refresh();
        }
        const bool fixed = options.quant.inputs.kind == InputScaleRule::Kind::fixed;
        EXPECT_EQ(before.size(), fixed ? 8u : 0u);
        for (const auto& [scale, value] : before) EXPECT_NE(scale->scale(), value) << "a scale did not learn";
        const at::NoGradGuard no_grad;
        const at::Tensor trained = model.logits(text());
        const auto source = model.parameters().source(DType::f32);
        const at::Tensor exact = logits_of(parent->spec, *source, KernelChoice::reference), fast = logits_of(model.parameters().with_input_scales(parent->spec), *source, KernelChoice::fastest);
        std::map<std::string, float> scales;
        for (const Parameter& parameter : model.parameters().all())
            if (parameter.input_scale) scales[parameter.key] = parameter.input_scale->scale();
        TrainReport report;
        const Status status = write_trained(**setup, *parent, options, report);
        ASSERT_TRUE(status.ok()) << status.error().to_string();

        auto child = Checkpoint::open(options.output);
        ASSERT_TRUE(child.ok()) << child.error().to_string();
        EXPECT_TRUE(logits_of(child->spec, *child->weights, KernelChoice::reference).equal(exact));
        EXPECT_TRUE(logits_of(child->spec, *child->weights, KernelChoice::fastest).equal(fast));
        EXPECT_LT(divergence(trained, fast), 1e-3);
        EXPECT_GT(divergence(trained, exact), 0);
        std::size_t n_said = 0;
        for (std::size_t block = 1; block + 1 < child->spec.blocks.size(); ++block)
            for (const Op& op : child->spec.blocks[block].ops)
                if (const auto* linear = std::get_if<LinearOp>(&op.detail)) {
                    EXPECT_EQ(linear->input_scale, fixed ? scales.at(linear->terms[0].weight.key) : 0.0f) << op.name;
                    ++n_said;
                }
        EXPECT_EQ(n_said, 14u);
        bool found = false;
        for (const auto& [name, group] : child->config["quantization_config"]["config_groups"].members()) {
            if (!group["input_activations"].is_object()) continue;
            found = true;
            EXPECT_EQ(group["format"].text(), "int-quantized");
            EXPECT_EQ(group["input_activations"]["dynamic"].bool_or(fixed), !fixed);
        }
        EXPECT_TRUE(found);
        EXPECT_EQ(child->manifest["steps"].items().back()["quantization"]["activations"].text(), GetParam());
    }
}

TEST_P(WrittenInputs, OnlyWhereTheFileCanSayIt) {
    auto parent = Checkpoint::open(tiny_model_path("llama")), columns = Checkpoint::open(tiny_model_path("gpt2"));
    ASSERT_TRUE(parent.ok() && columns.ok());
    const auto refusal = [&](const Checkpoint& checkpoint, const TrainOptions& options) {
        const auto setup = prepare_training(checkpoint, options, {});
        return setup.ok() ? std::string() : setup.error().to_string();
    };
    EXPECT_NE(refusal(*parent, options_of("w4g32", "a")).find("symmetric integers of 8 bits"), std::string::npos);
    EXPECT_NE(refusal(*columns, options_of("w8", "b")).find("stores them as (inputs, outputs)"), std::string::npos);
    TrainOptions sparse = options_of("w8", "c");
    sparse.sparsify.target = 0.5;
    EXPECT_NE(refusal(*parent, sparse).find("--sparsity leaves zeros out"), std::string::npos);
    TrainOptions floats = options_of("w8", "d");
    floats.quant.inputs = {};
    floats.quant.activations = QuantTrainOptions::Activations::fp8;
    EXPECT_NE(refusal(*parent, floats).find("--scheme e4m3"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Rules, WrittenInputs, ::testing::Values("dynamic-token", "static-minmax", "static-percentile", "static-mse"), [](const auto& param) {
    std::string name = param.param;
    std::replace(name.begin(), name.end(), '-', '_');
    return name;
});

}  // namespace
}  // namespace skiff::train
