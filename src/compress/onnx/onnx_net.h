// A network (src/net) as an ONNX graph: images in, what its last operator gives out. The way to NPUs and FPGAs.
#pragma once

#include "compress/onnx/onnx_export.h"
#include "net/ranges.h"

namespace skiff {

// The graph and what its tensors will be. Float32 alone, in the forms qdq, qonnx and floats. Activations of int8 need the ranges of all values: what a matrix or a
// convolution reads becomes integers of 8 bits with one scale, unsigned where nothing is below zero.
Result<OnnxExport> plan_onnx_net(const net::Net& net, const OnnxExportOptions& options, const std::vector<net::ValueRange>& ranges = {});

}  // namespace skiff
