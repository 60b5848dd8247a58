#include "net/lower_conv.h"

#include <cstring>

namespace skiff::net {

DepthwiseStep::DepthwiseStep(ConvStep step, const Weight& weight, DepthwiseFn kernel) : conv(std::move(step)), fn(kernel) {
    conv.taps = taps_of(conv.conv.window, conv.conv.kept_taps());
    const auto n_taps = static_cast<std::int64_t>(conv.taps.size());
    by_tap.resize(static_cast<std::size_t>(n_taps * conv.conv.channels));
    std::vector<float> row(static_cast<std::size_t>(n_taps));
    for (std::int64_t c = 0; c < conv.conv.channels; ++c) {
        weight.row(c, row.data());
        for (std::int64_t tap = 0; tap < n_taps; ++tap) by_tap[static_cast<std::size_t>(tap * conv.conv.channels + c)] = row[static_cast<std::size_t>(tap)];
    }
}

void DepthwiseStep::run(Range positions) const {
    DepthwiseArgs args{conv.window(), nullptr, by_tap.data(), conv.bias.empty() ? nullptr : conv.bias.data(), nullptr, conv.conv.channels / conv.in.channels};
    for_each_image(positions, conv.out.n_positions(), [&](std::int64_t image, Range pixels) {
        args.x = conv.x + image * conv.in.n_elements();
        args.y = conv.y + image * conv.out.n_elements();
        fn(args, pixels);
    });
}

Result<LinearConv> LinearConv::create(ConvStep step, const Weight& weight, Isa isa, KernelChoice kernels) {
    LinearConv made(std::move(step));
    const Conv& conv = made.conv.conv;
    made.conv.taps = taps_of(conv.window, conv.kept_taps());
    const Layout* layout = choose_layout(weight, isa, kernels);
    if (layout == nullptr) return unsupported("no kernel reads a weight of " + weight.encoding_name());
    made.kernel_ = choose_linear_kernel(layout->name, isa, positions_at_once, kernels);
    if (made.kernel_->form == ActivationForm::i8_b32) made.quantize_ = choose_kernel(quantize_kernels(), isa).fn;
    const std::int64_t rows = conv.channels / conv.groups;
    for (std::int64_t group = 0; group < conv.groups; ++group) made.groups_.push_back(pack_weight(*layout, weight, {group * rows, rows, rows, 1}));
    made.n_columns_ = weight.n_columns();
    made.padded_columns_ = padded_for_codes(made.n_columns_);
    made.positions_are_rows_ = conv.groups == 1 && conv.window.looks_at_one();
    return made;
}

std::int64_t LinearConv::scratch_bytes() const {
    const std::int64_t floats = positions_are_rows_ ? 0 : (n_columns_ * 4 + 63) / 64 * 64;
    return positions_at_once * (floats + padded_columns_ + padded_columns_ / 32 * 12);
}

// rows: (positions, taps * inputs of the group) f32
void LinearConv::gather(std::int64_t group, Range positions, float* rows) const {
    const std::int64_t inputs = conv.in.channels / conv.conv.groups;
    for_each_image(positions, conv.out.n_positions(), [&](std::int64_t image, Range pixels) {
        const float* x = conv.x + image * conv.in.n_elements() + group * inputs;
        for (std::int64_t pixel = pixels.begin; pixel < pixels.end; ++pixel) {
            const std::int64_t y0 = pixel / conv.out.width * conv.conv.window.stride[0], x0 = pixel % conv.out.width * conv.conv.window.stride[1];
            for (const WindowTap& tap : conv.taps) {
                const std::int64_t row = y0 + tap.dy, column = x0 + tap.dx;
                const bool inside = row >= 0 && row < conv.in.height && column >= 0 && column < conv.in.width;
                if (inside) std::memcpy(rows, x + (row * conv.in.width + column) * conv.in.channels, static_cast<std::size_t>(inputs) * sizeof(float));
                else std::memset(rows, 0, static_cast<std::size_t>(inputs) * sizeof(float));
                rows += inputs;
            }
        }
    });
}

void LinearConv::run(Range positions, std::byte* scratch) const {
    auto* codes = reinterpret_cast<std::int8_t*>(scratch);
    auto* scales = reinterpret_cast<float*>(scratch + positions_at_once * padded_columns_);
    auto* sums = reinterpret_cast<std::int16_t*>(scales + positions_at_once * (padded_columns_ / 32));
    auto* rows = reinterpret_cast<float*>(scratch + positions_at_once * (padded_columns_ + padded_columns_ / 32 * 12));
    const std::int64_t n_rows = conv.conv.channels / conv.conv.groups;
    for (std::int64_t begin = positions.begin; begin < positions.end; begin += positions_at_once) {
        const Range block{begin, std::min(positions.end, begin + positions_at_once)};
        const std::int64_t n = block.end - block.begin;
        for (std::size_t group = 0; group < groups_.size(); ++group) {
            const float* x = conv.x + block.begin * n_columns_;
            if (!positions_are_rows_) {
                gather(static_cast<std::int64_t>(group), block, rows);
                x = rows;
            }
            PreparedActivation prepared{x, codes, scales, sums, n_columns_, padded_columns_};
            if (quantize_ != nullptr) quantize_({x, codes, scales, sums, n_columns_, padded_columns_}, {0, n});
            const std::int64_t first = static_cast<std::int64_t>(group) * n_rows;
            kernel_->fn({&groups_[group], prepared, conv.bias.empty() ? nullptr : conv.bias.data() + first, conv.y + block.begin * conv.conv.channels + first, conv.conv.channels, n, LinearArgs::Write::replace},
                        {0, n_rows});
        }
    }
}

}  // namespace skiff::net
