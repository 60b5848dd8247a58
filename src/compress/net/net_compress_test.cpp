// Steps on small networks: the counts that they promise, identity at zero strength, and that what they remove was removed everywhere.
#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "compress/algebra/algebra.h"
#include "compress/net/changes.h"
#include "net/comparison.h"

namespace skiff::net {
namespace {

Net net_of(const char* input, const std::string& ops, std::uint64_t seed = 1) {
    auto json = Json::parse(std::string(R"({"model_type": "skiff-net", "input": )") + input + R"(, "ops": )" + ops + "}");
    EXPECT_TRUE(json.ok());
    auto spec = parse_net(*json);
    EXPECT_TRUE(spec.ok()) << spec.error().to_string();
    Net net = random_net(*spec, seed);
    Rng rng(seed + 1);
    for (auto& [name, weight] : net.weights)  // biases that show
        if (name.ends_with(".bias")) {
            std::vector<float> values(static_cast<std::size_t>(weight.n_rows()));
            for (float& value : values) value = rng.normal();
            const Shape shape = weight.shape;
            weight = make_float_weight(shape, std::move(values));
        }
    return net;
}

std::vector<float> outputs(const Net& net, std::int64_t n_images = 3) {
    auto session = Session::create(net, {1, Isa::generic, KernelChoice::reference, 4});
    EXPECT_TRUE(session.ok()) << session.error().to_string();
    const auto x = noise_images(net.spec.input, n_images, 7);
    std::vector<float> y(static_cast<std::size_t>(n_images * (*session)->output().n_elements()));
    (*session)->run(x.data(), n_images, y.data());
    return y;
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {
    EXPECT_EQ(a.size(), b.size());
    double worst = 0;
    for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) worst = std::max(worst, std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
    return worst;
}

OpCount count(const Net& net) { return count_net(net.spec, *resolve(net.spec)); }

// A residual, a gate, a concatenation, a depthwise convolution, a shuffle, a norm, a grouped convolution: everything that channels pass through.
const char* const image = R"({"height": 6, "width": 5, "channels": 3})";
const char* const branching = R"([
    {"name": "a", "op": "conv", "channels": 8, "kernel": 3, "padding": 1}, {"name": "a_relu", "op": "activation"},
    {"name": "b", "op": "conv", "in": ["a_relu"], "channels": 8, "kernel": 3, "padding": 1}, {"name": "sum", "op": "add", "in": ["b", "a_relu"]},
    {"name": "mean", "op": "pool", "kind": "average"}, {"name": "gate", "op": "conv", "channels": 8}, {"name": "open", "op": "activation", "kind": "sigmoid"},
    {"name": "gated", "op": "multiply", "in": ["sum", "open"]},
    {"name": "d", "op": "conv", "channels": 16, "kernel": 3, "padding": 1, "groups": 8},
    {"name": "c", "op": "conv", "in": ["gated"], "channels": 6}, {"name": "both", "op": "concat", "in": ["d", "c"]},
    {"name": "part", "op": "slice", "begin": 4, "end": 20}, {"name": "e", "op": "conv", "channels": 12}, {"name": "s", "op": "shuffle", "groups": 3},
    {"name": "g", "op": "conv", "channels": 12, "groups": 3}, {"name": "n", "op": "layer_norm"}, {"name": "p", "op": "pool", "kernel": 2, "kind": "max"}, {"name": "flat", "op": "flatten"},
    {"name": "h", "op": "conv", "channels": 9}, {"name": "h_relu", "op": "activation"}, {"name": "out", "op": "conv", "channels": 4}])";

TEST(PruneChannels, NothingIsTheIdentity) {
    const Net net = net_of(image, branching);
    auto pruned = prune_channels(net, {.share = 0});
    ASSERT_TRUE(pruned.ok()) << pruned.error().to_string();
    EXPECT_TRUE(pruned->changes.empty());
    EXPECT_EQ(outputs(pruned->net), outputs(net));
}

// Filters that are zero are those that go, and nothing is lost: so every reader was cut at the right places, through all operators.
TEST(PruneChannels, WhatWasZeroGoesWithoutLoss) {
    Net net = net_of(image, branching);
    const auto zero = [&](const std::string& op, std::initializer_list<int> rows) {
        for (const char* part : {".weight", ".bias"}) {
            auto values = net.floats(op + part);
            const Shape shape = net.weights.at(op + part).shape;
            const auto columns = static_cast<std::int64_t>(values.size()) / shape[0];
            for (const int row : rows) std::fill_n(values.begin() + row * columns, columns, 0.0f);
            net.set_floats(op + part, shape, values);
        }
    };
    zero("a", {1, 6}), zero("b", {1, 6}), zero("gate", {1, 6}), zero("c", {0, 3, 5}), zero("h", {0, 8, 4});
    auto d_bias = net.floats("d.bias");  // of what the depthwise convolution makes of the removed channels
    for (const int channel : {2, 3, 12, 13}) d_bias[static_cast<std::size_t>(channel)] = 0;
    net.set_floats("d.bias", {16}, d_bias);
    const auto wanted = outputs(net);
    for (const auto judge : {ChannelPruning::Judge::l1, ChannelPruning::Judge::l2}) {
        auto quarter = prune_channels(net, {.share = 0.25, .judge = judge, .layers = {"a", "b", "gate"}});
        ASSERT_TRUE(quarter.ok()) << quarter.error().to_string();
        EXPECT_EQ(std::get<Conv>(quarter->net.spec.ops[0].detail).channels, 6);
        EXPECT_LT(difference(outputs(quarter->net), wanted), 1e-5);
        auto more = prune_channels(quarter->net, {.share = 0.5, .judge = judge, .layers = {"c"}});
        ASSERT_TRUE(more.ok()) << more.error().to_string();
        EXPECT_LT(difference(outputs(more->net), wanted), 1e-5);
        auto last = prune_channels(more->net, {.share = 0.34, .judge = judge, .layers = {"h"}});
        ASSERT_TRUE(last.ok()) << last.error().to_string();
        EXPECT_LT(difference(outputs(last->net), wanted), 1e-5);
        EXPECT_EQ(std::get<Conv>(last->net.spec.ops.back().detail).channels, 4);  // the output stays
        EXPECT_LT(count(last->net).multiply_adds, count(net).multiply_adds);
    }
}

TEST(PruneChannels, ReadersJudgeByWhatReadsThem) {
    Net net = net_of(image, R"([{"name": "a", "op": "conv", "channels": 4}, {"name": "r", "op": "activation"}, {"name": "b", "op": "conv", "channels": 2, "kernel": 3}])");
    auto b = net.floats("b.weight");
    for (std::size_t i = 0; i < b.size(); ++i)
        if (i % 4 == 2) b[i] = 0;
    net.set_floats("b.weight", {2, 36}, b);
    auto pruned = prune_channels(net, {.share = 0.25, .judge = ChannelPruning::Judge::readers});
    ASSERT_TRUE(pruned.ok());
    EXPECT_EQ(std::get<Conv>(pruned->net.spec.ops[0].detail).channels, 3);
    EXPECT_LT(difference(outputs(pruned->net), outputs(net)), 1e-5);
}

TEST(PruneChannels, LeavesWhatCannotGoAndOneChannel) {
    const Net net = net_of(image, branching);
    auto pruned = prune_channels(net, {.share = 0.99});
    ASSERT_TRUE(pruned.ok()) << pruned.error().to_string();
    for (const Op& op : pruned->net.spec.ops) {
        if (op.name == "e" || op.name == "g") {
            EXPECT_EQ(std::get<Conv>(op.detail).channels, 12) << op.name;
        }
    }
    (void)outputs(pruned->net);
    auto multiple = prune_channels(net, {.share = 0.5, .multiple_of = 8, .layers = {"h"}});
    ASSERT_TRUE(multiple.ok());
    EXPECT_EQ(std::get<Conv>(multiple->net.spec.ops[18].detail).channels, 8);
    EXPECT_FALSE(prune_channels(net, {.share = 1}).ok());
    EXPECT_FALSE(prune_channels(net, {.share = 0.5, .layers = {"z"}}).ok());
}

TEST(PruneTaps, KeepsThePositionsThatCarryMost) {
    Net net = net_of(image, R"([{"name": "a", "op": "conv", "channels": 4, "kernel": 3, "padding": 1}, {"name": "d", "op": "conv", "channels": 4, "kernel": 3, "groups": 4}])");
    auto a = net.floats("a.weight");
    for (std::size_t i = 0; i < a.size(); ++i)
        if (i / 3 % 9 != 1 && i / 3 % 9 != 4 && i / 3 % 9 != 8) a[i] = 0;
    net.set_floats("a.weight", {4, 27}, a);
    auto pruned = prune_taps(net, {.keep = 3, .layers = {"a"}});
    ASSERT_TRUE(pruned.ok());
    EXPECT_EQ(std::get<Conv>(pruned->net.spec.ops[0].detail).taps, (std::vector<std::int64_t>{1, 4, 8}));
    EXPECT_LT(difference(outputs(pruned->net), outputs(net)), 1e-6);
    EXPECT_EQ(count(pruned->net).weights, 36 + 36);
    auto both = prune_taps(pruned->net, {.share = 0.4});  // of 3 one goes, of 9 three
    ASSERT_TRUE(both.ok());
    EXPECT_EQ(count(both->net).weights, 4 * 2 * 3 + 4 * 6);
    (void)outputs(both->net);
    auto same = prune_taps(net, {.share = 0});
    ASSERT_TRUE(same.ok());
    EXPECT_EQ(outputs(same->net), outputs(net));
}

// 3x3, 2 -> 4 channels, 6x6x2 -> 4x4x4: 72 weights become 2 * 9 + 2 * 4 = 26.
TEST(Factorize, StandardConvolutionBecomesDepthwiseAndPointwise) {
    if (!algebra_available().ok()) GTEST_SKIP() << "no BLAS";
    const Net net = net_of(R"({"height": 6, "width": 6, "channels": 2})", R"([{"name": "c", "op": "conv", "channels": 4, "kernel": 3}])");
    EXPECT_EQ(count(net).weights, 72);
    auto made = factorize_net(net, {});
    ASSERT_TRUE(made.ok()) << made.error().to_string();
    EXPECT_EQ(count(made->net).weights, 26);
    EXPECT_EQ(count(made->net).multiply_adds, 26 * 16);
    EXPECT_EQ(resolve(made->net.spec)->shapes.back(), (ValueShape{4, 4, 4}));
    ASSERT_EQ(made->net.spec.ops.size(), 2u);
    // The error that it says is that of the weights: those of one window and column, put together.
    const auto w = net.floats("c.weight"), d = made->net.floats("c.depthwise.weight"), p = made->net.floats("c.weight");
    double error = 0, squares = 0;
    for (std::size_t o = 0; o < 4; ++o)
        for (std::size_t t = 0; t < 9; ++t)
            for (std::size_t i = 0; i < 2; ++i) {
                const double value = static_cast<double>(w[(o * 9 + t) * 2 + i]);
                error += std::pow(value - static_cast<double>(d[i * 9 + t]) * static_cast<double>(p[o * 2 + i]), 2);
                squares += value * value;
            }
    EXPECT_NEAR(made->changes[0].squared_error, error / squares, 1e-6);
    EXPECT_GT(error / squares, 0.1);
}

TEST(Factorize, WhatIsOfThatRankIsKeptExactly) {
    if (!algebra_available().ok()) GTEST_SKIP() << "no BLAS";
    const char* const ops = R"([{"name": "c", "op": "conv", "channels": 12, "kernel": 3, "padding": 1, "stride": 2}, {"name": "r", "op": "activation"}, {"name": "l", "op": "conv", "channels": 11}])";
    Net net = net_of(R"({"height": 6, "width": 7, "channels": 5})", ops);
    Rng rng(5);
    // Of rank 2 for each input, and of rank (3 outputs, 2 inputs) as a tensor.
    std::vector<float> window(5 * 2 * 9), column(12 * 5 * 2), low(12 * 45), core(3 * 9 * 2), u(12 * 3), v(5 * 2), tensor(12 * 45), up(11 * 3), down(3 * 12), thin(11 * 12, 0);
    for (auto* values : {&window, &column, &core, &u, &v, &up, &down})
        for (float& value : *values) value = rng.normal();
    for (std::size_t o = 0; o < 12; ++o)
        for (std::size_t t = 0; t < 9; ++t)
            for (std::size_t i = 0; i < 5; ++i) {
                float sum = 0, all = 0;
                for (std::size_t r = 0; r < 2; ++r) sum += window[(i * 2 + r) * 9 + t] * column[(o * 5 + i) * 2 + r];
                for (std::size_t a = 0; a < 3; ++a)
                    for (std::size_t b = 0; b < 2; ++b) all += u[o * 3 + a] * core[(a * 9 + t) * 2 + b] * v[i * 2 + b];
                low[(o * 9 + t) * 5 + i] = sum;
                tensor[(o * 9 + t) * 5 + i] = all;
            }
    for (std::size_t o = 0; o < 11; ++o)
        for (std::size_t i = 0; i < 12; ++i)
            for (std::size_t r = 0; r < 3; ++r) thin[o * 12 + i] += up[o * 3 + r] * down[r * 12 + i];
    net.set_floats("l.weight", {11, 12}, thin);
    using Method = NetFactorization::Method;
    using Rule = NetFactorization::Rule;
    const struct {
        NetFactorization wish;
        const std::vector<float>* weight;
        std::int64_t n_weights;
    } cases[] = {
        {{Method::depthwise, Rule::rank, 2, {}}, &low, 5 * 2 * 9 + 12 * 5 * 2 + 132},
        {{Method::depthwise, Rule::energy, 0.999999, {}}, &low, 5 * 2 * 9 + 12 * 5 * 2 + 132},
        {{Method::tucker, Rule::energy, 0.999999, {}}, &tensor, 2 * 5 + 3 * 9 * 2 + 12 * 3 + 132},
        {{Method::svd, Rule::rank, 3, {}}, &low, 540 + 3 * 12 + 11 * 3},
    };
    for (const auto& c : cases) {
        net.set_floats("c.weight", {12, 45}, *c.weight);
        auto made = factorize_net(net, c.wish);
        ASSERT_TRUE(made.ok()) << made.error().to_string();
        ASSERT_EQ(made->changes.size(), 1u);
        EXPECT_NEAR(made->changes[0].squared_error, 0, 1e-6);
        EXPECT_EQ(count(made->net).weights, c.n_weights);
        EXPECT_LT(difference(outputs(made->net), outputs(net)), 2e-4);
    }
    // A sum of two Kronecker products: 12 = 3 x 4 inputs, 10 = 2 x 5 outputs.
    {
        Net product = net_of(R"({"height": 2, "width": 3, "channels": 12})", R"([{"name": "k", "op": "conv", "channels": 10}, {"name": "r", "op": "activation"}, {"name": "plain", "op": "conv", "channels": 8, "bias": false}])");
        std::vector<float> a(2 * 6), b(2 * 20), w(120, 0);
        for (auto* values : {&a, &b})
            for (float& value : *values) value = rng.normal();
        for (std::size_t r = 0; r < 2; ++r)
            for (std::size_t i = 0; i < 10; ++i)
                for (std::size_t j = 0; j < 12; ++j) w[i * 12 + j] += a[r * 6 + i / 5 * 3 + j / 4] * b[r * 20 + i % 5 * 4 + j % 4];
        product.set_floats("k.weight", {10, 12}, w);
        auto made = factorize_net(product, {Method::kronecker, Rule::rank, 2, {"k"}});
        ASSERT_TRUE(made.ok()) << made.error().to_string();
        EXPECT_NEAR(made->changes.at(0).squared_error, 0, 1e-6);
        EXPECT_EQ(count(made->net).weights, 2 * (6 + 20) + 10 + 80);  // and the ones that carry the bias
        EXPECT_LT(difference(outputs(made->net), outputs(product)), 1e-4);
        auto one = factorize_net(product, {Method::kronecker, Rule::rank, 1, {"plain"}});  // without a bias; the error is that of the weights
        ASSERT_TRUE(one.ok());
        const auto before = outputs(product), after = outputs(one->net);
        EXPECT_EQ(after.size(), before.size());
        EXPECT_GT(one->changes.at(0).squared_error, 0.1);
        EXPECT_GT(difference(before, after), 0.01);
    }
    // Any number is a rank, and what was factorized once may be again.
    for (const Method method : {Method::depthwise, Method::tucker, Method::svd, Method::kronecker}) {
        auto made = factorize_net(net, {method, Rule::rank, 1e300, {}});
        ASSERT_TRUE(made.ok()) << made.error().to_string();
        EXPECT_TRUE(made->changes.empty());
    }
    auto once = factorize_net(net, {Method::svd, Rule::rank, 4, {"l"}});
    ASSERT_TRUE(once.ok());
    auto twice = factorize_net(once->net, {Method::svd, Rule::rank, 2, {"l"}});
    ASSERT_TRUE(twice.ok()) << twice.error().to_string();
    EXPECT_LT(count(twice->net).weights, count(once->net).weights);
    EXPECT_EQ(outputs(twice->net).size(), outputs(net).size());
    // Where nothing is saved, the layer stays, and that is said.
    for (const Method method : {Method::depthwise, Method::tucker, Method::svd, Method::kronecker}) {
        auto made = factorize_net(net, {method, Rule::share, 1, {}});
        ASSERT_TRUE(made.ok());
        EXPECT_TRUE(made->changes.empty());
        EXPECT_EQ(made->remarks.size(), 1u);
        EXPECT_EQ(outputs(made->net), outputs(net));
    }
}

TEST(QuantizedNets, AreNeitherPrunedNorFactorized) {
    const Net net = net_of(image, branching);
    ThreadPool pool(1);
    auto made = quantize_net(net, default_wish(*parse_scheme("w8g32")), ScaleRule::min_max, pool);
    ASSERT_TRUE(made.ok());
    EXPECT_FALSE(prune_channels(made->net, {0.25, ChannelPruning::Judge::l2, 1, {}}).ok());
    EXPECT_FALSE(prune_taps(made->net, {0, 0.25, {}}).ok());
    if (algebra_available().ok()) {
        EXPECT_FALSE(factorize_net(made->net, {NetFactorization::Method::svd, NetFactorization::Rule::rank, 2, {}}).ok());
    }
}

TEST(QuantizeNet, RoundsAllButDepthwiseKernels) {
    const Net net = net_of(image, branching);
    ThreadPool pool(1);
    auto scheme = parse_scheme("w8g32");
    SchemeWish wish = default_wish(*scheme);
    wish.rules.push_back(*parse_scheme_rule("a=keep"));
    auto made = quantize_net(net, wish, ScaleRule::search, pool);
    ASSERT_TRUE(made.ok()) << made.error().to_string();
    EXPECT_NE(made->net.weights.at("a.weight").plain(), nullptr);
    EXPECT_NE(made->net.weights.at("d.weight").plain(), nullptr);
    EXPECT_NE(made->net.weights.at("b.weight").codes(), nullptr);
    for (const Change& change : made->changes) EXPECT_LT(change.squared_error, 1e-4) << change.op;
    const auto wanted = outputs(net), found = outputs(made->net);
    EXPECT_LT(difference(found, wanted), 0.1);
    EXPECT_FALSE(quantize_net(made->net, wish, ScaleRule::search, pool).ok());
    const std::string folder = ::testing::TempDir() + "quantize_net_test";
    ASSERT_TRUE(write_net(made->net, folder, AtomicDirectory::IfExists::replace).ok());
    auto again = open_net(folder);
    ASSERT_TRUE(again.ok()) << again.error().to_string();
    EXPECT_EQ(outputs(*again), found);
    ASSERT_TRUE(remove_all(folder).ok());
    SchemeWish plain = default_wish(*parse_scheme("bf16"));
    auto half = quantize_net(net, plain, ScaleRule::search, pool);
    ASSERT_TRUE(half.ok());
    EXPECT_LT(difference(outputs(half->net), wanted), 0.2);
}

}  // namespace
}  // namespace skiff::net
