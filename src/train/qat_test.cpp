// Weights as schemes store them, in training: values are those of the checkpoint, gradients those of the straight-through formulas, and the engine computes
// what training computed, for every preset.
#include "train/train_testing.h"

#include <cmath>

#include <torch/csrc/autograd/autograd.h>

#include "base/rng.h"
#include "compress/quantize/coded_inputs.h"
#include "kernels/tile_format.h"
#include "plan/session.h"
#include "tensor/grid_parts.h"
#include "train/optimizer.h"

namespace skiff::train {
namespace {

std::vector<std::string> preset_names() {
    std::vector<std::string> names;
    for (const SchemePreset& preset : scheme_presets())
        if (check_trainable_scheme(preset.scheme).ok()) names.emplace_back(preset.name);
    return names;
}

at::Tensor decoded(const Weight& weight) {
    at::Tensor values = at::empty(weight.shape, at::kFloat);
    for (std::int64_t row = 0; row < weight.n_rows(); ++row) weight.row(row, values.data_ptr<float>() + row * weight.n_columns());
    return values;
}

std::shared_ptr<FakeQuant> make_quant(const at::Tensor& weight, bool columns, const Scheme& scheme, FakeQuant::Codes codes) {
    auto quant = FakeQuant::create(weight, columns, scheme, codes);
    EXPECT_TRUE(quant.ok()) << (quant.ok() ? "" : quant.error().to_string());
    return *quant;
}

class QuantPreset : public ::testing::TestWithParam<std::string> {
protected:
    const Scheme scheme_ = *parse_scheme(GetParam());
};

// Ratios that are not one, so that scales are rounded as they are stored; levels that have passed each other.
void move_ratios(const FakeQuant& quant) {
    if (quant.levels().defined()) {
        const at::NoGradGuard no_grad;
        at::Tensor levels = quant.levels();
        levels.add_(at::randn_like(levels) * 0.05);
    }
    if (!quant.ratio().defined()) return;
    const at::NoGradGuard no_grad;
    at::Tensor ratio = quant.ratio();
    ratio.copy_(at::rand_like(ratio) * 0.6 + 0.7);
}

TEST_P(QuantPreset, TrainsWithTheNumbersThatItStores) {
    at::manual_seed(1);
    for (const bool columns : {false, true})
        for (const FakeQuant::Codes codes : {FakeQuant::Codes::follow, FakeQuant::Codes::stay}) {
            at::Tensor weight = at::randn(columns ? at::IntArrayRef{300, 5} : at::IntArrayRef{5, 300}) * 0.3;
            (columns ? weight.t() : weight)[3].narrow(0, 0, 130).zero_();  // groups of zeros
            const auto quant = make_quant(weight, columns, scheme_, codes);
            move_ratios(*quant);
            const at::Tensor found = quant->forward(), stored = decoded(quant->weight());
            EXPECT_TRUE((columns ? found.t() : found).equal(stored));
            EXPECT_EQ(quant->weight().codes()->scheme, scheme_);
        }
}

// At first it is about what rounding to nearest makes of the weight.
TEST_P(QuantPreset, BeginsWhereRoundingToNearestEnds) {
    at::manual_seed(2);
    at::Tensor weight = at::randn({16, 256}) * 0.1;
    const auto quant = make_quant(weight, false, scheme_, FakeQuant::Codes::follow);
    const auto nearest = encode_nearest(make_float_weight({16, 256}, {weight.data_ptr<float>(), weight.data_ptr<float>() + weight.numel()}), scheme_, ScaleRule::search);
    ASSERT_TRUE(nearest.ok());
    auto error = [&](const at::Tensor& values) { return ((values - weight).square().sum() / weight.square().sum()).item<double>(); };
    EXPECT_LT(error(quant->forward()), error(decoded(*nearest)) * 1.05 + 1e-9);
}

// The formulas as torch's autograd sees them: rounding and the storing of scales pass gradients straight through.
TEST_P(QuantPreset, GradientsAreThoseOfTheFormulas) {
    at::manual_seed(3);
    constexpr std::int64_t n_rows = 3, n_columns = 200;
    at::Tensor weight = (at::randn({n_rows, n_columns}) * 0.3).requires_grad_(true);
    const auto quant = make_quant(weight, false, scheme_, FakeQuant::Codes::follow);
    move_ratios(*quant);
    const at::Tensor first = quant->ratio().defined() ? quant->ratio().detach().clone() : at::Tensor();
    const at::Tensor value = quant->forward(), g = at::randn({n_rows, n_columns});
    quant->backward(g);
    if (scheme_.kind == NumberKind::clusters) {
        EXPECT_TRUE(weight.grad().equal(g));
        // Each number that occurs is a level of its table; what its members get is what it gets.
        const std::int64_t n_levels = scheme_.n_levels, size = scheme_.one_table ? n_rows * n_columns : scheme_.group_size == 0 ? n_columns : scheme_.group_size;
        const double factor = 1 / std::sqrt(std::max(1.0, static_cast<double>(size) / static_cast<double>(n_levels)));
        const at::Tensor levels = quant->levels().detach().to(at::kHalf).to(at::kFloat).view({-1, n_levels}), gradients = quant->levels().grad().view({-1, n_levels});
        for (std::int64_t table = 0; table < levels.size(0); ++table)
            for (std::int64_t i = 0; i < n_levels; ++i) {
                const std::int64_t n_groups = scheme_.n_groups(n_columns), row = table / n_groups, begin = table % n_groups * size;
                const at::Tensor members = scheme_.one_table ? value : value[row].narrow(0, begin, std::min(size, n_columns - begin));
                const at::Tensor theirs = scheme_.one_table ? g : g[row].narrow(0, begin, std::min(size, n_columns - begin));
                const at::Tensor same = (members == levels[table][i]).to(at::kFloat), equals = (levels[table] == levels[table][i]).to(at::kFloat);  // levels that are stored as one
                EXPECT_NEAR((gradients[table] * equals).sum().item<double>(), (theirs * same).sum().item<double>() * factor, 1e-4) << table << " " << i;
            }
        return;
    }
    const QuantRule rule = quant_rule(scheme_);
    if (rule.kind == QuantRule::Kind::sign) {
        EXPECT_TRUE(weight.grad().equal(g));
        const at::Tensor means = weight.detach().narrow(1, 0, 128).abs().mean(1);
        EXPECT_LT((value.narrow(1, 0, 128).abs() - means.unsqueeze(1)).abs().max().item<double>(), 1e-3);
        EXPECT_TRUE((value > 0).equal(weight.detach() > 0));
        return;
    }
    // Oracle. Scales as stored, one per column.
    const std::int64_t size = scheme_.group_size == 0 ? n_columns : scheme_.group_size, n_groups = scheme_.n_groups(n_columns);
    std::vector<float> scales(static_cast<std::size_t>(n_groups)), minimums(static_cast<std::size_t>(n_groups));
    const Weight stored = quant->weight();
    at::Tensor scale = at::empty({n_rows, n_groups}), zero = at::zeros({n_rows, n_groups});
    for (std::int64_t row = 0; row < n_rows; ++row) {
        code_row_params(scheme_, sections_of(*stored.codes()), row, n_columns, scales.data(), minimums.data());
        for (std::int64_t group = 0; group < n_groups; ++group) {
            scale[row][group] = scales[static_cast<std::size_t>(group)];
            if (scheme_.kind == NumberKind::integer)
                zero[row][group] = scheme_.symmetric ? static_cast<float>(1 << (scheme_.bits - 1)) : static_cast<float>(static_cast<std::uint8_t>(stored.codes()->zeros.data[static_cast<std::size_t>(row * n_groups + group)]));
        }
    }
    auto spread = [&](const at::Tensor& groups) { return groups.repeat_interleave(size, 1).narrow(1, 0, n_columns); };
    at::Tensor s_leaf = scale.clone().requires_grad_(true), w_leaf = weight.detach().clone().requires_grad_(true);
    const at::Tensor s = spread(s_leaf), x = w_leaf / s;
    at::Tensor low, high;
    if (scheme_.kind == NumberKind::integer) {
        low = -spread(zero);
        high = spread(static_cast<float>((1 << scheme_.bits) - 1) - zero);
        if (scheme_.bits == 2) {
            low = 0.99f * (low - 0.5f);
            high = 0.99f * (high + 0.5f);
        }
    } else {
        const auto& levels = rule.levels;
        const float below = (levels[1] - levels[0]) / 2, above = (levels.back() - levels[levels.size() - 2]) / 2;
        const bool stretched = scheme_.bits <= 2;
        low = at::full_like(x.detach(), stretched ? 0.99f * (levels.front() - below) : levels.front());
        high = at::full_like(x.detach(), stretched ? 0.99f * (levels.back() + above) : levels.back());
    }
    const at::Tensor level = (value / s.detach()).nan_to_num(0), inside = ((x.detach() >= low) & (x.detach() <= high)).to(at::kFloat);
    torch::autograd::backward({((inside * x + (level - inside * x).detach()) * s * g).sum()});
    EXPECT_LT((weight.grad() - w_leaf.grad()).abs().max().item<double>(), 1e-5);
    const at::Tensor first_scale = scale / first.view({n_rows, n_groups}) * rule.gradient_scale(size);  // but for the rounding of stored scales
    EXPECT_LT((quant->ratio().grad().view({n_rows, n_groups}) - s_leaf.grad() * first_scale).abs().max().item<double>(), (scheme_.scale_dtype == DType::f8_e8m0 ? 2.0 : scheme_.relative_scales() ? 6e-2 : 1e-2) * std::max(1e-3, (s_leaf.grad() * first_scale).abs().max().item<double>()));
    EXPECT_GT(inside.sum().item<double>(), 0.7 * static_cast<double>(x.numel()));
}

// Where codes stay, the value is linear in the scales, so that differences are exact.
TEST_P(QuantPreset, ScalesAlone) {
    at::manual_seed(4);
    Scheme scheme = scheme_;
    if (scheme.relative_scales() || scheme.scale_dtype == DType::f8_e8m0) return;  // their scales move in steps
    scheme.scale_dtype = DType::f32;
    at::Tensor weight = at::randn({4, 160});
    const auto quant = make_quant(weight, false, scheme, FakeQuant::Codes::stay);
    if (!quant->ratio().defined()) return;
    const at::Tensor g = at::randn({4, 160}), before = quant->weight().codes() != nullptr ? quant->forward() : at::Tensor();
    quant->backward(g);
    EXPECT_FALSE(weight.grad().defined());
    const double base = (before * g).sum().item<double>();
    const at::NoGradGuard no_grad;
    at::Tensor ratio = quant->ratio();
    const at::Tensor direction = at::randn_like(ratio);
    ratio.add_(direction, 0.125);
    const double slope = ((quant->forward() * g).sum().item<double>() - base) / 0.125;
    const std::int64_t size = scheme.group_size == 0 ? 160 : scheme.group_size;
    EXPECT_NEAR((ratio.grad() * direction).sum().item<double>() / quant_rule(scheme).gradient_scale(size), slope, 1e-3 * std::max(1.0, std::fabs(slope)));
}

const at::Tensor& some_tokens() {
    static const at::Tensor tokens = at::tensor({1, 5, 9, 33, 60, 7, 8, 21, 40, 3, 2, 50, 17, 5, 9, 34, 61, 11, 12, 1}, at::kLong).view({1, 20});
    return tokens;
}
at::Tensor engine_logits(const ModelSpec& spec, const WeightSource& weights, KernelChoice kernels) {
    PlanOptions options;
    options.kernels = kernels;
    if (kernels == KernelChoice::reference) options.isa = Isa::generic;
    auto plan = lower(spec, weights, options);
    EXPECT_TRUE(plan.ok()) << (plan.ok() ? "" : plan.error().to_string());
    auto session = Session::create(*plan, {.n_threads = 1, .n_context = 32});
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < some_tokens().size(1); ++i) ids.push_back(some_tokens()[0][i].item<std::int32_t>());
    EXPECT_TRUE((*session)->forward(0, ids, BatchItem::Logits::all).ok());
    const auto found = (*session)->logits();
    return at::tensor(at::ArrayRef<float>(found.data(), found.size())).view({static_cast<std::int64_t>(ids.size()), -1});
}

// How the fast kernel of a scheme takes its activations here.
ActivationForm fast_form(const Scheme& scheme) {
    std::vector<float> values(16 * 64);
    Rng rng(1);
    for (float& value : values) value = rng.normal();
    const auto weight = encode_nearest(make_float_weight({16, 64}, std::move(values)), scheme, ScaleRule::min_max);
    const Layout* layout = choose_layout(*weight, best_isa(), KernelChoice::fastest);
    return choose_linear_kernel(layout->name, best_isa(), 20, KernelChoice::fastest)->form;
}

// After steps of training with a teacher: the plain kernels with float activations give training's logits; the fast ones nearly those of training that
// rounds activations, and tables of levels, as they do, or as the file says.
TEST_P(QuantPreset, TheEngineComputesWhatWasTrained) {
    const bool takes_floats = fast_form(scheme_) == ActivationForm::f32;
    std::vector<InputForm> forms = {InputForm::floats, InputForm::blocks};
    if (can_fix_inputs(scheme_)) forms.insert(forms.end(), {InputForm::tokens, InputForm::fixed});
    for (const InputForm form : forms)
    for (const char* name : {"llama", "gpt2", "phi3", "llama_tied_bf16"}) {
        SCOPED_TRACE(std::string(name) + ", inputs in form " + std::to_string(static_cast<int>(form)));
        const bool int8_inputs = form != InputForm::floats;
        auto checkpoint = Checkpoint::open(tiny_model_path(name));
        ASSERT_TRUE(checkpoint.ok());
        ThreadPool pool(1);
        QuantizeStep step;
        step.schemes = default_wish(scheme_);
        auto plan = plan_tensors(*checkpoint, step, pool, nullptr);
        ASSERT_TRUE(plan.ok()) << plan.error().to_string();
        auto parameters = load_parameters(checkpoint->spec, *checkpoint->weights);
        std::size_t n_coded = 0;
        std::set<std::string> said;  // weights whose file says how their inputs are coded
        const auto operators = operator_weights(checkpoint->spec);
        for (const PlannedTensor& planned : plan->tensors)
            if (planned.becomes_codes()) {
                if (can_code_inputs(planned) && operators.count(planned.key) != 0) said.insert(planned.key);
                ASSERT_TRUE(parameters.quantize(planned.key, *planned.scheme, FakeQuant::Codes::follow, int8_inputs ? Tables::bytes : Tables::exact).ok());
                ++n_coded;
            }
        EXPECT_GT(n_coded, 4u);
        ASSERT_TRUE(parameters.round_inputs(checkpoint->spec, [&](const std::string& key) { return !int8_inputs || said.count(key) != 0 ? form : InputForm::blocks; }).ok());
        parameters.refresh();
        const auto model = make_trainable(checkpoint->spec, std::move(parameters));
        if (form == InputForm::fixed) {
            const at::NoGradGuard no_grad;
            model->observe(some_tokens(), {});
            ASSERT_TRUE(model->parameters().begin_input_scales({InputScaleRule::Kind::fixed, RangeRule::least_error, 100}).ok());
        }
        Optimizer optimizer(model->parameters().trained(checkpoint->spec), {});
        double first = 0, last = 0;
        for (std::int64_t at = 1; at <= 4; ++at) {
            last = model->add_gradients(some_tokens().narrow(1, 0, 19), some_tokens().narrow(1, 1, 19), 1.0 / 19);
            if (at == 1) first = last;
            model->parameters().collect_gradients();
            optimizer.step(3e-3, at, optimizer.gradient_norm());
            model->parameters().refresh();
        }
        EXPECT_LT(last, first);
        const at::NoGradGuard no_grad;
        const at::Tensor trained = model->logits(some_tokens());
        const auto source = model->parameters().source(DType::f32);  // norms as they were trained: rounding them to the type of the parent is another matter
        if (!int8_inputs) { EXPECT_LT(relative_difference(engine_logits(checkpoint->spec, *source, KernelChoice::reference), trained), 1e-4); }
        if (int8_inputs == takes_floats) continue;
        const at::Tensor p = at::log_softmax(trained, 1), q = at::log_softmax(engine_logits(model->parameters().with_input_scales(checkpoint->spec), *source, KernelChoice::fastest), 1);
        EXPECT_LT((p.exp() * (p - q)).sum(1).mean().item<double>(), 1e-3);
    }
}

INSTANTIATE_TEST_SUITE_P(Presets, QuantPreset, ::testing::ValuesIn(preset_names()), [](const auto& param) { return param.param; });

TEST(QuantRules, OfThePapers) {
    // LSQ: the window is the grid. SEQ: 0.99 of where the outermost levels end; ternary in units of its step: 1.485.
    EXPECT_FALSE(quant_rule(*parse_scheme("w4g32")).stretched);
    EXPECT_FALSE(quant_rule(*parse_scheme("n3g32r")).stretched);
    EXPECT_TRUE(quant_rule(*parse_scheme("ternary")).stretched);
    EXPECT_TRUE(quant_rule(*parse_scheme("n2g32r")).stretched);
    EXPECT_TRUE(quant_rule(*parse_scheme("b2g32r")).stretched);
    EXPECT_EQ(quant_rule(*parse_scheme("binary")).kind, QuantRule::Kind::sign);
    // Gradients of a ternary group by hand: s = 1, w = 0.2, 0.9, 1.4, 1.6, -3.
    at::Tensor weight = at::tensor({0.2f, 0.9f, 1.4f, 1.6f, -3.0f}).view({1, 5}).requires_grad_(true);
    Scheme scheme = *parse_scheme("ternaryg0");
    scheme.scale_dtype = DType::f32;
    const auto quant = make_quant(weight, false, scheme, FakeQuant::Codes::follow);
    const at::NoGradGuard no_grad;
    at::Tensor ratio = quant->ratio();
    const at::Tensor value = quant->forward();
    const float first = value.abs().max().item<float>();
    ratio.fill_(1 / first);
    EXPECT_LT((quant->forward() - at::tensor({0.0f, 1.0f, 1.0f, 1.0f, -1.0f})).abs().max().item<double>(), 1e-6);
    quant->backward(at::ones({1, 5}));
    EXPECT_TRUE(weight.grad().equal(at::tensor({1.0f, 1.0f, 1.0f, 0.0f, 0.0f}).view({1, 5})));
    const double expected = (0 - 0.2) + (1 - 0.9) + (1 - 1.4) + 1 - 1;
    EXPECT_NEAR(ratio.grad()[0].item<double>(), expected * static_cast<double>(first) / std::sqrt(5.0), 1e-5);
}

// A row of normal weights with ratios away from one, rounded, its gradient for `g`, and the step that the row began with.
struct RoundedRow {
    at::Tensor weight, value, g;
    std::shared_ptr<FakeQuant> quant;
    double first = 0, ratio = 0;
};
RoundedRow rounded_row(const Scheme& scheme, std::int64_t n, double spread, std::uint64_t seed) {
    at::manual_seed(seed);
    RoundedRow row;
    row.weight = (at::randn({1, n}) * spread).requires_grad_(true);
    row.quant = make_quant(row.weight, false, scheme, FakeQuant::Codes::follow);
    move_ratios(*row.quant);
    row.value = row.quant->forward();
    row.g = at::randn({1, n});
    row.quant->backward(row.g);
    RowParams params;
    fit_row(*make_grid(scheme, ScaleRule::search), scheme, std::span(row.weight.data_ptr<float>(), static_cast<std::size_t>(n)), {}, params);
    row.first = static_cast<double>(params.groups[0].scale);
    row.ratio = row.quant->ratio()[0].item<double>();
    return row;
}

// Stretched elastic quantization as ParetoQ states it (Liu et al. 2025, equation 7 and its gradients), with alpha the largest weight that is not clipped: four half steps of b2, a step and a half of
// ternary. 0 is a border of b2: either neighbour will do.
TEST(QuantRules, StretchedElasticQuantization) {
    for (const auto& [name, half_levels, shift, per_scale] : {std::tuple("b2g0", 2.0, 0.5, 4.0), std::tuple("ternaryg0", 1.5, 0.0, 1.5)}) {
        SCOPED_TRACE(name);
        Scheme scheme = *parse_scheme(name);
        scheme.scale_dtype = DType::f32;
        const std::int64_t n = 401;
        const auto [weight, value, g, quant, first, ratio] = rounded_row(scheme, n, 0.8, 12);
        const double alpha = std::fabs(first * ratio) * per_scale;
        double alpha_gradient = 0;
        for (std::int64_t i = 0; i < n; ++i) {
            const double w = weight[0][i].item<double>(), x = w / alpha, gradient = g[0][i].item<double>();
            const double level = (std::round(std::clamp(x, -0.99, 0.99) * half_levels - shift) + shift) / half_levels;
            EXPECT_NEAR(value[0][i].item<double>(), alpha * level, 1e-5 * alpha) << w;
            const bool inside = std::fabs(x) <= 0.99;
            EXPECT_EQ(weight.grad()[0][i].item<double>(), inside ? gradient : 0) << x;
            alpha_gradient += gradient * (inside ? level - x : level);
        }
        // From alpha to the ratio that is trained, and the factor of LSQ.
        const double expected = alpha_gradient * alpha / ratio * static_cast<double>(quant_rule(scheme).gradient_scale(n));
        EXPECT_NEAR(quant->ratio().grad()[0].item<double>(), expected, 1e-4 * std::max(1.0, std::fabs(expected)));
        EXPECT_EQ(std::get<0>(at::_unique(value)).numel(), name[0] == 'b' ? 4 : 3);
    }
}

// 3 and 4 bits as ParetoQ has them: LSQ on the whole grid of integers, -4 to 3 and -8 to 7, zero among them.
TEST(QuantRules, LearntStepSize) {
    for (const int bits : {3, 4}) {
        Scheme scheme = *parse_scheme("w" + std::to_string(bits));
        scheme.scale_dtype = DType::f32;
        const std::int64_t n = 300;
        const auto [weight, value, g, quant, first, ratio] = rounded_row(scheme, n, 1, 13);
        const double s = first * ratio, low = -(1 << (bits - 1)), high = -low - 1;
        double s_gradient = 0;
        for (std::int64_t i = 0; i < n; ++i) {
            const double x = weight[0][i].item<double>() / s, gradient = g[0][i].item<double>(), level = std::clamp(std::nearbyint(x), low, high);
            EXPECT_NEAR(value[0][i].item<double>(), s * level, 1e-5 * std::fabs(s)) << x;
            const bool inside = x >= low && x <= high;
            EXPECT_EQ(weight.grad()[0][i].item<double>(), inside ? gradient : 0) << x;
            s_gradient += gradient * (inside ? level - x : level);
        }
        const double expected = s_gradient * first / std::sqrt(static_cast<double>(n) * high);  // Qp = 2^(b-1) - 1
        EXPECT_NEAR(quant->ratio().grad()[0].item<double>(), expected, 1e-4 * std::max(1.0, std::fabs(expected))) << bits;
    }
}

// Weights that leave their level's neighbourhood take another one; with codes that stay only the levels move.
TEST(Clusters, MembersMoveUnlessTheyStay) {
    at::Tensor weight = at::tensor({0.0f, 0.1f, 1.0f, 1.1f, 2.0f, 2.1f, 3.0f, 3.1f}).view({1, 8}).requires_grad_(true), fixed = weight.detach().clone().requires_grad_(true);
    const auto follows = make_quant(weight, false, *parse_scheme("k4"), FakeQuant::Codes::follow), stays = make_quant(fixed, false, *parse_scheme("k4"), FakeQuant::Codes::stay);
    const at::NoGradGuard no_grad;
    for (const auto& quant : {follows, stays}) EXPECT_LT((quant->forward() - at::tensor({0.05f, 0.05f, 1.05f, 1.05f, 2.05f, 2.05f, 3.05f, 3.05f})).abs().max().item<double>(), 2e-3);
    weight[0][1] = 0.9f;
    fixed[0][1] = 0.9f;
    for (const auto& quant : {follows, stays}) quant->levels()[0] = 2.5f;  // the first level passes two others
    EXPECT_LT((follows->forward() - at::tensor({1.05f, 1.05f, 1.05f, 1.05f, 2.05f, 2.05f, 3.05f, 3.05f})).abs().max().item<double>(), 2e-3);
    EXPECT_LT((stays->forward() - at::tensor({2.5f, 2.5f, 1.05f, 1.05f, 2.05f, 2.05f, 3.05f, 3.05f})).abs().max().item<double>(), 2e-3);
    EXPECT_TRUE(stays->forward().equal(decoded(stays->weight())));
    stays->backward(at::tensor({1.0f, 2.0f, 4.0f, 0.0f, 0.0f, 0.0f, 0.0f, 8.0f}).view({1, 8}));
    EXPECT_LT((stays->levels().grad() * std::sqrt(2.0f) - at::tensor({3.0f, 4.0f, 0.0f, 8.0f})).abs().max().item<double>(), 1e-5);
}

// A group of zeros learns: its scale is not zero for ever, and what it computes at first is.
TEST_P(QuantPreset, GroupsOfZerosCanLearn) {
    if (scheme_.bits == 1 || scheme_.kind == NumberKind::clusters || !check_zero_level(scheme_).ok()) return;
    at::manual_seed(6);
    at::Tensor weight = at::randn({4, 256}) * 0.3;
    weight[1].narrow(0, 0, 128).zero_();
    weight[2].zero_();
    weight.set_requires_grad(true);
    const auto quant = make_quant(weight, false, scheme_, FakeQuant::Codes::follow);
    EXPECT_EQ(quant->forward()[1].narrow(0, 0, 128).abs().max().item<double>(), 0);
    EXPECT_EQ(quant->forward()[2].abs().max().item<double>(), 0);
    // Towards -1 and 1, by gradients alone.
    const at::Tensor wanted = at::where(at::arange(256) % 2 == 0, at::ones({256}), -at::ones({256}));
    const at::NoGradGuard no_grad;
    for (int step = 0; step < 400; ++step) {
        const at::Tensor error = quant->forward() - wanted;
        quant->backward(error);
        weight.sub_(weight.grad(), 0.05);
        if (quant->ratio().grad().defined()) at::Tensor(quant->ratio()).sub_(quant->ratio().grad() / quant->ratio().grad().abs().max().clamp_min(1e-30), 0.02);
        weight.mutable_grad().zero_();
        at::Tensor(quant->ratio()).mutable_grad().zero_();
    }
    EXPECT_LT((quant->forward() - wanted).square().mean().item<double>(), 0.3) << "of zeros that learnt nothing it is 1";
    for (const std::int64_t row : {1, 2}) EXPECT_LT((quant->forward()[row] - wanted).narrow(0, 0, 128).square().mean().item<double>(), 0.6) << row;
}

TEST(Int8Tables, AreThoseOfTheTiles) {
    for (const char* name : {"nf4", "n4g32r", "iq4nl", "ternary", "mxfp4"}) {
        const Scheme scheme = *parse_scheme(name);
        PackedWeight packed;
        packed.scheme = scheme;
        packed.dtype = scheme.scale_dtype;
        packed.n_columns = 128;
        const TileFormat format = tile_format(packed);
        const QuantRule rule = quant_rule(scheme, Tables::bytes);
        for (std::size_t code = 0; code < rule.of_code.size(); ++code) {
            const int level = format.has_levels ? format.levels[code] : static_cast<int>(code);
            EXPECT_NEAR(rule.of_code[code], static_cast<float>(level - format.offset) * format.level_scale, 1e-6 * std::fabs(rule.of_code[code])) << name << " " << code;
        }
        EXPECT_EQ(rule.of_code == quant_rule(scheme).of_code, std::string_view(name) != "nf4") << name;
    }
}

TEST(QuantErrors, AreSaid) {
    EXPECT_FALSE(check_trainable_scheme(*parse_scheme("bf16")).ok());
    EXPECT_FALSE(check_trainable_scheme(*parse_scheme("w4g32m")).ok());
    EXPECT_TRUE(check_trainable_scheme(*parse_scheme("w4g32a")).ok());
}

}  // namespace
}  // namespace skiff::train
