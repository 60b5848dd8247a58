// A convolution as kernels: depthwise over windows, every other kind by the linear kernels, over the positions themselves or over gathered windows, so that
// whatever numbers a weight is made of, it runs.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/kernels.h"
#include "net/spec.h"

namespace skiff::net {

// What both kinds need to know.
struct ConvStep {
    Conv conv;
    ValueShape in, out;
    const float* x;           // (n_images, in) f32
    float* y;                 // (n_images, out) f32
    std::vector<float> bias;  // (channels), or empty
    std::vector<WindowTap> taps;

    WindowShape window() const { return {in.height, in.width, in.channels, out.width, conv.window.stride[0], conv.window.stride[1], taps.data(), static_cast<std::int64_t>(taps.size())}; }
};

// Calls use(image, range of its positions) for a range of the positions of all images.
template <class Use>
void for_each_image(Range positions, std::int64_t of_image, Use use) {
    while (positions.begin < positions.end) {
        const std::int64_t image = positions.begin / of_image, end = std::min(positions.end, (image + 1) * of_image);
        use(image, Range{positions.begin - image * of_image, end - image * of_image});
        positions.begin = end;
    }
}

struct DepthwiseStep {
    DepthwiseStep(ConvStep step, const Weight& weight, DepthwiseFn kernel);
    void run(Range positions) const;  // of all images

    ConvStep conv;
    DepthwiseFn fn;
    std::vector<float> by_tap;  // (n_taps, channels) f32
};

class LinearConv {
public:
    static constexpr std::int64_t positions_at_once = 64;

    static Result<LinearConv> create(ConvStep step, const Weight& weight, Isa isa, KernelChoice kernels);
    std::string_view kernel_name() const { return kernel_->name; }
    std::int64_t scratch_bytes() const;
    void run(Range positions, std::byte* scratch) const;

    ConvStep conv;

private:
    explicit LinearConv(ConvStep step) : conv(std::move(step)) {}
    void gather(std::int64_t group, Range positions, float* rows) const;

    const LinearKernel* kernel_ = nullptr;
    QuantizeFn quantize_ = nullptr;     // null: the kernel takes floats
    std::vector<PackedWeight> groups_;
    std::int64_t n_columns_ = 0, padded_columns_ = 0;
    bool positions_are_rows_ = false;   // nothing to gather
};

}  // namespace skiff::net
