// Convolutions and pooling of small networks: neighbouring threads have neighbouring channels.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/image_windows.h"

namespace skiff::cuda {
namespace {

constexpr int block_threads = 128;

// What a tap sees from a position, at a channel; false outside the image.
__device__ __forceinline__ bool look(const ImageWindows& w, std::int64_t position, std::int64_t tap, std::int64_t channel, float& value) {
    const std::int64_t of_image = w.out_height * w.out_width, image = position / of_image, pixel = position % of_image;
    const std::int64_t row = pixel / w.out_width * w.stride_y + w.taps[tap].dy, column = pixel % w.out_width * w.stride_x + w.taps[tap].dx;
    if (row < 0 || row >= w.height || column < 0 || column >= w.width) return false;
    value = w.x[((image * w.height + row) * w.width + column) * w.channels + channel];
    if (w.read == ImageWindows::Read::activated) value = activate(w.activation, value);
    return true;
}

struct PatchesParams {
    PatchesArgs args;
    OperandTarget operand;
};
__global__ void __launch_bounds__(block_threads) patches_kernel(const __grid_constant__ PatchesParams p) {
    wait_for_predecessor();
    let_successor_start();
    const PatchesArgs& args = p.args;
    const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x, token = blockIdx.y;
    if (column >= args.windows.n_taps * args.n_channels) return;
    float value = 0;
    if (!look(args.windows, args.first_position + token, column / args.n_channels, args.first_channel + column % args.n_channels, value)) value = 0;
    p.operand.put(token, column, value);
}

__global__ void __launch_bounds__(block_threads) windows_kernel(const __grid_constant__ WindowsArgs args) {
    wait_for_predecessor();
    let_successor_start();
    const std::int64_t n_outputs = args.windows.channels * args.multiplier, at = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
    if (at >= args.windows.n_positions() * n_outputs) return;
    const std::int64_t position = at / n_outputs, output = at % n_outputs, channel = output / args.multiplier;
    float sum = args.kind == WindowsArgs::Kind::depthwise && args.bias != nullptr ? args.bias[output] : 0.0f, largest = 0;
    int n = 0;
    for (std::int64_t tap = 0; tap < args.windows.n_taps; ++tap) {
        float value = 0;
        if (!look(args.windows, position, tap, channel, value)) continue;
        if (n == 0 || !(value <= largest)) largest = value;
        sum += args.kind == WindowsArgs::Kind::depthwise ? args.weight[tap * n_outputs + output] * value : value;
        ++n;
    }
    if (args.kind == WindowsArgs::Kind::max) sum = largest;
    if (args.kind == WindowsArgs::Kind::average) sum = n > 0 ? sum / static_cast<float>(n) : 0;
    if (args.kind == WindowsArgs::Kind::average_with_padding) sum /= static_cast<float>(args.windows.n_taps);
    args.y[at] = sum;
}

unsigned blocks_of(std::int64_t n) { return static_cast<unsigned>((n + block_threads - 1) / block_threads); }
bool can_be(const ImageWindows& w) { return w.x != nullptr && w.taps != nullptr && w.n_taps > 0 && w.out_width > 0 && w.out_height > 0; }

}  // namespace

int launch_patches(const PatchesArgs& args, const Launch& launch) {
    if (!can_be(args.windows) || args.n_positions > 65535 || args.n_channels < 1 || args.operand.data == nullptr) return cudaErrorInvalidValue;
    const dim3 grid(blocks_of(args.windows.n_taps * args.n_channels), static_cast<unsigned>(args.n_positions));
    return launch_kernel<PatchesParams>(patches_kernel, grid, dim3(block_threads), 0, launch, {args, target_of(args.operand)});
}

int launch_windows(const WindowsArgs& args, const Launch& launch) {
    if (!can_be(args.windows) || args.y == nullptr || (args.kind == WindowsArgs::Kind::depthwise && args.weight == nullptr)) return cudaErrorInvalidValue;
    return launch_kernel<WindowsArgs>(windows_kernel, dim3(blocks_of(args.windows.n_positions() * args.windows.channels * args.multiplier)), dim3(block_threads), 0, launch, args);
}

}  // namespace skiff::cuda
