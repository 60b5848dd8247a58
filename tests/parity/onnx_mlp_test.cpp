// A small MLP of our operators with weights of 1 to 8 bits, as QONNX. What it must give is what our kernels give; tests/golden/onnx_run.py lets the qonnx
// package execute the files that SKIFF_KEEP_FILES=FOLDER keeps, and writes tests/data/onnx/mlp.json when the results are equal.
#include <gtest/gtest.h>

#include <cstdlib>

#include "base/atomic_file.h"
#include "base/hash.h"
#include "base/rng.h"
#include "compress/onnx/onnx_export.h"
#include "compress/onnx/onnx_operators.h"
#include "formats/onnx/onnx_testing.h"
#include "model/spec_builder.h"
#include "plan/session.h"

namespace skiff {
namespace {

// Widths are no multiples of 32, some groups are short.
struct Layer {
    const char* scheme;
    std::int64_t width;
    Activation activation;
};
constexpr Layer layers[] = {{"w8", 70, Activation::relu},        {"w7g32", 48, Activation::relu},   {"w6g32r", 33, Activation::silu},    {"w5g16a", 64, Activation::relu},
                            {"w4g32a", 50, Activation::gelu_tanh}, {"w3g16", 128, Activation::relu}, {"ternaryg128", 96, Activation::relu}, {"binaryg128", 40, Activation::tanh},
                            {"w2g32r", 10, Activation::sigmoid}};
constexpr std::int64_t input_width = 45, n_tokens = 6;

ModelSpec mlp_spec() {
    SpecBuilder builder("mlp");
    builder.add_axis("width0", input_width);
    builder.spec().values.push_back({"x", {{"width0", 1}}});
    ValueId x = 0;
    builder.begin_block("mlp", x);
    int number = 0;
    for (const Layer& layer : layers) {
        const std::string name = "layer" + std::to_string(number), in = "width" + std::to_string(number), out = "width" + std::to_string(number + 1);
        builder.add_axis(out, layer.width);
        const TensorRef weight = builder.tensor(name + ".weight", {{{out, 1}}, {{in, 1}}}, TensorDecl::Role::linear);
        const TensorRef bias = builder.tensor(name + ".bias", {{{out, 1}}}, TensorDecl::Role::bias);
        x = builder.activation(name + ".act", builder.linear(name, x, weight, bias, {{out, 1}}), layer.activation);
        ++number;
    }
    builder.end_block(x);
    return builder.finish(x);
}

std::shared_ptr<WeightSource> mlp_weights(const ModelSpec& spec) {
    static const std::vector<Scheme> schemes = [] {
        std::vector<Scheme> all;
        for (const Layer& layer : layers) {
            const auto preset = parse_scheme(layer.scheme);
            all.push_back(preset.ok() ? *preset : scheme_of_content(layer.scheme).value());
        }
        return all;
    }();
    return quantized_on_load(
        spec, random_weights(spec, DType::f32, 7),
        [](const std::string& key) -> const Scheme* { return key.ends_with(".weight") ? &schemes[static_cast<std::size_t>(key[5] - '0')] : nullptr; }, ScaleRule::search);
}

std::vector<float> input() {
    Rng rng(11);
    std::vector<float> x(static_cast<std::size_t>(n_tokens * input_width));
    for (float& value : x) value = 2 * rng.normal();
    return x;
}

std::vector<float> ours(const ModelSpec& spec, const WeightSource& weights, KernelChoice kernels) {
    PlanOptions options;
    options.kernels = kernels;
    auto plan = lower(spec, weights, options);
    EXPECT_TRUE(plan.ok()) << (plan.ok() ? "" : plan.error().to_string());
    if (!plan.ok()) return {};
    auto session = Session::create(*plan, {.n_threads = 1, .n_context = 16});
    EXPECT_TRUE(session.ok());
    std::vector<float> y;
    Status status = (*session)->forward_hidden(0, input(), y);
    EXPECT_TRUE(status.ok()) << (status.ok() ? "" : status.error().to_string());
    return y;
}

void keep(const std::string& path, const std::vector<float>& values) {
    EXPECT_TRUE(write_file_atomic(path, std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float))).ok());
}

TEST(OnnxMlp, IsTheOneThatTheQonnxPackageExecuted) {
    auto golden = read_json_file(std::string(SKIFF_TEST_DATA_DIR) + "/onnx/mlp.json");
    const char* folder = std::getenv("SKIFF_KEEP_FILES");
    ASSERT_TRUE(golden.ok() || folder != nullptr);
    const ModelSpec spec = mlp_spec();
    const auto weights = mlp_weights(spec);
    for (const char* activations : {"real", "int8"}) {
        const bool int8 = std::string_view(activations) == "int8";
        OnnxExportOptions options;
        options.form = OnnxForm::qonnx;
        if (int8) options.activations = OnnxExportOptions::Activations::int8;
        OnnxGraphBuilder graph;
        OnnxOperators operators(graph, options, spec, weights);
        graph.input("x", OnnxType::float32, {n_tokens, input_width});
        operators.bind(spec.blocks[0].in, "x");
        for (const Op& op : spec.blocks[0].ops) {
            Status status = operators.add(op);
            ASSERT_TRUE(status.ok()) << status.error().to_string();
        }
        graph.output(operators.name_of(spec.blocks[0].out), OnnxType::float32, {n_tokens, layers[std::size(layers) - 1].width});
        OnnxModel model = graph.finish();
        const std::string stem = (folder != nullptr ? std::string(folder) + "/" : ::testing::TempDir() + "skiff_") + "mlp_" + activations;
        Status status = write_onnx_tensors(graph.take_initializers(), model, stem + ".onnx.data", nullptr);
        ASSERT_TRUE(status.ok()) << status.error().to_string();
        auto bytes = serialize_onnx(model);
        ASSERT_TRUE(bytes.ok());
        const OnnxModel found = read_onnx(*bytes);
        expect_sound(found);
        std::set<std::string> kinds;
        for (const OnnxNode& node : found.nodes) kinds.insert(node.op_type);
        EXPECT_TRUE(kinds.count("Quant") == 1 && kinds.count("BipolarQuant") == 1);
        const std::vector<float> y = ours(spec, *weights, int8 ? KernelChoice::fastest : KernelChoice::reference);
        ASSERT_EQ(y.size(), static_cast<std::size_t>(n_tokens * 10));
        if (folder != nullptr) {
            ASSERT_TRUE(write_file_atomic(stem + ".onnx", *bytes).ok());
            keep(stem + ".x", input());
            keep(stem + ".y", y);
        } else {
            const std::string structure = onnx_structure(found);
            EXPECT_EQ(sha256_hex(bytes_of(structure)), (*golden)[activations].text());
            (void)remove_all(stem + ".onnx.data");
        }
    }
}

}  // namespace
}  // namespace skiff
