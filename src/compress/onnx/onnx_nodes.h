// Operators that language models and networks of convolutions share, as nodes of an ONNX graph.
#pragma once

#include <string>

#include "compress/onnx/graph_builder.h"
#include "kernels/kernels.h"

namespace skiff {

Result<std::string> activation_nodes(OnnxGraphBuilder& graph, Activation kind, const std::string& x, OnnxType real);

// Over the last axis of x, in float32. `weight` and `bias` are names of vectors, empty where there are none (a layer norm has a weight).
struct OnnxNorm {
    NormKind kind = NormKind::rms;
    float eps = 1e-5f;
    std::string weight, bias;
};
std::string norm_nodes(OnnxGraphBuilder& graph, const OnnxNorm& norm, const std::string& x);

}  // namespace skiff
