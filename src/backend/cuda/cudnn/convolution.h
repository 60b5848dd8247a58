// A convolution with its bias and activation as one graph of cuDNN's, of f32 numbers, which it multiplies as TF32 where that is faster. Images with channels innermost; a sequence is an
// image of height 1. (Of bf16 it has no fused depthwise convolution, and none of three channels.)
#pragma once

#include <compare>

#include "backend/cuda/cudnn/graph.h"

namespace skiff::cuda::cudnn {

enum class ConvolutionThen : std::uint8_t { nothing, relu, tanh, sigmoid, gelu_erf, gelu_tanh, swish, swish_1702 };

struct ConvolutionShape {
    std::int64_t n_images = 0, height = 1, width = 1, channels = 1;
    std::int64_t out_height = 1, out_width = 1, out_channels = 1, groups = 1;
    std::int64_t kernel[2] = {1, 1}, stride[2] = {1, 1}, dilation[2] = {1, 1}, before[2] = {0, 0}, after[2] = {0, 0};  // [0] is down, [1] is across
    enum class Bias : std::uint8_t { no, yes } bias = Bias::no;
    ConvolutionThen then = ConvolutionThen::nothing;
    auto operator<=>(const ConvolutionShape&) const = default;
};
struct ConvolutionGraph {
    Graph graph;
    int x = 0;      // (n_images, channels, height, width), channels innermost
    int w = 0;      // (out_channels, channels / groups, kernel), channels innermost
    int bias = -1;  // (out_channels) f32
    int y = 0;      // (n_images, out_channels, out_height, out_width), channels innermost // f32
};
ConvolutionGraph convolution_graph(const Library& library, const ConvolutionShape& shape);

}  // namespace skiff::cuda::cudnn
