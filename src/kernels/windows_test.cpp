// Every depthwise and pooling kernel against the definition, over odd widths, strides, padding, dilation and shares.
#include <gtest/gtest.h>

#include "kernels/kernels_testing.h"
#include "kernels/windows.h"

namespace skiff {
namespace {

using testing::normal_values;

struct Case {
    std::int64_t height, width, channels, kernel, stride, padding, dilation;
};
constexpr Case cases[] = {{6, 6, 2, 3, 1, 0, 1}, {5, 7, 1, 3, 2, 1, 1}, {7, 5, 8, 5, 1, 2, 1}, {9, 4, 33, 3, 1, 2, 2}, {1, 11, 70, 1, 1, 0, 1}, {4, 4, 16, 4, 3, 1, 1}, {3, 3, 129, 3, 1, 1, 1}};

struct Windows {
    std::vector<WindowTap> taps;
    WindowShape shape;
    std::int64_t n_pixels;
};
Windows windows_of(const Case& c, bool one_row) {
    Windows windows;
    const std::int64_t kernel_y = one_row ? 1 : c.kernel;
    for (std::int64_t y = 0; y < kernel_y; ++y)
        for (std::int64_t x = 0; x < c.kernel; ++x)
            windows.taps.push_back({static_cast<std::int32_t>(y * c.dilation - (one_row ? 0 : c.padding)), static_cast<std::int32_t>(x * c.dilation - c.padding)});
    const auto out = [&](std::int64_t n, std::int64_t kernel, std::int64_t padding) { return (n + 2 * padding - (kernel - 1) * c.dilation - 1) / c.stride + 1; };
    const std::int64_t out_height = out(c.height, kernel_y, one_row ? 0 : c.padding), out_width = out(c.width, c.kernel, c.padding);
    windows.shape = {c.height, c.width, c.channels, out_width, c.stride, c.stride, windows.taps.data(), static_cast<std::int64_t>(windows.taps.size())};
    windows.n_pixels = out_height * out_width;
    return windows;
}

// What a tap sees: the number, or nothing.
const float* at(const WindowShape& shape, const std::vector<float>& x, std::int64_t pixel, const WindowTap& tap, std::int64_t channel) {
    const std::int64_t y = pixel / shape.out_width * shape.stride_y + tap.dy, column = pixel % shape.out_width * shape.stride_x + tap.dx;
    return y < 0 || y >= shape.height || column < 0 || column >= shape.width ? nullptr : &x[static_cast<std::size_t>((y * shape.width + column) * shape.channels + channel)];
}

TEST(WindowKernels, DepthwiseRowsAgreeWithTheDefinition) {
    testing::for_each_row(depthwise_kernels(), [](const KernelRow<DepthwiseFn>& row) {
        for (const Case& c : cases)
            for (std::int64_t multiplier : {1, 3})
                for (bool with_bias : {false, true}) {
                    const Windows windows = windows_of(c, c.height == 1);
                    const std::int64_t n = c.channels * multiplier;
                    const auto x = normal_values(c.height * c.width * c.channels, 1), weight = normal_values(windows.shape.n_taps * n, 2), bias = normal_values(n, 3);
                    std::vector<float> y(static_cast<std::size_t>(windows.n_pixels * n), -1), shared = y;
                    DepthwiseArgs args{windows.shape, x.data(), weight.data(), with_bias ? bias.data() : nullptr, y.data(), multiplier};
                    row.fn(args, {0, windows.n_pixels});
                    args.y = shared.data();
                    for (Range part : {Range{0, windows.n_pixels / 3}, Range{windows.n_pixels / 3, windows.n_pixels}}) row.fn(args, part);
                    EXPECT_TRUE(testing::same_bits(y, shared));
                    for (std::int64_t pixel = 0; pixel < windows.n_pixels; ++pixel)
                        for (std::int64_t o = 0; o < n; ++o) {
                            double sum = with_bias ? static_cast<double>(bias[static_cast<std::size_t>(o)]) : 0;
                            for (std::int64_t t = 0; t < windows.shape.n_taps; ++t)
                                if (const float* seen = at(windows.shape, x, pixel, windows.taps[static_cast<std::size_t>(t)], o / multiplier))
                                    sum += static_cast<double>(weight[static_cast<std::size_t>(t * n + o)]) * static_cast<double>(*seen);
                            ASSERT_NEAR(y[static_cast<std::size_t>(pixel * n + o)], sum, 2e-5) << c.channels << " " << pixel << " " << o;
                        }
                }
    });
}

TEST(WindowKernels, PoolRowsAgreeWithTheDefinition) {
    testing::for_each_row(pool_kernels(), [](const KernelRow<PoolFn>& row) {
        for (const Case& c : cases)
            for (PoolKind kind : {PoolKind::max, PoolKind::average, PoolKind::average_with_padding}) {
                const Windows windows = windows_of(c, c.height == 1);
                const auto x = normal_values(c.height * c.width * c.channels, 4);
                std::vector<float> y(static_cast<std::size_t>(windows.n_pixels * c.channels), -1);
                row.fn({windows.shape, x.data(), y.data(), kind}, {0, windows.n_pixels});
                for (std::int64_t pixel = 0; pixel < windows.n_pixels; ++pixel)
                    for (std::int64_t channel = 0; channel < c.channels; ++channel) {
                        std::vector<double> inside;
                        for (const WindowTap& tap : windows.taps)
                            if (const float* seen = at(windows.shape, x, pixel, tap, channel)) inside.push_back(static_cast<double>(*seen));
                        double sum = 0, largest = inside.empty() ? 0 : inside[0];
                        for (double value : inside) sum += value, largest = std::max(largest, value);
                        const double count = kind == PoolKind::average ? static_cast<double>(inside.size()) : static_cast<double>(windows.shape.n_taps);
                        ASSERT_NEAR(y[static_cast<std::size_t>(pixel * c.channels + channel)], kind == PoolKind::max ? largest : inside.empty() ? 0 : sum / count, 1e-5);
                    }
            }
    });
}

}  // namespace
}  // namespace skiff
