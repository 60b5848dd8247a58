// Windows over images on the device (kernels/windows.h): what a convolution multiplies, as the operand of a product; depthwise convolution and pooling. An activation in front is applied
// where its value is read, so that convolution, bias and activation are the product and the next reader.
#pragma once

#include "kernels/cuda/launch.h"
#include "kernels/windows.h"

namespace skiff::cuda {

struct ImageWindows {
    const float* x = nullptr;            // (n_images, height, width, channels) f32
    std::int64_t n_images = 0, height = 1, width = 1, channels = 1;
    std::int64_t out_height = 1, out_width = 1, stride_y = 1, stride_x = 1;
    const WindowTap* taps = nullptr;     // (n_taps) on the device
    std::int64_t n_taps = 0;
    enum class Read : std::uint8_t { as_it_is, activated } read = Read::as_it_is;  // activated: what lies outside stays zero
    Activation activation = Activation::relu;
    constexpr std::int64_t n_positions() const { return n_images * out_height * out_width; }
};

// operand[p, tap * n_channels + c] = x at the tap of position first_position + p, channel first_channel + c
struct PatchesArgs {
    ImageWindows windows;
    std::int64_t first_channel = 0, n_channels = 0;
    std::int64_t first_position = 0, n_positions = 0;  // at most 65535
    Operand operand;  // (n_positions, n_taps * n_channels)
};
int launch_patches(const PatchesArgs& args, const Launch& launch);

struct WindowsArgs {
    ImageWindows windows;
    enum class Kind : std::uint8_t { depthwise, max, average, average_with_padding } kind = Kind::depthwise;
    const float* weight = nullptr;  // (n_taps, channels * multiplier) f32
    const float* bias = nullptr;    // (channels * multiplier) f32, or null
    std::int64_t multiplier = 1;    // outputs of each input channel; of pooling 1
    float* y = nullptr;             // (n_positions, channels * multiplier) f32
};
int launch_windows(const WindowsArgs& args, const Launch& launch);

}  // namespace skiff::cuda
