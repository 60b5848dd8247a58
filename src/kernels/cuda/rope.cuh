// Norm and rotation of a head, and how it is written as a row of the state, for the kernel that does no more (rope_write.cu) and for attention that does it itself (decode_rope.cuh): both give the same
// bits. A warp has a head, each lane dimensions lane, lane + 32, ...; those behind head_dim are zero.
#pragma once

#include "kernels/cuda/attention.cuh"

namespace skiff::cuda {

template <int n>
__device__ __forceinline__ void read_head(const float* x, int d, int lane, float (&v)[n]) {
#pragma unroll
    for (int j = 0; j < n; ++j) v[j] = lane + j * lanes < d ? x[lane + j * lanes] : 0.0f;
}

template <int n>
__device__ __forceinline__ void norm_head(const float* weight, float eps, int d, int lane, float (&v)[n]) {
    float squares = 0;
#pragma unroll
    for (int j = 0; j < n; ++j) squares = fmaf(v[j], v[j], squares);
    const float scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(d) + eps);
#pragma unroll
    for (int j = 0; j < n; ++j)
        if (lane + j * lanes < d) v[j] *= scale * weight[lane + j * lanes];
}

// What a dimension becomes: itself * cosine + its partner * sine.
struct Turn {
    float cosine, sine;
};
// cos and sin of a float angle of any size, without the slow path that needs a stack: turns in double, then within half a turn.
__device__ __forceinline__ Turn turn_of(const RopeWriteArgs& args, int position, int dim) {
    const bool by_half = args.style == RopeStyle::half;
    const int half = static_cast<int>(args.rotary_dim) / 2, frequency = by_half ? (dim < half ? dim : dim - half) : dim / 2;
    const bool first = by_half ? dim < half : dim % 2 == 0;
    const double turns = static_cast<double>(static_cast<float>(position) * args.inv_freq[frequency]) * 0.15915494309189533577;
    float cosine, sine;
    sincospif(2.0f * static_cast<float>(turns - rint(turns)), &sine, &cosine);
    cosine *= args.magnitude, sine *= args.magnitude;
    return {cosine, first ? -sine : sine};
}
// `row`: shared memory of the warp's own. turn(dim): of a dimension below rotary_dim.
template <int n, class TurnOf>
__device__ __forceinline__ void turn_head(const RopeWriteArgs& args, const TurnOf& turn, float* row, int d, int lane, float (&v)[n]) {
    const int rotary = min(static_cast<int>(args.rotary_dim), d), half = static_cast<int>(args.rotary_dim) / 2;
    __syncwarp();
#pragma unroll
    for (int j = 0; j < n; ++j)
        if (lane + j * lanes < d) row[lane + j * lanes] = v[j];
    __syncwarp();
#pragma unroll
    for (int j = 0; j < n; ++j) {
        const int dim = lane + j * lanes;
        if (dim >= rotary) continue;
        const int partner = args.style == RopeStyle::half ? (dim < half ? dim + half : dim - half) : dim ^ 1;
        const Turn by = turn(dim);
        v[j] = fmaf(v[j], by.cosine, row[partner] * by.sine);
    }
    __syncwarp();
}

// A head as the state has it: its numbers at `bytes`, its scales at `scales`. `row` as above.
template <int n>
__device__ __forceinline__ void write_state(const PageLayout& page, unsigned char* bytes, unsigned short* scales, float* row, int lane, float (&v)[n]) {
    const int d = page.head_dim;
    if (page.form == StateForm::bf16) {
#pragma unroll
        for (int j = 0; j < n; ++j)
            if (lane + j * lanes < d) reinterpret_cast<unsigned short*>(bytes)[lane + j * lanes] = static_cast<unsigned short>(float_bf16(v[j]));
    } else if (page.form == StateForm::fp8) {
#pragma unroll
        for (int j = 0; j < n; ++j)
            if (lane + j * lanes < d) bytes[state_byte8(lane + j * lanes)] = static_cast<unsigned char>(float_e4m3(v[j]));
    } else if (page.form == StateForm::int8) {
        float largest = 0;
#pragma unroll
        for (int j = 0; j < n; ++j) largest = fmaxf(largest, fabsf(v[j]));
        const StoredScale scale = stored_scale(warp_max(largest) / 127.0f);
        if (lane == 0) scales[0] = static_cast<unsigned short>(scale.bits);
#pragma unroll
        for (int j = 0; j < n; ++j)
            if (lane + j * lanes < d) bytes[state_byte8(lane + j * lanes)] = static_cast<unsigned char>(state_code(v[j], scale.inverse, -127, 127));
    } else {
#pragma unroll
        for (int j = 0; j < n; ++j)
            if (lane + j * lanes < d) row[lane + j * lanes] = v[j];
        rotate(row, d, lane);
#pragma unroll
        for (int j = 0; j < n; ++j) {
            if (j * lanes >= d) break;  // groups of 32 dimensions: head_dim is a multiple
            const float x = row[lane + j * lanes], highest = warp_max(x), lowest = -warp_max(-x);
            const StoredScale scale = stored_scale((fmaxf(highest, 0.0f) >= -fminf(lowest, 0.0f) ? fmaxf(highest, 0.0f) : fminf(lowest, 0.0f)) / -8.0f);
            if (lane == 0) scales[j] = static_cast<unsigned short>(scale.bits);
            const int code = state_code(x, scale.inverse, -8, 7) + 8, other = __shfl_down_sync(0xffffffffu, code, 2);
            if (lane % 4 < 2) bytes[state_nibble4(lane + j * lanes) / 2] = static_cast<unsigned char>(code | other << 4);  // dimensions d and d + 2 share a byte
        }
    }
}

}  // namespace skiff::cuda
