// Kernels over windows of an image: depthwise convolution and pooling. Images lie with their channels innermost, (height, width, channels) f32; a sequence is
// an image of height 1. A standard convolution is the linear kernel over gathered windows and needs none of its own.
#pragma once

#include "kernels/kernels.h"

namespace skiff {

// Where a window looks, from the input pixel at (out_y * stride_y, out_x * stride_x): padding is in the offsets.
struct WindowTap {
    std::int32_t dy, dx;
};
inline constexpr std::int64_t max_window_taps = 256;

struct WindowShape {
    std::int64_t height, width, channels;  // of the input
    std::int64_t out_width;
    std::int64_t stride_y, stride_x;
    const WindowTap* taps;                 // (n_taps), at most max_window_taps
    std::int64_t n_taps;
};

// ---- depthwise: y[p, c] = bias[c] + sum over taps of weight[tap, c] * x[p + tap, c / multiplier]; what lies outside the image is zero
struct DepthwiseArgs {
    WindowShape window;
    const float* x;           // (height, width, channels) f32
    const float* weight;      // (n_taps, channels * multiplier) f32
    const float* bias;        // (channels * multiplier) f32, or null
    float* y;                 // (out_height, out_width, channels * multiplier) f32
    std::int64_t multiplier;  // outputs of each input channel
};
using DepthwiseFn = void (*)(const DepthwiseArgs& args, Range pixels);  // of the output

// ---- pooling: the largest number in the window, or their mean. What lies outside the image is left out; a mean may count it, as zeros.
enum class PoolKind : std::uint8_t { max, average, average_with_padding };
struct PoolArgs {
    WindowShape window;
    const float* x;  // (height, width, channels) f32
    float* y;        // (out_height, out_width, channels) f32
    PoolKind kind;
};
using PoolFn = void (*)(const PoolArgs& args, Range pixels);

std::span<const KernelRow<DepthwiseFn>> depthwise_kernels();
std::span<const KernelRow<PoolFn>> pool_kernels();

// The rows, for windows.cpp alone.
void depthwise_ref(const DepthwiseArgs& args, Range pixels);
void depthwise_avx2(const DepthwiseArgs& args, Range pixels);
void depthwise_avx512(const DepthwiseArgs& args, Range pixels);
void pool_ref(const PoolArgs& args, Range pixels);
void pool_avx2(const PoolArgs& args, Range pixels);
void pool_avx512(const PoolArgs& args, Range pixels);

}  // namespace skiff
