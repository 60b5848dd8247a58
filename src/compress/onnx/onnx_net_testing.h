// For tests: networks as ONNX files, and images as those files take them.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "compress/onnx/onnx_net.h"
#include "net/net_testing.h"
#include "net/session.h"

namespace skiff {

// (n, height, width, channels) and (n, channels, height, width): the same numbers.
inline std::vector<float> channels_first(const std::vector<float>& x, const net::ValueShape& shape) {
    std::vector<float> y;
    const auto positions = static_cast<std::size_t>(shape.n_positions()), channels = static_cast<std::size_t>(shape.channels);
    for (std::size_t image = 0; image < x.size(); image += positions * channels)
        for (std::size_t c = 0; c < channels; ++c)
            for (std::size_t p = 0; p < positions; ++p) y.push_back(x[image + p * channels + c]);
    return y;
}

// All matrices in the scheme, depthwise kernels too; nothing where the scheme does not take one of them.
inline std::optional<net::Net> quantized_net(const net::Net& net, const Scheme& scheme) {
    net::Net child = net;
    for (auto& [name, weight] : child.weights) {
        if (!name.ends_with(".weight") || weight.shape.size() != 2) continue;
        auto made = encode_nearest(weight, scheme, ScaleRule::min_max);
        if (!made.ok()) return std::nullopt;
        weight = *made;
    }
    return child;
}

// By the kernels that take floats. // (n_images, output) f32
inline std::vector<float> outputs_of(const net::Net& net, const std::vector<float>& x, std::int64_t n_images) {
    auto session = net::Session::create(net, {1, Isa::generic, KernelChoice::reference, 4});
    EXPECT_TRUE(session.ok()) << (session.ok() ? "" : session.error().to_string());
    if (!session.ok()) return {};
    std::vector<float> y(static_cast<std::size_t>(n_images * (*session)->output().n_elements()));
    (*session)->run(x.data(), n_images, y.data());
    return y;
}

}  // namespace skiff
