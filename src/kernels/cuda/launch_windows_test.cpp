// Windows over images against the processor's reference kernels: odd sizes, strides, paddings, taps that were left out.
#include "kernels/cuda/image_windows.h"
#include "kernels/cuda/launch_testing.h"
#include "kernels/kernels_testing.h"

namespace skiff::cuda {
namespace {

using namespace skiff::testing;
using namespace skiff::cuda::testing;

struct Case {
    std::int64_t n_images, height, width, channels, out_height, out_width, stride_y, stride_x;
    std::vector<WindowTap> taps;
};
const std::vector<WindowTap> three_by_three = {{-1, -1}, {-1, 0}, {-1, 1}, {0, -1}, {0, 0}, {0, 1}, {1, -1}, {1, 0}, {1, 1}};
const Case cases[] = {
    {1, 5, 7, 3, 5, 7, 1, 1, three_by_three},
    {3, 6, 5, 9, 3, 3, 2, 2, three_by_three},
    {2, 1, 11, 70, 1, 11, 1, 1, {{0, -2}, {0, 0}, {0, 2}}},        // a sequence, dilated
    {2, 4, 4, 5, 4, 4, 1, 1, {{-1, 0}, {0, -1}, {0, 0}, {1, 1}}},  // some taps
    {2, 3, 3, 8, 1, 1, 1, 1, {{5, 5}}},                            // all outside
};

ImageWindows windows_of(const Case& c, const float* x, const WindowTap* taps) {
    return {x, c.n_images, c.height, c.width, c.channels, c.out_height, c.out_width, c.stride_y, c.stride_x, taps, static_cast<std::int64_t>(c.taps.size())};
}
WindowShape shape_of(const Case& c) { return {c.height, c.width, c.channels, c.out_width, c.stride_y, c.stride_x, c.taps.data(), static_cast<std::int64_t>(c.taps.size())}; }

TEST(CudaWindows, depthwise_and_pooling) {
    SKIFF_NEEDS_DEVICE();
    using Kind = WindowsArgs::Kind;
    for (const Case& c : cases)
        for (const Kind kind : {Kind::depthwise, Kind::max, Kind::average, Kind::average_with_padding})
            for (const std::int64_t multiplier : {1, 2}) {
                if (kind != Kind::depthwise && multiplier > 1) continue;
                const std::int64_t of_image = c.height * c.width * c.channels, n_outputs = c.channels * multiplier, out_image = c.out_height * c.out_width * n_outputs, n_taps = static_cast<std::int64_t>(c.taps.size());
                const auto x = normal_values(c.n_images * of_image, 1), weight = normal_values(n_taps * n_outputs, 2), bias = normal_values(n_outputs, 3);
                std::vector<float> wanted(static_cast<std::size_t>(c.n_images * out_image));
                for (std::int64_t image = 0; image < c.n_images; ++image) {
                    float* y = wanted.data() + image * out_image;
                    const Range pixels{0, c.out_height * c.out_width};
                    if (kind == Kind::depthwise) depthwise_ref({shape_of(c), x.data() + image * of_image, weight.data(), bias.data(), y, multiplier}, pixels);
                    else pool_ref({shape_of(c), x.data() + image * of_image, y, kind == Kind::max ? PoolKind::max : kind == Kind::average ? PoolKind::average : PoolKind::average_with_padding}, pixels);
                }
                const DeviceArray<float> device_x(x), device_weight(weight), device_bias(bias);
                const DeviceArray<WindowTap> taps(c.taps);
                in_every_mode([&](const Launch& launch) {
                    const DeviceArray<float> y(c.n_images * out_image);
                    WindowsArgs args{windows_of(c, device_x.data(), taps.data()), kind, device_weight.data(), device_bias.data(), multiplier, y.data()};
                    ASSERT_EQ(launch_windows(args, launch), 0);
                    ASSERT_LT(relative_error(y.values(), wanted, 1), 1e-5) << static_cast<int>(kind);
                });
            }
}

// The rows that a product multiplies: of some channels, from some position on; the activation in front leaves what lies outside zero, even where it has no zero at zero.
TEST(CudaWindows, patches) {
    SKIFF_NEEDS_DEVICE();
    for (const Case& c : cases)
        for (const bool activated : {false, true}) {
            const auto x = normal_values(c.n_images * c.height * c.width * c.channels, 4);
            const std::int64_t first_channel = c.channels > 4 ? 3 : 0, n_channels = c.channels - first_channel, first = c.n_images > 1 ? 2 : 0, n = c.n_images * c.out_height * c.out_width - first, n_taps = static_cast<std::int64_t>(c.taps.size());
            if (n < 1) continue;
            std::vector<float> wanted;
            for (std::int64_t p = first; p < first + n; ++p)
                for (const WindowTap& tap : c.taps)
                    for (std::int64_t channel = first_channel; channel < c.channels; ++channel) {
                        const std::int64_t image = p / (c.out_height * c.out_width), pixel = p % (c.out_height * c.out_width), row = pixel / c.out_width * c.stride_y + tap.dy, column = pixel % c.out_width * c.stride_x + tap.dx;
                        const bool inside = row >= 0 && row < c.height && column >= 0 && column < c.width;
                        const float value = inside ? x[static_cast<std::size_t>(((image * c.height + row) * c.width + column) * c.channels + channel)] : 0;
                        wanted.push_back(inside && activated ? 1 / (1 + std::exp(-value)) : value);
                    }
            const DeviceArray<float> device_x(x);
            const DeviceArray<WindowTap> taps(c.taps);
            in_every_mode([&](const Launch& launch) {
                const DeviceMemory operand(operand_bytes(OperandForm::fragments, n, n_taps * n_channels));
                PatchesArgs args{windows_of(c, device_x.data(), taps.data()), first_channel, n_channels, first, n, {OperandForm::fragments, operand.data(), n_taps * n_channels}};
                if (activated) args.windows.read = ImageWindows::Read::activated, args.windows.activation = Activation::sigmoid;
                ASSERT_EQ(launch_patches(args, launch), 0);
                ASSERT_LT(relative_error(operand_floats(OperandForm::fragments, operand_values(operand), n, n_taps * n_channels), wanted, 0.1), 0x1p-7);
            });
        }
}

}  // namespace
}  // namespace skiff::cuda
