// A network (src/net) as an ONNX graph: images in, what its last operator gives out. The way to NPUs and FPGAs.
#pragma once

#include "compress/onnx/onnx_export.h"
#include "net/net.h"

namespace skiff {

// The graph and what its tensors will be. Float32 alone, in the forms qdq, qonnx and floats.
Result<OnnxExport> plan_onnx_net(const net::Net& net, const OnnxExportOptions& options);

}  // namespace skiff
