#include "compress/onnx/onnx_nodes.h"

namespace skiff {

Result<std::string> activation_nodes(OnnxGraphBuilder& graph, Activation kind, const std::string& x, OnnxType type) {
    const auto node = [&](const char* op_type, std::vector<std::string> inputs) { return graph.node(op_type, std::move(inputs)); };
    const auto real = [&](float value) { return graph.real(value, type); };
    switch (kind) {
        case Activation::silu: return node("Mul", {x, node("Sigmoid", {x})});
        case Activation::quick_gelu: return node("Mul", {x, node("Sigmoid", {node("Mul", {x, real(1.702f)})})});
        case Activation::relu: return node("Relu", {x});
        case Activation::sigmoid: return node("Sigmoid", {x});
        case Activation::tanh: return node("Tanh", {x});
        case Activation::gelu_erf: {
            const std::string erf = node("Erf", {node("Mul", {x, real(0.70710678118654752f)})});
            return node("Mul", {node("Mul", {x, real(0.5f)}), node("Add", {erf, real(1)})});
        }
        case Activation::gelu_tanh: {
            const std::string cube = node("Mul", {node("Mul", {x, x}), x});
            const std::string inner = node("Mul", {node("Add", {x, node("Mul", {cube, real(0.044715f)})}), real(0.79788456080286536f)});
            return node("Mul", {node("Mul", {x, real(0.5f)}), node("Add", {node("Tanh", {inner}), real(1)})});
        }
    }
    return unsupported("this activation has no form in ONNX here");
}

// The nodes of RMS are those that runtimes fuse.
std::string norm_nodes(OnnxGraphBuilder& graph, const OnnxNorm& norm, const std::string& x) {
    constexpr OnnxType f32 = OnnxType::float32;
    if (norm.kind == NormKind::layer) {
        std::vector<std::string> inputs = {x, norm.weight};
        if (!norm.bias.empty()) inputs.push_back(norm.bias);
        return graph.node("LayerNormalization", inputs, {{"axis", std::int64_t{-1}}, {"epsilon", norm.eps}});
    }
    const std::string square = graph.node("Pow", {x, graph.real(2, f32)});
    const std::string mean = graph.node("ReduceMean", {square, graph.integers({-1})}, {{"keepdims", std::int64_t{1}}});
    std::string y = graph.node("Div", {x, graph.node("Sqrt", {graph.node("Add", {mean, graph.real(norm.eps, f32)})})});
    if (!norm.weight.empty()) y = graph.node("Mul", {y, norm.weight});
    if (!norm.bias.empty()) y = graph.node("Add", {y, norm.bias});
    return y;
}

}  // namespace skiff
