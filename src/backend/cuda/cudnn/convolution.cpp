#include "backend/cuda/cudnn/convolution.h"

namespace skiff::cuda::cudnn {
namespace {

// (n, c, h, w) with c innermost
TensorSpec images(std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) { return {{n, c, h, w}, {c * h * w, 1, c * w, c}, DataType::f32}; }

Pointwise mode_of(ConvolutionThen then) {
    switch (then) {
        case ConvolutionThen::relu: return Pointwise::relu;
        case ConvolutionThen::tanh: return Pointwise::tanh;
        case ConvolutionThen::sigmoid: return Pointwise::sigmoid;
        case ConvolutionThen::gelu_erf: return Pointwise::gelu_erf;
        case ConvolutionThen::gelu_tanh: return Pointwise::gelu_tanh;
        case ConvolutionThen::swish:
        case ConvolutionThen::swish_1702: return Pointwise::swish;
        case ConvolutionThen::nothing: break;
    }
    return Pointwise::relu;
}

}  // namespace

ConvolutionGraph convolution_graph(const Library& library, const ConvolutionShape& s) {
    ConvolutionGraph made{Graph(library)};
    Graph& graph = made.graph;
    const TensorSpec result = images(s.n_images, s.out_channels, s.out_height, s.out_width);
    made.x = graph.tensor(images(s.n_images, s.channels, s.height, s.width));
    made.w = graph.tensor(images(s.out_channels, s.channels / s.groups, s.kernel[0], s.kernel[1]));
    if (s.bias == ConvolutionShape::Bias::yes) made.bias = graph.tensor({{1, s.out_channels, 1, 1}, {s.out_channels, 1, s.out_channels, s.out_channels}, DataType::f32});
    made.y = graph.tensor(result);
    const bool activates = s.then != ConvolutionThen::nothing;
    int x = made.bias >= 0 || activates ? graph.inside(result) : made.y;
    graph.convolution({{s.before[0], s.before[1]}, {s.after[0], s.after[1]}, {s.stride[0], s.stride[1]}, {s.dilation[0], s.dilation[1]}}, made.x, made.w, x);
    if (made.bias >= 0) {
        const int sum = activates ? graph.inside(result) : made.y;
        graph.pointwise({Pointwise::add}, {x, made.bias}, sum);
        x = sum;
    }
    if (activates) graph.pointwise({mode_of(s.then), DataType::f32, -1, s.then == ConvolutionThen::swish_1702 ? 1.702 : 1.0}, {x}, made.y);
    return made;
}

}  // namespace skiff::cuda::cudnn
