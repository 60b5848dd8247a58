// A network of src/net as LibTorch's operators, so that it has gradients. Values are (n, channels, height, width), as LibTorch has them.
#pragma once

#include <map>
#include <string>

#include <ATen/ATen.h>

#include "net/net.h"

namespace skiff::train {

class NetModule {
public:
    explicit NetModule(const net::Net& net);  // of a spec that resolves

    std::map<std::string, at::Tensor>& parameters() { return parameters_; }  // by the name of the tensor, in its shape; leaves
    Result<at::Tensor> forward(const at::Tensor& x) const;                   // // x: (n, channels, height, width) f32 -> (n, channels, height, width)

private:
    const net::NetSpec spec_;
    net::Resolved resolved_;
    std::map<std::string, at::Tensor> parameters_;
};

}  // namespace skiff::train
