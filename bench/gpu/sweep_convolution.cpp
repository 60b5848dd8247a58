// A convolution with its bias and ReLU.
#include "sweep.h"

#include "backend/cuda/device_net.h"

namespace skiff::cuda {

Status Sweep::convolution(std::int64_t side, std::int64_t channels, std::int64_t out_channels, std::int64_t groups, std::int64_t kernel) {
    const std::int64_t n_images = small ? 2 : 64;
    const auto number = [](std::int64_t n) { return std::to_string(n); };
    SKIFF_TRY(const Json config, Json::parse(R"({"model_type": "skiff-net", "input": {"height": )" + number(side) + R"(, "width": )" + number(side) + R"(, "channels": )" + number(channels) + R"(}, "ops": [
        {"name": "c", "op": "conv", "channels": )" + number(out_channels) + R"(, "kernel": )" + number(kernel) + R"(, "padding": )" + number(kernel / 2) + R"(, "groups": )" + number(groups) + R"(},
        {"name": "r", "op": "activation", "kind": "relu"}]})"));
    SKIFF_TRY(const net::NetSpec spec, net::parse_net(config));
    const net::Net net = net::random_net(spec, 1);
    for (const bool by_cudnn : {false, true}) {
        if (by_cudnn && cudnn.empty()) continue;
        DeviceNetOptions options;
        if (by_cudnn) options = {DeviceNetOptions::Convolution::cudnn, cudnn};
        SKIFF_TRY(const auto one, DeviceNet::create(device.table(), net, n_images, options));
        const std::vector<float> x(static_cast<std::size_t>(n_images * side * side * channels), 0.5f);
        std::vector<float> y(static_cast<std::size_t>(n_images * one->output().n_elements()));
        SKIFF_CHECK(one->run(x.data(), n_images, y.data()));
        SKIFF_TRY(const double seconds, (Sweep{one->device(), pool, small, cudnn}.time([&](int) { return one->launch(n_images); }, "a convolution")));
        const double flops = 2.0 * static_cast<double>(n_images * side * side * out_channels) * static_cast<double>(kernel * kernel * channels / groups);
        say(Json::object({{"part", "convolution"}, {"row", by_cudnn && one->remarks().empty() ? "cudnn" : "own"}, {"images", n_images}, {"side", side}, {"channels", channels}, {"out_channels", out_channels}, {"groups", groups},
                          {"kernel", kernel}, {"launches", one->steps().size()}, {"us", seconds * 1e6}, {"tflops", flops / seconds * 1e-12}, {"refused", one->remarks().empty() ? Json() : Json(one->remarks().front())}}));
    }
    return {};
}

}  // namespace skiff::cuda
