// Graphs of networks, read back from their bytes and executed (formats/onnx/onnx_runner_testing.h): what PyTorch gave for every operator over odd shapes, and
// what our own kernels give for weights in every scheme.
#include <cmath>

#include "compress/onnx/onnx_net_testing.h"
#include "formats/onnx/onnx_runner_testing.h"

namespace skiff {
namespace {

struct Written {
    OnnxModel model;
    std::string data;
};

Result<Written> write(const net::Net& net, const OnnxExportOptions& options, const std::vector<net::ValueRange>& ranges = {}) {
    SKIFF_TRY(auto plan, plan_onnx_net(net, options, ranges));
    Written written;
    for (const OnnxInitializer& initializer : plan.initializers) {
        OnnxTensor tensor = initializer.tensor;
        tensor.external = OnnxTensor::External{"data", written.data.size(), initializer.size_bytes};
        SKIFF_CHECK(initializer.source([&](std::span<const std::byte> bytes) -> Status {
            written.data.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
            return {};
        }));
        EXPECT_EQ(written.data.size() - tensor.external->offset, initializer.size_bytes) << tensor.name;
        plan.model.initializers.push_back(std::move(tensor));
    }
    SKIFF_TRY(const auto bytes, serialize_onnx(plan.model));
    written.model = read_onnx(bytes);
    expect_sound(written.model);
    return written;
}

Shape dims_of(const std::vector<OnnxDimension>& dims, std::int64_t n_images) {
    Shape shape;
    for (const OnnxDimension& dim : dims) shape.push_back(std::holds_alternative<std::string>(dim) ? n_images : std::get<std::int64_t>(dim));
    return shape;
}

// x, wanted: (n_images, height, width, channels) f32
void expect_gives(const Written& written, const net::Net& net, const std::vector<float>& x, const std::vector<float>& wanted, double tolerance) {
    const auto resolved = net::resolve(net.spec);
    const std::int64_t n_images = static_cast<std::int64_t>(x.size()) / net.spec.input.n_elements();
    const auto images = channels_first(x, net.spec.input), expected = channels_first(wanted, resolved->shapes.back());
    const auto found = OnnxRunner(written.model, written.data).run({dims_of(written.model.inputs[0].dims, n_images), {images.begin(), images.end()}});
    ASSERT_EQ(found.dims, dims_of(written.model.outputs[0].dims, n_images));
    ASSERT_EQ(found.values.size(), expected.size());
    double largest = 1;
    for (const float value : expected) largest = std::max(largest, std::abs(static_cast<double>(value)));
    for (std::size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(found.values[i], static_cast<double>(expected[i]), tolerance * largest) << i;
}

OnnxExportOptions in_form(OnnxForm form) {
    OnnxExportOptions options;
    options.form = form;
    return options;
}

class OnnxNetGolden : public ::testing::TestWithParam<const char*> {};
TEST_P(OnnxNetGolden, GivesWhatPyTorchGave) {
    for (const net::Golden& golden : net::goldens(GetParam())) {
        SCOPED_TRACE(golden.net.spec.name);
        auto written = write(golden.net, in_form(OnnxForm::floats));
        ASSERT_TRUE(written.ok()) << written.error().to_string();
        expect_gives(*written, golden.net, golden.x, golden.y, 1e-5);
    }
}
INSTANTIATE_TEST_SUITE_P(Files, OnnxNetGolden, ::testing::Values("operators", "structures"), [](const auto& file) { return std::string(file.param); });

// Those of all golden networks that have weights to round, small ones alone.
std::vector<net::Golden> with_weights() {
    std::vector<net::Golden> all;
    for (const char* stem : {"operators", "structures"})
        for (net::Golden& golden : net::goldens(stem)) {
            const auto resolved = net::resolve(golden.net.spec);
            const net::OpCount count = net::count_net(golden.net.spec, *resolved);
            if (count.weights > 0 && count.multiply_adds < 60'000) all.push_back(std::move(golden));
        }
    return all;
}

void expect_says(const std::vector<net::Golden>& nets, const Scheme& scheme) {
    const bool sayable = scheme.kind == NumberKind::floating ? !scheme.is_coded() : scheme.kind == NumberKind::integer ? !scheme.minimums : scheme.kind == NumberKind::codebook && scheme.codebook->integral();
    std::size_t n_nets = 0;
    for (const net::Golden& golden : nets) {
        SCOPED_TRACE(golden.net.spec.name);
        const auto child = quantized_net(golden.net, scheme);
        if (!child) continue;
        ++n_nets;
        const auto wanted = outputs_of(*child, golden.x, golden.n_images);
        for (const OnnxForm form : {OnnxForm::qdq, OnnxForm::qonnx, OnnxForm::floats}) {
            SCOPED_TRACE(static_cast<int>(form));
            OnnxExportOptions options = in_form(form);
            if (form != OnnxForm::floats && !sayable) {
                auto refused = write(*child, options);
                ASSERT_FALSE(refused.ok());
                EXPECT_NE(refused.error().to_string().find("--densify"), std::string::npos) << refused.error().to_string();
                options.densify = OnnxExportOptions::Densify::yes;
            }
            auto written = write(*child, options);
            ASSERT_TRUE(written.ok()) << written.error().to_string();
            expect_gives(*written, *child, golden.x, wanted, 1e-5);
            if (::testing::Test::HasFailure()) return;
        }
    }
    EXPECT_GE(n_nets, 5u);
}

TEST(OnnxNets, EverySchemeIsSaidWithoutLossOrRefusedByName) {
    const auto nets = with_weights();
    ASSERT_GE(nets.size(), 20u);
    for (const SchemePreset& preset : scheme_presets()) {
        SCOPED_TRACE(std::string(preset.name));
        expect_says(nets, preset.scheme);
    }
    // Groups that the small widths here do not swallow, and single scales of every width.
    for (const char* name : {"w1", "w2", "w3a", "w4", "w4a", "w5", "w6a", "w7", "w8g4", "w7g3a", "w6g8r", "w5g4", "w4g4", "w4g8a", "w3g5", "w2g4r", "w1g4a", "ternaryg4", "binaryg4", "n4g8r"}) {
        SCOPED_TRACE(name);
        auto scheme = parse_scheme(name);
        ASSERT_TRUE(scheme.ok());
        expect_says(nets, *scheme);
    }
}

net::Net parsed(const std::string& input, const std::string& ops) {
    auto spec = net::parse_net(*Json::parse(R"({"model_type": "skiff-net", "input": )" + input + R"(, "ops": )" + ops + "}"));
    EXPECT_TRUE(spec.ok()) << (spec.ok() ? "" : spec.error().to_string());
    return net::random_net(*spec, 3);
}

// What the golden networks do not have: layouts that meet, windows in two dimensions that leave or enter a height of 1, pooling with dilation.
TEST(OnnxNets, LayoutsMeet) {
    const struct {
        const char *input, *ops;
    } cases[] = {
        {R"({"height": 4, "width": 5, "channels": 3})", R"([{"name": "n", "op": "layer_norm"}, {"name": "c", "op": "conv", "channels": 7}, {"name": "s", "op": "add", "in": ["n", "input"]}, {"name": "t", "op": "concat", "in": ["s", "c"]}])"},
        {R"({"height": 3, "width": 6, "channels": 4})", R"([{"name": "c", "op": "conv", "channels": 5, "kernel": [3, 2]}, {"name": "d", "op": "conv", "channels": 6}, {"name": "e", "op": "conv", "channels": 4, "kernel": 3, "padding": 1}])"},
        {R"({"height": 1, "width": 6, "channels": 4})", R"([{"name": "e", "op": "conv", "channels": 4, "kernel": [2, 3], "padding": [2, 1]}, {"name": "r", "op": "rms_norm"}])"},
        {R"({"height": 1, "width": 9, "channels": 4})", R"([{"name": "n", "op": "rms_norm"}, {"name": "g", "op": "conv", "channels": 8, "groups": 2}, {"name": "u", "op": "shuffle", "groups": 2}, {"name": "p", "op": "pool", "kind": "max", "kernel": [1, 3], "stride": [1, 2], "padding": [0, 1]}, {"name": "c", "op": "conv", "channels": 3}])"},
        {R"({"height": 1, "width": 9, "channels": 6})", R"([{"name": "n", "op": "layer_norm"}, {"name": "u", "op": "shuffle", "groups": 3}, {"name": "m", "op": "pool", "kind": "average"}, {"name": "k", "op": "conv", "channels": 6, "groups": 6}, {"name": "g", "op": "multiply", "in": ["u", "k"]}, {"name": "w", "op": "pool", "in": ["m"], "kind": "max"}, {"name": "h", "op": "multiply", "in": ["g", "w"]}])"},
        {R"({"height": 7, "width": 8, "channels": 3})", R"([{"name": "p", "op": "pool", "kind": "max", "kernel": 3, "dilation": 2, "padding": 1}, {"name": "q", "op": "pool", "kind": "average", "kernel": [3, 2], "dilation": [1, 3], "padding": [1, 0]}])"},
        {R"({"height": 6, "width": 5, "channels": 2})", R"([{"name": "p", "op": "pool", "kind": "average_with_padding", "kernel": 2, "dilation": 2, "padding": 1, "padding_after": [0, 1]}, {"name": "f", "op": "flatten"}, {"name": "a", "op": "conv", "channels": 9}, {"name": "b", "op": "fold", "parts": 3}, {"name": "c", "op": "unfold", "parts": 3}])"},
        {R"({"height": 5, "width": 4, "channels": 1})", R"([{"name": "f", "op": "flatten"}, {"name": "a", "op": "conv", "channels": 9}, {"name": "r", "op": "activation", "kind": "relu"}, {"name": "b", "op": "conv", "channels": 4}])"},
        {R"({"height": 1, "width": 1, "channels": 8})", R"([{"name": "p", "op": "pool", "kind": "average"}])"},
        {R"({"height": 1, "width": 1, "channels": 8})", R"([{"name": "output", "op": "conv", "channels": 3, "kernel": 3, "padding": 1}, {"name": "z", "op": "slice", "begin": 1, "end": 3}])"},
    };
    for (const auto& c : cases) {
        SCOPED_TRACE(c.ops);
        const net::Net plain = parsed(c.input, c.ops);
        const auto eight = quantized_net(plain, *parse_scheme("w8g4"));
        ASSERT_TRUE(eight.has_value());
        std::vector<float> x;
        for (std::int64_t i = 0; i < 3 * plain.spec.input.n_elements(); ++i) x.push_back(std::sin(static_cast<float>(i * i % 71)));
        for (const net::Net& net : {plain, *eight})
            for (const OnnxForm form : {OnnxForm::floats, OnnxForm::qdq, OnnxForm::qonnx}) {
                auto written = write(net, in_form(form));
                ASSERT_TRUE(written.ok()) << written.error().to_string();
                expect_gives(*written, net, x, outputs_of(net, x, 3), 1e-5);
            }
    }
}

// Pruned positions are zeros in a kernel; two levels have none, so that the zeros come behind their decoding.
TEST(OnnxNets, PrunedPositionsAreZeros) {
    const net::Net plain = parsed(R"({"height": 6, "width": 5, "channels": 3})", R"([{"name": "c", "op": "conv", "channels": 8, "kernel": 3, "padding": 1, "taps": [1, 4, 5, 7]}, {"name": "d", "op": "conv", "channels": 8, "kernel": 3, "groups": 8, "taps": [0, 8]}])");
    std::vector<float> x;
    for (std::int64_t i = 0; i < 2 * plain.spec.input.n_elements(); ++i) x.push_back(std::cos(static_cast<float>(i * 7 % 31)));
    for (const char* scheme : {"fp32", "w8", "w4a", "w3g4", "binary", "binaryg4", "ternary"})
        for (const OnnxForm form : {OnnxForm::floats, OnnxForm::qdq, OnnxForm::qonnx}) {
            SCOPED_TRACE(scheme);
            const auto net = quantized_net(plain, *parse_scheme(scheme));
            ASSERT_TRUE(net.has_value());
            auto written = write(*net, in_form(form));
            ASSERT_TRUE(written.ok()) << written.error().to_string();
            expect_gives(*written, *net, x, outputs_of(*net, x, 2), 1e-5);
            const auto plan = plan_onnx_net(*net, in_form(form));
            ASSERT_EQ(plan->notes.size(), 1u);
        }
}

// One scale for a filter: what tools for FPGAs look for is the filter itself behind one Quant.
TEST(OnnxNets, FiltersWithOneScaleAreOneNode) {
    const net::Net plain = parsed(R"({"height": 6, "width": 5, "channels": 3})", R"([{"name": "c", "op": "conv", "channels": 8, "kernel": 3}])");
    const auto net = quantized_net(plain, *parse_scheme("w4"));
    for (const OnnxForm form : {OnnxForm::qdq, OnnxForm::qonnx}) {
        auto written = write(*net, in_form(form));
        ASSERT_TRUE(written.ok());
        ASSERT_EQ(written->model.nodes.size(), 2u);
        EXPECT_EQ(written->model.nodes[0].op_type, form == OnnxForm::qdq ? "DequantizeLinear" : "Quant");
        EXPECT_EQ(written->model.nodes[1].op_type, "Conv");
        EXPECT_EQ(written->model.initializers[0].name == "c.bias" ? written->model.initializers[1].dims : written->model.initializers[0].dims, (Shape{8, 3, 3, 3}));
    }
}

// Integers by hand: signed of an input that goes below zero, unsigned behind a relu, whose scale is twice as fine.
std::vector<float> in_integers(const std::vector<float>& x, float scale, float low, float high) {
    std::vector<float> y;
    for (const float value : x) y.push_back(std::clamp(std::nearbyint(value / scale), low, high) * scale);
    return y;
}

TEST(OnnxNets, ActivationsOfEightBitsHaveFixedScales) {
    const std::string input = R"({"height": 5, "width": 4, "channels": 3})", between = R"({"height": 5, "width": 4, "channels": 6})";
    const std::string first = R"({"name": "c", "op": "conv", "channels": 6, "kernel": 3, "padding": 1}, {"name": "r", "op": "activation", "kind": "relu"})", second = R"({"name": "d", "op": "conv", "channels": 7})";
    const net::Net whole = *quantized_net(parsed(input, "[" + first + ", " + second + "]"), *parse_scheme("w8"));
    net::Net front = parsed(input, "[" + first + "]"), back = parsed(between, "[" + second + "]");
    for (auto& [name, weight] : front.weights) weight = whole.weights.at(name);
    for (auto& [name, weight] : back.weights) weight = whole.weights.at(name);
    std::vector<float> x;
    for (std::int64_t i = 0; i < 3 * whole.spec.input.n_elements(); ++i) x.push_back(2 * std::cos(static_cast<float>(i * 13 % 101)));
    auto ranges = net::value_ranges(whole, x, {1, Isa::generic, KernelChoice::reference, 2});
    ASSERT_TRUE(ranges.ok()) << ranges.error().to_string();
    ASSERT_EQ(ranges->size(), 4u);
    EXPECT_EQ((*ranges)[0].low, *std::min_element(x.begin(), x.end()));
    EXPECT_EQ((*ranges)[0].high, *std::max_element(x.begin(), x.end()));
    EXPECT_LT((*ranges)[1].low, 0);
    EXPECT_EQ((*ranges)[2].low, 0);
    EXPECT_EQ((*ranges)[2].high, (*ranges)[1].high);
    const float scale = std::max(-(*ranges)[0].low, (*ranges)[0].high) / 127, fine = (*ranges)[2].high / 255;
    const auto middle = in_integers(outputs_of(front, in_integers(x, scale, -127, 127), 3), fine, 0, 255);
    const auto wanted = outputs_of(back, middle, 3);
    for (const OnnxForm form : {OnnxForm::qdq, OnnxForm::qonnx}) {
        OnnxExportOptions options = in_form(form);
        options.activations = OnnxExportOptions::Activations::int8;
        auto written = write(whole, options, *ranges);
        ASSERT_TRUE(written.ok()) << written.error().to_string();
        expect_gives(*written, whole, x, wanted, 1e-5);
        std::int64_t n_rounded = 0;
        for (const OnnxNode& node : written->model.nodes) n_rounded += node.op_type == "QuantizeLinear" || (node.op_type == "Quant" && node.inputs[0].find(".weight") == std::string::npos);
        EXPECT_EQ(n_rounded, 2);
    }
    x[5] = INFINITY;
    EXPECT_FALSE(net::value_ranges(whole, x, {}).ok());
    EXPECT_FALSE(net::value_ranges(whole, {}, {}).ok());
}

// Every structure, values that two convolutions read once, both layouts: integers of 8 bits stay near what floats give.
TEST(OnnxNets, ActivationsOfEightBitsStayNear) {
    OnnxExportOptions options = in_form(OnnxForm::qdq);
    options.activations = OnnxExportOptions::Activations::int8;
    for (const net::Golden& golden : net::goldens("structures")) {
        SCOPED_TRACE(golden.net.spec.name);
        auto ranges = net::value_ranges(golden.net, golden.x, {});
        ASSERT_TRUE(ranges.ok());
        auto written = write(golden.net, options, *ranges);
        ASSERT_TRUE(written.ok()) << written.error().to_string();
        expect_gives(*written, golden.net, golden.x, golden.y, 0.03);
    }
}

TEST(OnnxNets, WhatCannotBeSaidIsRefusedByName) {
    const auto refusal = [](const net::Net& net, const OnnxExportOptions& options) {
        auto plan = plan_onnx_net(net, options);
        EXPECT_FALSE(plan.ok());
        return plan.ok() ? "" : plan.error().to_string();
    };
    const net::Net wide = parsed(R"({"height": 6, "width": 5, "channels": 3})", R"([{"name": "around", "op": "pool", "kind": "max", "kernel": 2, "padding": 2}])");
    EXPECT_NE(refusal(wide, in_form(OnnxForm::floats)).find("operator around: a padding of 2"), std::string::npos);
    const net::Net plain = parsed(R"({"height": 1, "width": 1, "channels": 3})", R"([{"name": "c", "op": "conv", "channels": 4}])");
    EXPECT_NE(refusal(plain, in_form(OnnxForm::nbits)).find("MatMulNBits"), std::string::npos);
    OnnxExportOptions half = in_form(OnnxForm::qdq);
    half.real = OnnxType::float16;
    EXPECT_NE(refusal(plain, half).find("float32"), std::string::npos);
    OnnxExportOptions int8 = in_form(OnnxForm::qonnx);
    int8.activations = OnnxExportOptions::Activations::int8;
    EXPECT_NE(refusal(plain, int8).find("the ranges of all values"), std::string::npos);
}

}  // namespace
}  // namespace skiff
