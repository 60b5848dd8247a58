// The fake device's windows over images.
#include <algorithm>
#include <vector>

#include "backend/cuda/testing/fake_kernels.h"

namespace skiff::cuda::fake {
namespace {

bool windows_here(const ImageWindows& w) { return w.x != nullptr && floats(w.x, w.n_images * w.height * w.width * w.channels) && w.taps != nullptr && floats(w.taps, w.n_taps); }

bool look(const ImageWindows& w, std::int64_t position, std::int64_t tap, std::int64_t channel, float& value) {
    const std::int64_t of_image = w.out_height * w.out_width, pixel = position % of_image;
    const std::int64_t row = pixel / w.out_width * w.stride_y + w.taps[tap].dy, column = pixel % w.out_width * w.stride_x + w.taps[tap].dx;
    if (row < 0 || row >= w.height || column < 0 || column >= w.width) return false;
    value = w.x[((position / of_image * w.height + row) * w.width + column) * w.channels + channel];
    if (w.read == ImageWindows::Read::activated) value = activated(w.activation, value);
    return true;
}

int patches(const PatchesArgs& args, const Launch& launch) {
    if (!windows_here(args.windows) || !grid(args.n_positions) || args.operand.n_columns != args.windows.n_taps * args.n_channels || !operand_here(args.operand, args.n_positions)) return bad_value;
    return put(launch.stream, [args]() -> int {
        for (std::int64_t p = 0; p < args.n_positions; ++p)
            for (std::int64_t column = 0; column < args.operand.n_columns; ++column) {
                float value = 0;
                if (!look(args.windows, args.first_position + p, column / args.n_channels, args.first_channel + column % args.n_channels, value)) value = 0;
                write_operand(args.operand, p, column, value);
            }
        return good;
    });
}

int windows(const WindowsArgs& args, const Launch& launch) {
    using Kind = WindowsArgs::Kind;
    const std::int64_t n_outputs = args.windows.channels * args.multiplier, n = args.windows.n_positions();
    if (!windows_here(args.windows) || args.y == nullptr || !floats(args.y, n * n_outputs) || (args.kind == Kind::depthwise && (args.weight == nullptr || !floats(args.weight, args.windows.n_taps * n_outputs))) || !floats(args.bias, n_outputs)) return bad_value;
    return put(launch.stream, [args, n_outputs, n]() -> int {
        for (std::int64_t p = 0; p < n; ++p)
            for (std::int64_t o = 0; o < n_outputs; ++o) {
                double sum = args.kind == Kind::depthwise && args.bias != nullptr ? args.bias[o] : 0;
                std::vector<float> seen;
                for (std::int64_t tap = 0; tap < args.windows.n_taps; ++tap) {
                    float value = 0;
                    if (!look(args.windows, p, tap, o / args.multiplier, value)) continue;
                    seen.push_back(value);
                    sum += args.kind == Kind::depthwise ? static_cast<double>(args.weight[tap * n_outputs + o]) * value : value;
                }
                const auto counted = static_cast<double>(args.kind == Kind::average ? seen.size() : static_cast<std::size_t>(args.windows.n_taps));
                if (args.kind == Kind::average || args.kind == Kind::average_with_padding) sum = counted > 0 ? sum / counted : 0;
                if (args.kind == Kind::max) sum = seen.empty() ? 0 : *std::max_element(seen.begin(), seen.end());
                args.y[p * n_outputs + o] = static_cast<float>(sum);
            }
        return good;
    });
}

}  // namespace

void add_windows(Table& table) {
    table.patches = patches;
    table.windows = windows;
}

}  // namespace skiff::cuda::fake
