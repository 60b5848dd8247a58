// The fused operators against the composed ones in f64: values, gradients, and differences of values in random directions. And that neither depends
// on the number of threads.
#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <functional>

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include "train/operators.h"

namespace skiff::train {
namespace {

struct Input {
    at::Tensor value;  // f64
    enum class Kind : std::uint8_t { activation, weight } kind = Kind::activation;  // weights are f32 whatever the number type
    enum class Gradient : std::uint8_t { wanted, unwanted } gradient = Gradient::wanted;
};
using Compute = std::function<at::Tensor(const std::vector<at::Tensor>& inputs, Form form)>;

struct Judged {
    std::string name;
    std::vector<Input> inputs;
    Compute compute;
    at::ScalarType numbers = at::kFloat;
    double tolerance = 1e-5;  // of the largest element
    // f32 products are the BLAS's, which shares sums among threads as it likes; all else gives the same bits on any number of threads.
    enum class Products : std::uint8_t { none, some } products = Products::none;
};

struct Outcome {
    at::Tensor value;
    std::vector<at::Tensor> gradients;  // undefined where none is wanted
};
Outcome run(const Judged& judged, const std::vector<at::Tensor>& given, Form form, const at::Tensor& d_value) {
    std::vector<at::Tensor> leaves;
    for (std::size_t i = 0; i < given.size(); ++i)
        leaves.push_back(given[i].detach().clone().set_requires_grad(judged.inputs[i].gradient == Input::Gradient::wanted));
    const at::Tensor value = judged.compute(leaves, form);
    torch::autograd::backward({value}, {d_value.to(value.scalar_type())});
    Outcome outcome{value.detach(), {}};
    for (const at::Tensor& leaf : leaves) outcome.gradients.push_back(leaf.grad());
    return outcome;
}

// Inputs and gradients of results are about 1 everywhere here. Where what follows from them is next to nothing, as the gradient of a layer norm of one
// column, terms of that size have cancelled, and so much of their rounding may stay.
double difference(const at::Tensor& found, const at::Tensor& expected) {
    const double largest = expected.abs().max().item<double>();
    return (found.to(at::kDouble) - expected).abs().max().item<double>() / std::max(largest, 1e-2);
}

void judge(const Judged& judged) {
    SCOPED_TRACE(judged.name + (judged.numbers == at::kBFloat16 ? ", bf16" : ", f32"));
    // Both forms get numbers that the number type has.
    std::vector<at::Tensor> narrow, wide;
    for (const Input& input : judged.inputs) {
        narrow.push_back(input.value.to(input.kind == Input::Kind::weight ? at::kFloat : judged.numbers));
        wide.push_back(narrow.back().to(at::kDouble));
    }
    const at::Tensor shape = judged.compute(wide, Form::composed);
    const at::Tensor d_value = at::randn(shape.sizes(), at::kDouble).to(judged.numbers).to(at::kDouble);
    const Outcome expected = run(judged, wide, Form::composed, d_value);
    at::set_num_threads(2);
    const Outcome found = run(judged, narrow, Form::automatic, d_value);
    at::set_num_threads(1);
    const Outcome again = run(judged, narrow, Form::automatic, d_value);

    auto same_on_any_threads = [&](const at::Tensor& two, const at::Tensor& one) {
        if (judged.products == Judged::Products::some && judged.numbers == at::kFloat) return difference(two, one.to(at::kDouble)) < 1e-5;
        return at::equal(two, one);
    };
    EXPECT_LT(difference(found.value, expected.value), judged.tolerance);
    EXPECT_TRUE(same_on_any_threads(found.value, again.value)) << "the value depends on the number of threads";
    for (std::size_t i = 0; i < judged.inputs.size(); ++i) {
        SCOPED_TRACE("input " + std::to_string(i));
        ASSERT_EQ(found.gradients[i].defined(), judged.inputs[i].gradient == Input::Gradient::wanted);
        if (!found.gradients[i].defined()) continue;
        EXPECT_EQ(found.gradients[i].scalar_type(), narrow[i].scalar_type());
        EXPECT_LT(difference(found.gradients[i], expected.gradients[i]), judged.tolerance);
        EXPECT_TRUE(same_on_any_threads(found.gradients[i], again.gradients[i])) << "the gradient depends on the number of threads";
        // Central differences, which know nothing of anybody's derivatives. The product with a random direction is as large as the norm of the
        // gradient, about; so is its error.
        const at::NoGradGuard no_grad;
        const at::Tensor direction = at::randn(wide[i].sizes(), at::kDouble);
        auto value_at = [&](double step) {
            std::vector<at::Tensor> moved = wide;
            moved[i] = wide[i] + step * direction;
            return (judged.compute(moved, Form::composed) * d_value).sum().item<double>();
        };
        constexpr double step = 1e-6;
        const double slope = (value_at(step) - value_at(-step)) / (2 * step), gradient = (found.gradients[i].to(at::kDouble) * direction).sum().item<double>();
        const double size = expected.gradients[i].norm().item<double>();
        EXPECT_NEAR(gradient, slope, 3 * judged.tolerance * size + 1e-6);
    }
}

Input activation_input(at::IntArrayRef sizes, double scale = 1) { return {at::randn(sizes, at::kDouble) * scale}; }
Input weight_input(at::IntArrayRef sizes, double scale = 1) { return {at::randn(sizes, at::kDouble) * scale, Input::Kind::weight}; }

// One rounding to bf16 is up to 2^-8 of an element. Norms and gates round their result, and their backward pass the gradient, once; the gradient of a
// weight is a sum of exact products.
constexpr double bf16_once = 5e-3;

class Operators : public ::testing::Test {
protected:
    void SetUp() override { at::manual_seed(5); }
};

TEST_F(Operators, Norm) {
    int n_cases = 0;
    for (const std::int64_t width : {1, 7, 8, 33, 172, 257})
        for (const std::int64_t n_rows : {1, 5, 100})
            for (const NormKind kind : {NormKind::rms, NormKind::layer})
                for (const int vectors : {0, 1, 3}) {  // none, weight, both
                    if (kind == NormKind::rms && vectors == 3 && n_rows != 5) continue;
                    // The numbers of input and result: f32 to f32, f32 to bf16 (what a block reads from the residual stream), bf16 to bf16 (heads).
                    const int types = n_cases++ % 3;
                    const bool grouped = n_cases % 2 == 0;
                    NormSettings settings;
                    settings.kind = kind;
                    settings.eps = width == 1 ? 0.5f : 1e-5f;  // with one column all that is left of an RMS norm's gradient is due to eps
                    settings.group_width = grouped ? width : 0;
                    Judged judged;
                    judged.name = "norm of " + std::to_string(n_rows) + " x " + std::to_string(width) + (kind == NormKind::layer ? ", layer" : ", rms") + (grouped ? ", grouped" : "") +
                                  ", vectors " + std::to_string(vectors) + ", types " + std::to_string(types);
                    judged.inputs = {activation_input({n_rows, grouped ? 3 * width : width})};
                    judged.inputs[0].value += 0.5;
                    if (types != 2) judged.inputs[0].kind = Input::Kind::weight;  // f32
                    if ((vectors & 1) != 0) judged.inputs.push_back(weight_input({width}));
                    if ((vectors & 2) != 0) judged.inputs.push_back(weight_input({width}));
                    judged.numbers = types == 0 ? at::kFloat : at::kBFloat16;
                    judged.tolerance = types == 0 ? 1e-5 : bf16_once;
                    judged.compute = [=](const std::vector<at::Tensor>& in, Form form) {
                        NormSettings here = settings;
                        here.result = form == Form::composed ? at::kDouble : types == 0 ? at::kFloat : at::kBFloat16;
                        return norm(in[0], in.size() > 1 ? in[1] : at::Tensor(), in.size() > 2 ? in[2] : at::Tensor(), here, form);
                    };
                    judge(judged);
                }
}

// A bias alone, as a norm without a weight may have it.
TEST_F(Operators, NormWithABiasAlone) {
    Judged judged{"norm", {activation_input({6, 33}), weight_input({33})}, [](const std::vector<at::Tensor>& in, Form form) {
                      NormSettings settings{NormKind::layer, 1e-5f, 0, form == Form::composed ? at::kDouble : at::kFloat};
                      return norm(in[0], {}, in[1], settings, form);
                  }};
    judge(judged);
}

TEST_F(Operators, Gate) {
    struct Columns {
        std::int64_t before, between, after;
        bool up_first;
    };
    for (const std::int64_t width : {1, 7, 8, 33, 172, 257})
        for (const Activation activation : {Activation::silu, Activation::relu, Activation::gelu_tanh})
            for (const Columns columns : {Columns{0, 0, 0, false}, Columns{0, 0, 0, true}, Columns{3, 5, 2, false}, Columns{1, 0, 7, true}})
                for (const at::ScalarType numbers : {at::kFloat, at::kBFloat16}) {
                    const std::int64_t first = columns.before, second = columns.before + width + columns.between, n_columns = second + width + columns.after;
                    const GatedSettings settings{activation, width, columns.up_first ? second : first, columns.up_first ? first : second};
                    ASSERT_TRUE(has_fused_gate(activation));
                    judge({"gate " + std::to_string(static_cast<int>(activation)) + " of " + std::to_string(width) + " in " + std::to_string(n_columns),
                           {activation_input({19, n_columns}, 2)},
                           [=](const std::vector<at::Tensor>& in, Form form) { return gated(in[0], settings, form); },
                           numbers,
                           numbers == at::kFloat ? 1e-5 : bf16_once});
                }
}

// Far out, where exp() saturates.
TEST_F(Operators, GateOfLargeNumbers) {
    at::Tensor x = at::tensor({-300.0, -90.0, -88.0, -30.0, 0.0, 30.0, 88.0, 300.0}, at::kDouble);
    for (const Activation activation : {Activation::silu, Activation::relu, Activation::gelu_tanh}) {
        const at::Tensor both = at::cat({x, at::ones_like(x)}).view({1, 16}).to(at::kFloat).requires_grad_(true);
        const at::Tensor y = gated(both, {activation, 8, 0, 8});
        torch::autograd::backward({y.sum()});
        const at::Tensor expected = activate(x, activation);
        EXPECT_LT((y.detach().to(at::kDouble) - expected).abs().max().item<double>(), 1e-4);
        EXPECT_TRUE(at::isfinite(both.grad()).all().item<bool>());
        EXPECT_NEAR(both.grad()[0][0].item<double>(), 0, 1e-6);
        EXPECT_NEAR(both.grad()[0][7].item<double>(), 1, 1e-6);
    }
}

TEST_F(Operators, MergedLinear) {
    using Gradient = Input::Gradient;
    const std::vector<std::vector<std::int64_t>> outputs = {{1}, {33}, {7, 8, 1}, {172, 33, 33}};
    int n_cases = 0;
    for (const auto& rows : outputs)
        for (const std::int64_t n_in : {1, 33, 172})
            for (const bool biases : {false, true})
                for (const at::ScalarType numbers : {at::kFloat, at::kBFloat16}) {
                    if (n_in == 1 && numbers == at::kBFloat16) continue;  // a single sum, which may be next to nothing
                    const int frozen = n_cases++ % 4;  // 0: nothing; 1: every second weight; 2: all weights; 3: the input
                    Judged judged;
                    judged.name = "linear " + std::to_string(n_in) + " to " + std::to_string(rows.size()) + " parts, biases " + std::to_string(biases) + ", frozen " + std::to_string(frozen);
                    judged.numbers = numbers;
                    judged.products = Judged::Products::some;
                    judged.inputs.push_back(activation_input({n_cases % 2 == 0 ? 1 : 37, n_in}));
                    if (frozen == 3) judged.inputs[0].gradient = Gradient::unwanted;
                    for (std::size_t i = 0; i < rows.size(); ++i) {
                        judged.inputs.push_back(weight_input({rows[i], n_in}, 1 / std::sqrt(static_cast<double>(n_in))));
                        if (frozen == 2 || (frozen == 1 && i % 2 == 1)) judged.inputs.back().gradient = Gradient::unwanted;
                    }
                    if (biases)
                        for (std::size_t i = 0; i < rows.size(); ++i) {
                            judged.inputs.push_back(weight_input({rows[i]}));
                            if (frozen == 1 && i % 2 == 0) judged.inputs.back().gradient = Gradient::unwanted;
                        }
                    judged.compute = [n = rows.size()](const std::vector<at::Tensor>& in, Form form) {
                        const auto middle = in.begin() + 1 + static_cast<std::ptrdiff_t>(n);
                        return merged_linear(in[0], {in.begin() + 1, middle}, {middle, in.end()}, form);
                    };
                    // bf16: the weights are rounded too, and the terms of a sum may cancel where their errors do not.
                    judged.tolerance = numbers == at::kFloat ? 1e-5 : 4 * bf16_once;
                    judge(judged);
                }
}

TEST_F(Operators, Attention) {
    int n_cases = 0;
    for (const std::int64_t n_tokens : {1, 5, 127, 128, 129, 300})
        for (const std::int64_t group : {1, 3, 4})
            for (const std::int64_t window : {0, 3, 130}) {
                // The other settings take turns, with periods that have no factor in common.
                const int i = n_cases++;
                AttentionSettings settings;
                settings.head_dim = std::vector<std::int64_t>{6, 10, 64, 80}[static_cast<std::size_t>(i / 2 % 4)];
                settings.n_kv_heads = n_tokens > 200 ? 1 : 2;
                settings.n_heads = settings.n_kv_heads * group;
                settings.n_tokens = n_tokens;
                settings.window = window;
                settings.scale = 1 / std::sqrt(static_cast<float>(settings.head_dim));
                settings.softcap = i % 3 == 1 ? 2.0f : 0.0f;
                const int rope = i % 5;  // 0: none; 1, 2: half; 3, 4: interleaved; 2, 4: only a part of each head; the keys of 4 are not turned
                if (rope != 0) {
                    const std::int64_t half = rope % 2 == 0 ? settings.head_dim / 2 - 2 : settings.head_dim / 2;
                    std::vector<float> frequency;
                    for (std::int64_t pair = 0; pair < half; ++pair) frequency.push_back(std::pow(0.1f, static_cast<float>(pair)));
                    settings.q_rotation = make_rotation(frequency, 1.25f, rope > 2 ? RopeStyle::interleaved : RopeStyle::half, n_tokens + 2, at::kCPU);
                    if (rope != 4) settings.k_rotation = settings.q_rotation;
                }
                const std::int64_t n_rows = (n_tokens < 100 ? 3 : 1) * n_tokens, q = settings.n_heads * settings.head_dim, kv = settings.n_kv_heads * settings.head_dim;
                Judged judged;
                judged.name = "attention of " + std::to_string(n_tokens) + " tokens, group " + std::to_string(group) + ", head " + std::to_string(settings.head_dim) + ", window " +
                              std::to_string(window) + ", rope " + std::to_string(rope) + ", softcap " + std::to_string(settings.softcap);
                if (i % 2 == 0) judged.inputs = {activation_input({n_rows, q + 2 * kv})};
                else judged.inputs = {activation_input({n_rows, q}), activation_input({n_rows, kv}), activation_input({n_rows, kv})};
                judged.compute = [=](const std::vector<at::Tensor>& in, Form form) { return attention(in, settings, form); };
                judged.tolerance = 1e-5;
                judged.products = Judged::Products::some;
                // One token attends to itself alone: the gradients of query and key are zero, and what rounding leaves of them is not judged.
                if (n_tokens == 1) judged.tolerance = 1e9;
                if (n_tokens == 1) {
                    const at::NoGradGuard no_grad;
                    std::vector<at::Tensor> in;
                    for (const Input& input : judged.inputs) in.push_back(input.value.to(at::kFloat));
                    EXPECT_LT(difference(attention(in, settings), attention(in, settings, Form::composed).to(at::kDouble)), 1e-6);
                    continue;
                }
                judge(judged);
                // bf16: queries, keys, scores, probabilities and their gradients are each rounded. A score of s is off by up to s * 2^-8,
                // its probability by that share of itself; scores reach about 4 here.
                judged.numbers = at::kBFloat16;
                judged.tolerance = 4e-2;
                if (i % 3 == 0) judge(judged);
            }
}

// Large scores: the softmax is one-hot, nothing overflows.
TEST_F(Operators, AttentionOfLargeScores) {
    AttentionSettings settings;
    settings.n_heads = settings.n_kv_heads = 1;
    settings.head_dim = 8;
    settings.n_tokens = 40;
    settings.scale = 100;
    const at::Tensor qkv = at::randn({40, 24});
    const at::Tensor fused = attention({qkv}, settings), composed = attention({qkv}, settings, Form::composed);
    EXPECT_TRUE(at::isfinite(fused).all().item<bool>());
    EXPECT_LT(difference(fused, composed.to(at::kDouble)), 1e-3);  // e to the power of a score of 1000 that is off by 1e-4
}

// Turning pairs is multiplying complex numbers.
TEST_F(Operators, RotateIsAComplexProduct) {
    const std::vector<float> frequency = {1.0f, 0.3f};
    const at::Tensor x = at::randn({2 * 7, 3 * 5});  // two sequences of 7, three heads of 5, of which 4 turn
    for (const RopeStyle style : {RopeStyle::half, RopeStyle::interleaved}) {
        const Rotation rotation = make_rotation(frequency, 1.5f, style, 9, at::kCPU);
        const at::Tensor y = rotate(x, rotation, 7, 5);
        for (std::int64_t row = 0; row < 14; ++row)
            for (std::int64_t head = 0; head < 3; ++head) {
                auto in = [&](std::int64_t i) { return x[row][head * 5 + i].item<double>(); };
                auto out = [&](std::int64_t i) { return y[row][head * 5 + i].item<double>(); };
                for (std::int64_t pair = 0; pair < 2; ++pair) {
                    const std::int64_t a = style == RopeStyle::half ? pair : 2 * pair, b = style == RopeStyle::half ? pair + 2 : 2 * pair + 1;
                    const auto turned = std::complex<double>(in(a), in(b)) * std::polar(1.5, static_cast<double>(row % 7) * static_cast<double>(frequency[static_cast<std::size_t>(pair)]));
                    EXPECT_NEAR(out(a), turned.real(), 1e-5);
                    EXPECT_NEAR(out(b), turned.imag(), 1e-5);
                }
                EXPECT_EQ(out(4), in(4));
            }
    }
}

TEST_F(Operators, CrossEntropy) {
    for (const std::int64_t n_vocab : {1, 5, 257, 4099})
        for (const std::int64_t n_tokens : {1, 13})
            for (const double spread : {1.0, 80.0})
                for (const at::ScalarType numbers : {at::kFloat, at::kBFloat16}) {
                    // Spread 80: uniform over +-80, so that most targets are next to impossible; the loss is then about 80 a token.
                    at::Tensor logits = spread == 1 ? at::randn({n_tokens, n_vocab}, at::kDouble) : (at::rand({n_tokens, n_vocab}, at::kDouble) * 2 - 1) * spread;
                    at::Tensor targets = at::randint(n_vocab, {n_tokens}, at::kLong);
                    if (n_tokens > 1) {
                        targets[3] = -1;
                        targets[7] = -100;
                    }
                    if (n_vocab == 1) continue;
                    Judged judged{"cross entropy of " + std::to_string(n_tokens) + " x " + std::to_string(n_vocab) + ", spread " + std::to_string(spread),
                                  {{logits}},
                                  [=](const std::vector<at::Tensor>& in, Form form) { return cross_entropy(form == Form::automatic ? in[0].clone() : in[0], targets, 0.25, form); },
                                  numbers,
                                  numbers == at::kFloat ? 1e-5 : 2 * bf16_once};  // the gradient is rounded, multiplied by what comes in, and rounded again
                    judge(judged);
                }
}

TEST_F(Operators, CrossEntropyAtTheEdges) {
    const at::Tensor none = cross_entropy(at::randn({4, 9}), at::full({4}, -1, at::kLong), 1);
    EXPECT_EQ(none.item<double>(), 0);
    // One token in the vocabulary: certain.
    EXPECT_NEAR(cross_entropy(at::randn({4, 1}), at::zeros({4}, at::kLong), 1).item<double>(), 0, 1e-6);
    // By hand: log(e^80 + e^-80) - (-80) = 160; and the gradient is (1, -1).
    at::Tensor logits = at::tensor({80.0f, -80.0f}).view({1, 2}).requires_grad_(true);
    const at::Tensor loss = cross_entropy(logits.clone(), at::ones({1}, at::kLong), 1);
    EXPECT_NEAR(loss.item<double>(), 160, 1e-4);
    torch::autograd::backward({loss});
    EXPECT_NEAR(logits.grad()[0][0].item<double>(), 1, 1e-6);
    EXPECT_NEAR(logits.grad()[0][1].item<double>(), -1, 1e-6);
    // NaN does not hide.
    at::Tensor broken = at::randn({2, 11});
    broken[1][10] = NAN;
    EXPECT_TRUE(std::isnan(cross_entropy(broken, at::zeros({2}, at::kLong), 1).item<double>()));
}

}  // namespace
}  // namespace skiff::train
