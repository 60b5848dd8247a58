// A row through the norms that stand one behind the other (NormLaunchArgs), by the threads of a block, `n` numbers of a thread at a time. Each thread comes back to its own numbers only, so that places
// may be one. Whose numbers are whose follows from the shape, so that a row has the same bits as a launch of its own and behind a product.
#pragma once

#include "kernels/cuda/device.cuh"

namespace skiff::cuda {

constexpr int norm_threads = 256;  // that have numbers; a block may have more threads

// The sum over a block, the same for every thread; warps in order.
__device__ __forceinline__ float block_sum(float x, float* scratch) {  // scratch: (warps of the block)
    x = warp_sum(x);
    const int n_warps = static_cast<int>(blockDim.x) / lanes;
    __syncthreads();  // the scratch may still be read for the sum before
    if (threadIdx.x % lanes == 0) scratch[threadIdx.x / lanes] = x;
    __syncthreads();
    float total = 0;
    for (int warp = 0; warp < n_warps; ++warp) total += scratch[warp];
    return total;
}

struct NormParams {
    NormLaunchArgs args;
    OperandTarget operand, second;
};
inline NormParams norm_params(const NormLaunchArgs& args) { return {args, target_of(args.operand), target_of(args.second)}; }
// Whether widths, strides and addresses allow four numbers at a time.
inline bool norms_in_fours(const NormLaunchArgs& args) {
    const auto aligned = [](const void* address) { return reinterpret_cast<std::uintptr_t>(address) % 16 == 0; };
    return args.width % 4 == 0 && args.x_stride % 4 == 0 && (args.y == nullptr || args.y_stride % 4 == 0) && aligned(args.x) && aligned(args.residual) && aligned(args.sum) && aligned(args.y);
}

template <int n>
__device__ __forceinline__ void load_numbers(const float* from, float (&v)[n]) {
    if constexpr (n == 4) {
        const float4 four = *reinterpret_cast<const float4*>(from);
        v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
    } else {
#pragma unroll
        for (int i = 0; i < n; ++i) v[i] = from[i];
    }
}
template <int n>
__device__ __forceinline__ void store_numbers(float* to, const float (&v)[n]) {
    if constexpr (n == 4) {
        *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
    } else {
#pragma unroll
        for (int i = 0; i < n; ++i) to[i] = v[i];
    }
}

struct RowScale {
    float mean, scale;
};
// v = (v - mean) * scale * weight + bias // weight, bias: of v's columns, or null
template <int n>
__device__ __forceinline__ void scale_numbers(float (&v)[n], const RowScale& by, const float* weight, const float* bias) {
#pragma unroll
    for (int i = 0; i < n; ++i) {
        v[i] = (v[i] - by.mean) * by.scale;
        if (weight != nullptr) v[i] *= weight[i];
        if (bias != nullptr) v[i] += bias[i];
    }
}
template <int n>
__device__ __forceinline__ float add_up(NormKind kind, const float (&v)[n], float total) {
#pragma unroll
    for (int i = 0; i < n; ++i) total += kind == NormKind::layer ? v[i] : v[i] * v[i];
    return total;
}
// From a thread's part of the sum of a row's numbers (layer) or of their squares (rms). values(at, v): numbers `at` and following
template <int n, class Values>
__device__ __forceinline__ RowScale row_scale(NormKind kind, float eps, int width, int first, int step, float total, float* scratch, Values&& values) {
    total = block_sum(total, scratch);
    float mean = 0;
    if (kind == NormKind::layer) {
        mean = total / static_cast<float>(width);
        float squares = 0;
        for (int at = first; at < width; at += step) {
            float v[n];
            values(at, v);
#pragma unroll
            for (int i = 0; i < n; ++i) squares += (v[i] - mean) * (v[i] - mean);
        }
        total = block_sum(squares, scratch);
    }
    return {mean, 1.0f / sqrtf(total / static_cast<float>(width) + eps)};
}
template <int n>
__device__ __forceinline__ void put_numbers(const OperandTarget& operand, std::int64_t token, std::int64_t column, const float (&v)[n]) {
    if constexpr (n == 4) operand.put_four(token, column, v);
    else operand.put(token, column, v[0]);
}

// `row`: shared memory that holds the row already, for other blocks have written x; null: x is read where it is. // row: (width), scratch: (warps of the block)
template <int n>
__device__ __forceinline__ void norm_row(const NormParams& p, std::int64_t token, std::int64_t group, float* row, float* scratch) {
    const NormLaunchArgs& args = p.args;
    const int width = static_cast<int>(args.width), n_threads = min(static_cast<int>(blockDim.x), norm_threads), step = n_threads * n;
    const int first = static_cast<int>(threadIdx.x) < n_threads ? static_cast<int>(threadIdx.x) * n : width;
    const std::int64_t offset = token * args.x_stride + group * args.width;
    const auto input = [&](int at, float (&v)[n]) { load_numbers<n>(row != nullptr ? row + at : args.x + offset + at, v); };
    const bool is_behind = args.behind.is == NormLaunchArgs::Behind::Is::there;
    RowScale behind = {0, 1};
    if (is_behind) {
        float total = 0;
        for (int at = first; at < width; at += step) {
            float v[n];
            input(at, v);
            total = add_up<n>(args.behind.kind, v, total);
        }
        behind = row_scale<n>(args.behind.kind, args.behind.eps, width, first, step, total, scratch, input);
    }
    const auto numbers = [&](int at, float (&v)[n]) {
        input(at, v);
        if (is_behind) scale_numbers<n>(v, behind, args.behind.weight != nullptr ? args.behind.weight + at : nullptr, args.behind.bias != nullptr ? args.behind.bias + at : nullptr);
        if (args.residual == nullptr) return;
        float more[n];
        load_numbers<n>(args.residual + offset + at, more);
#pragma unroll
        for (int i = 0; i < n; ++i) v[i] += more[i];
    };
    float total = 0;
    for (int at = first; at < width; at += step) {
        float v[n];
        numbers(at, v);
        if (args.sum != nullptr) store_numbers<n>(args.sum + offset + at, v);
        if (row != nullptr) store_numbers<n>(row + at, v);
        total = add_up<n>(args.kind, v, total);
    }
    if (args.y == nullptr && p.operand.data == nullptr) return;  // the same for all threads
    const auto values = [&](int at, float (&v)[n]) {
        if (row != nullptr) load_numbers<n>(row + at, v);
        else if (args.sum != nullptr) load_numbers<n>(args.sum + offset + at, v);
        else numbers(at, v);
    };
    const RowScale of_row = row_scale<n>(args.kind, args.eps, width, first, step, total, scratch, values);
    for (int at = first; at < width; at += step) {
        float v[n];
        values(at, v);
        if (p.second.data != nullptr) {
            float other[n];
#pragma unroll
            for (int i = 0; i < n; ++i) other[i] = v[i];
            scale_numbers<n>(other, of_row, args.second_weight != nullptr ? args.second_weight + at : nullptr, args.second_bias != nullptr ? args.second_bias + at : nullptr);
            put_numbers<n>(p.second, token, at, other);
        }
        scale_numbers<n>(v, of_row, args.weight != nullptr ? args.weight + at : nullptr, args.bias != nullptr ? args.bias + at : nullptr);
        if (args.y != nullptr) store_numbers<n>(args.y + token * args.y_stride + group * width + at, v);
        if (p.operand.data != nullptr) put_numbers<n>(p.operand, token, group * width + at, v);
    }
}

}  // namespace skiff::cuda
