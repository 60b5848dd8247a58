#include "kernels/windows.h"

namespace skiff {
namespace {

// The input pixel that a tap sees from an output pixel, or null outside the image.
const float* seen(const WindowShape& window, const float* x, std::int64_t pixel, const WindowTap& tap) {
    const std::int64_t row = pixel / window.out_width * window.stride_y + tap.dy, column = pixel % window.out_width * window.stride_x + tap.dx;
    if (row < 0 || row >= window.height || column < 0 || column >= window.width) return nullptr;
    return x + (row * window.width + column) * window.channels;
}

}  // namespace

void depthwise_ref(const DepthwiseArgs& args, Range pixels) {
    const std::int64_t n_outputs = args.window.channels * args.multiplier;
    for (std::int64_t pixel = pixels.begin; pixel < pixels.end; ++pixel)
        for (std::int64_t c = 0; c < n_outputs; ++c) {
            double sum = args.bias != nullptr ? static_cast<double>(args.bias[c]) : 0;
            for (std::int64_t tap = 0; tap < args.window.n_taps; ++tap)
                if (const float* x = seen(args.window, args.x, pixel, args.window.taps[tap]))
                    sum += static_cast<double>(args.weight[tap * n_outputs + c]) * static_cast<double>(x[c / args.multiplier]);
            args.y[pixel * n_outputs + c] = static_cast<float>(sum);
        }
}

void pool_ref(const PoolArgs& args, Range pixels) {
    const WindowShape& window = args.window;
    for (std::int64_t pixel = pixels.begin; pixel < pixels.end; ++pixel)
        for (std::int64_t c = 0; c < window.channels; ++c) {
            double sum = 0;
            float largest = 0;
            std::int64_t n = 0;
            for (std::int64_t tap = 0; tap < window.n_taps; ++tap) {
                const float* x = seen(window, args.x, pixel, window.taps[tap]);
                if (x == nullptr) continue;
                if (n == 0 || !(x[c] <= largest)) largest = x[c];
                sum += static_cast<double>(x[c]);
                ++n;
            }
            const std::int64_t counted = args.kind == PoolKind::average_with_padding ? window.n_taps : n;
            args.y[pixel * window.channels + c] = args.kind == PoolKind::max ? largest : counted > 0 ? static_cast<float>(sum / static_cast<double>(counted)) : 0;
        }
}

}  // namespace skiff
