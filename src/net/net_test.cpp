// Networks against PyTorch (tests/golden/net.py): every operator over odd shapes, every structure; and what a spec must refuse.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "net/net_testing.h"
#include "net/session.h"

namespace skiff::net {
namespace {

std::vector<float> run(const Golden& golden, const SessionOptions& options) {
    auto session = Session::create(golden.net, options);
    EXPECT_TRUE(session.ok()) << session.error().to_string();
    std::vector<float> y(static_cast<std::size_t>(golden.n_images * (*session)->output().n_elements()), -1);
    (*session)->run(golden.x.data(), golden.n_images, y.data());
    return y;
}

void expect_near(const std::vector<float>& y, const std::vector<float>& wanted, double tolerance) {
    ASSERT_EQ(y.size(), wanted.size());
    double largest = 1;
    for (const float value : wanted) largest = std::max<double>(largest, std::fabs(value));
    for (std::size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], wanted[i], tolerance * largest) << i;
}

class NetGolden : public ::testing::TestWithParam<const char*> {};
TEST_P(NetGolden, AgreesWithPyTorch) {
    std::set<std::string> kinds;
    for (const Golden& golden : goldens(GetParam())) {
        SCOPED_TRACE(golden.net.spec.name);
        for (const Op& op : golden.net.spec.ops) kinds.insert(op_kind_name(op.detail));
        for (const Isa isa : all_isas)
            if (isa_available(isa)) expect_near(run(golden, {1, isa, KernelChoice::fastest, 4}), golden.y, 1e-5);
        expect_near(run(golden, {1, Isa::generic, KernelChoice::reference, 4}), golden.y, 1e-5);
        // The bits depend neither on threads nor on how many images go together.
        const auto alone = run(golden, {1, best_isa(), KernelChoice::fastest, 1}), together = run(golden, {3, best_isa(), KernelChoice::fastest, 4});
        EXPECT_EQ(alone, together);
    }
    if (GetParam() == std::string("operators")) {
        EXPECT_EQ(kinds.size(), 14u);  // every kind of the table is among them
    }
}
INSTANTIATE_TEST_SUITE_P(Files, NetGolden, ::testing::Values("operators", "structures"), [](const auto& file) { return std::string(file.param); });

TEST(NetSpec, IsWrittenAsItIsRead) {
    for (const Golden& golden : goldens("operators")) {
        const Json json = net_json(golden.net.spec);
        auto again = parse_net(json);
        ASSERT_TRUE(again.ok()) << golden.net.spec.name << ": " << again.error().to_string();
        EXPECT_EQ(net_json(*again).dump(), json.dump());
    }
}

TEST(NetSpec, PresetsResolveAndRun) {
    for (const char* name : {"residual-bottleneck", "shufflenet-unit", "grouped-linear", "squeeze-excitation", "peleenet-dense", "vovnet-one-shot", "transformer-layer", "mobilebert-layer", "lite-transformer-layer", "san-m-layer"}) {
        const std::string path = std::string(SKIFF_SOURCE_DIR) + "/examples/structures/" + name + ".json";
        EXPECT_TRUE(is_net(path));
        auto net = open_net(path);
        ASSERT_TRUE(net.ok()) << net.error().to_string();
        auto session = Session::create(*net, {});
        ASSERT_TRUE(session.ok()) << session.error().to_string();
    }
    EXPECT_FALSE(is_net(std::string(SKIFF_SOURCE_DIR) + "/models/pocket"));
}

TEST(NetSpec, FreshWeightsAreOfTheSeed) {
    const std::string path = std::string(SKIFF_SOURCE_DIR) + "/examples/digits/digits.json";
    const auto first = [&](auto... seed) { return open_net(path, seed...)->floats("conv1.weight"); };
    ASSERT_TRUE(open_net(path).ok());
    EXPECT_EQ(first(), first(1u));
    EXPECT_EQ(first(2u), first(2u));
    EXPECT_NE(first(2u), first(1u));
}

// A weight of 3x3 x 2 inputs x 4 outputs, on 6x6 without padding: 72 numbers, 16 positions.
TEST(NetSpec, CountsWeightsAndMultiplyAdds) {
    auto json = Json::parse(R"({"model_type": "skiff-net", "input": {"height": 6, "width": 6, "channels": 2}, "ops": [{"name": "c", "op": "conv", "channels": 4, "kernel": 3}]})");
    auto spec = parse_net(*json);
    ASSERT_TRUE(spec.ok());
    const auto resolved = resolve(*spec);
    EXPECT_EQ(resolved->shapes[1], (ValueShape{4, 4, 4}));
    const OpCount count = count_net(*spec, *resolved);
    EXPECT_EQ(count.weights, 72);
    EXPECT_EQ(count.others, 4);
    EXPECT_EQ(count.multiply_adds, 72 * 16);
}

TEST(NetSpec, RefusesWhatDoesNotFit) {
    const struct {
        const char* ops;
        const char* mention;
    } cases[] = {
        {R"([{"name": "c", "op": "conv", "channels": 4, "kernel": 7}])", "does not fit"},
        {R"([{"name": "c", "op": "conv", "channels": 3, "groups": 2}])", "groups do not divide"},
        {R"([{"name": "c", "op": "conv"}])", "groups do not divide"},
        {R"([{"name": "c", "op": "conv", "channels": 4, "kernel": 3, "taps": [0, 9]}])", "ascending positions"},
        {R"([{"name": "c", "op": "conv", "channels": 4, "kernel": 3, "taps": [1, 1]}])", "ascending positions"},
        {R"([{"name": "c", "op": "conv", "channels": 4, "kernel": [3, 3, 3]}])", "expected 2"},
        {R"([{"name": "c", "op": "conv", "channels": 4, "stride": 0}])", "expected 1"},
        {R"([{"name": "c", "op": "conv", "channels": 1073741824}])", "expected 1"},
        {R"([{"name": "c", "op": "conv", "channels": 4, "kernel": 200}])", "more than"},
        {R"([{"name": "c", "op": "convolution"}])", "known:"},
        {R"([{"name": "c", "op": "add"}])", "does not take 1"},
        {R"([{"name": "c", "op": "concat"}])", "does not take 1"},
        {R"([{"name": "c", "op": "pool", "in": ["d"]}])", "no earlier operator"},
        {R"([{"name": "c", "op": "pool"}, {"name": "c", "op": "pool"}])", "occurs twice"},
        {R"([{"name": "../c", "op": "pool"}])", "letters"},
        {R"([{"name": "c", "op": "slice", "begin": 1, "end": 1}])", "channels 1 to 1"},
        {R"([{"name": "c", "op": "shuffle", "groups": 4}])", "do not divide"},
        {R"([{"name": "c", "op": "pool", "kind": "median"}])", "expected one of max"},
        {R"([{"name": "c", "op": "pool", "kernel": 2}, {"name": "d", "op": "add", "in": ["c", "input"]}])", "cannot be added"},
        {R"([])", "1 to 4096"},
        {R"([{"name": "a", "op": "conv", "channels": 1048576}, {"name": "c", "op": "conv", "channels": 1048576}])", "weights in all"},
    };
    for (const auto& c : cases) {
        auto json = Json::parse(std::string(R"({"model_type": "skiff-net", "input": {"height": 5, "width": 5, "channels": 6}, "ops": )") + c.ops + "}");
        ASSERT_TRUE(json.ok()) << c.ops;
        auto spec = parse_net(*json);
        ASSERT_FALSE(spec.ok()) << c.ops;
        EXPECT_NE(spec.error().to_string().find(c.mention), std::string::npos) << c.ops << ": " << spec.error().to_string();
    }
}

// What is printed comes from the file.
TEST(NetSpec, NamesAreShortAndWithoutControlCharacters) {
    const auto parsed = [](const std::string& name) {
        return parse_net(*Json::parse(R"({"model_type": "skiff-net", "name": ")" + name + R"(", "input": {"height": 1, "width": 1, "channels": 2}, "ops": [{"name": "c", "op": "conv", "channels": 2}]})")).ok();
    };
    EXPECT_TRUE(parsed("digits, 4 layers"));
    EXPECT_FALSE(parsed("a\\u001b[31mred"));
    EXPECT_FALSE(parsed(std::string(201, 'a')));
}

TEST(NetFolder, KeepsSpecWeightsAndSteps) {
    const std::string folder = ::testing::TempDir() + "net_folder_test";
    ASSERT_TRUE(remove_all(folder).ok());
    for (const Golden& golden : goldens("structures")) {
        Net net = golden.net;
        net.steps.push_back(Json::object({{"kind", "test"}}));
        ASSERT_TRUE(write_net(net, folder, AtomicDirectory::IfExists::replace).ok());
        EXPECT_TRUE(is_net(folder));
        auto again = open_net(folder);
        ASSERT_TRUE(again.ok()) << again.error().to_string();
        EXPECT_EQ(again->steps.size(), 1u);
        for (const auto& [name, weight] : net.weights) EXPECT_EQ(again->floats(name), net.floats(name)) << name;
        EXPECT_EQ(run({*again, golden.x, golden.y, golden.n_images}, {}), run(golden, {}));
    }
    ASSERT_TRUE(remove_all(folder).ok());
}

// Weights of 8 and 4 bits run where the plain ones did: integer activations move the output by no more than their rounding.
TEST(NetSession, QuantizedWeightsRun) {
    for (const Golden& golden : goldens("structures")) {
        SCOPED_TRACE(golden.net.spec.name);
        Net net = golden.net;
        auto scheme = parse_scheme("w8g32");
        for (auto& [name, weight] : net.weights) {
            if (!name.ends_with(".weight") || weight.shape.size() != 2 || weight.shape[1] < 4) continue;
            auto coded = encode_nearest(weight, *scheme, ScaleRule::min_max);
            ASSERT_TRUE(coded.ok());
            weight = *coded;
        }
        const auto exact = run({net, golden.x, golden.y, golden.n_images}, {1, Isa::generic, KernelChoice::reference, 4});
        const auto fast = run({net, golden.x, golden.y, golden.n_images}, {});
        expect_near(exact, golden.y, 0.02);
        expect_near(fast, exact, 0.02);
    }
}

}  // namespace
}  // namespace skiff::net
