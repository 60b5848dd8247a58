// The depthwise and pooling kernels over a type of vector `V` (see the units that include this): per output pixel the taps inside the image are found once, then
// the channels go by in blocks of four vectors, one vector, and a masked rest. An output is one chain of operations in the order of the taps, so its bits do not
// depend on the share of the work. For wide units alone.
#pragma once

#include "kernels/windows.h"

namespace skiff {
namespace {

struct SeenTaps {
    const float* x[max_window_taps];
    std::int64_t tap[max_window_taps];
    std::int64_t n;
};

inline void find_taps(const WindowShape& window, const float* x, std::int64_t pixel, SeenTaps& seen) {
    const std::int64_t y0 = pixel / window.out_width * window.stride_y, x0 = pixel % window.out_width * window.stride_x;
    seen.n = 0;
    for (std::int64_t tap = 0; tap < window.n_taps; ++tap) {
        const std::int64_t row = y0 + window.taps[tap].dy, column = x0 + window.taps[tap].dx;
        if (row < 0 || row >= window.height || column < 0 || column >= window.width) continue;
        seen.x[seen.n] = x + (row * window.width + column) * window.channels;
        seen.tap[seen.n++] = tap;
    }
}

template <class V>
void depthwise_pixel(const DepthwiseArgs& args, const SeenTaps& seen, float* y) {
    const std::int64_t n = args.window.channels * args.multiplier;
    std::int64_t c = 0;
    if (args.multiplier == 1)
        for (; c + 4 * V::lanes <= n; c += 4 * V::lanes) {
            typename V::Type sum[4];
            for (int i = 0; i < 4; ++i) sum[i] = args.bias != nullptr ? V::load(args.bias + c + i * V::lanes) : V::zero();
            for (std::int64_t t = 0; t < seen.n; ++t) {
                const float* weight = args.weight + seen.tap[t] * n + c;
                const float* x = seen.x[t] + c;
                for (int i = 0; i < 4; ++i) sum[i] = V::fma(V::load(weight + i * V::lanes), V::load(x + i * V::lanes), sum[i]);
            }
            for (int i = 0; i < 4; ++i) V::store(y + c + i * V::lanes, sum[i]);
        }
    for (; c < n; c += V::lanes) {
        const std::int64_t left = n - c < V::lanes ? n - c : V::lanes;
        typename V::Type sum = args.bias != nullptr ? V::load_first(args.bias + c, left) : V::zero();
        if (args.multiplier == 1) {
            for (std::int64_t t = 0; t < seen.n; ++t) sum = V::fma(V::load_first(args.weight + seen.tap[t] * n + c, left), V::load_first(seen.x[t] + c, left), sum);
        } else {  // each input channel stands in `multiplier` lanes
            const std::int64_t first = c / args.multiplier, inputs = args.window.channels - first < V::lanes ? args.window.channels - first : V::lanes;
            std::int32_t lane_of[V::lanes];
            std::int64_t repeat = c % args.multiplier;
            std::int32_t lane = 0;
            for (std::int64_t i = 0; i < V::lanes; ++i) {
                lane_of[i] = lane;
                if (++repeat == args.multiplier) repeat = 0, ++lane;
            }
            const typename V::Lanes lanes = V::lanes_from(lane_of);
            for (std::int64_t t = 0; t < seen.n; ++t) sum = V::fma(V::load_first(args.weight + seen.tap[t] * n + c, left), V::spread(V::load_first(seen.x[t] + first, inputs), lanes), sum);
        }
        V::store_first(y + c, left, sum);
    }
}

template <class V>
void depthwise_wide(const DepthwiseArgs& args, Range pixels) {
    const std::int64_t n = args.window.channels * args.multiplier;
    SeenTaps seen;
    for (std::int64_t pixel = pixels.begin; pixel < pixels.end; ++pixel) {
        find_taps(args.window, args.x, pixel, seen);
        depthwise_pixel<V>(args, seen, args.y + pixel * n);
    }
}

template <class V>
void pool_wide(const PoolArgs& args, Range pixels) {
    const std::int64_t n = args.window.channels;
    SeenTaps seen;
    for (std::int64_t pixel = pixels.begin; pixel < pixels.end; ++pixel) {
        find_taps(args.window, args.x, pixel, seen);
        const std::int64_t counted = args.kind == PoolKind::average_with_padding ? args.window.n_taps : seen.n;
        float* y = args.y + pixel * n;
        for (std::int64_t c = 0; c < n; c += V::lanes) {
            const std::int64_t left = n - c < V::lanes ? n - c : V::lanes;
            typename V::Type result = seen.n > 0 ? V::load_first(seen.x[0] + c, left) : V::zero();
            if (args.kind == PoolKind::max) {
                for (std::int64_t t = 1; t < seen.n; ++t) result = V::max(V::load_first(seen.x[t] + c, left), result);
            } else {
                for (std::int64_t t = 1; t < seen.n; ++t) result = V::add(V::load_first(seen.x[t] + c, left), result);
                if (counted > 0) result = V::divide(result, static_cast<float>(counted));
            }
            V::store_first(y + c, left, result);
        }
    }
}

}  // namespace
}  // namespace skiff
