// Parameters of decode attention and its end: the warps' softmaxes of a block become one, those of the splits become the result.
#pragma once

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/tuning.h"

namespace skiff::cuda {

struct DecodeParams {
    AttentionParams attention;
    RopeWriteArgs rope;           // qkv null: keys and values of the run are in the state
    std::int64_t n_splits = 1;
    float* partials = nullptr;   // (n_tokens, n_heads, n_splits, head_dim), then (n_tokens, n_heads, n_splits, 2): largest exponent, sum
    float* partial_sums = nullptr;
    std::int32_t* arrivals = nullptr;
    int slot_bytes = 0;           // of a warp's ring
    int rings_bytes = 0;          // of all
    int group = 1, n_chunks = 1;  // query heads of a KV head; blocks of eight of them
};

constexpr int decode_tile = 16, decode_stages = 2;
constexpr int decode_warps(int head_dim) { return head_dim > 128 ? 2 : 4; }
// In bytes: fragments of q, eight heads as floats, then the warps' rings (and expanded tiles).
constexpr int decode_q_bytes(int head_dim) { return head_dim / 16 * 512; }
constexpr int decode_heads_bytes(int head_dim) { return 8 * head_dim * 4; }
constexpr int decode_tile_bytes(int head_dim) { return 2 * decode_tile * head_dim * 2; }
// A warp's eight heads lie one after another, apart so that their numbers are in different banks; then largest exponent and sum of each.
constexpr int decode_merge_stride(int head_dim) { return head_dim + 8; }
constexpr int decode_merge_bytes(int head_dim) { return decode_warps(head_dim) * 8 * (decode_merge_stride(head_dim) + 2) * 4; }

// What a block has of the work.
struct DecodePlace {
    std::int64_t token, kv_head, first_head;
    int n_heads, split, n_active;  // n_active: splits that have positions
};

// By all threads of a block. Nothing of the rings or of q is used any more.
template <int head_dim>
struct DecodeMerge {
    static constexpr int n_warps = decode_warps(head_dim), n_threads = n_warps * lanes, stride = decode_merge_stride(head_dim);
    const DecodeParams& p;
    const DecodePlace& place;
    float *weights, *heads, *space;  // where fragments of q were, the eight heads, where the rings were

    __device__ __forceinline__ float sink_of(std::int64_t head) const { return p.attention.common.sinks != nullptr ? p.attention.common.sinks[head] * log2_e : -INFINITY; }
    __device__ __forceinline__ float* sums() const { return space + n_warps * 8 * stride; }

    // A warp's own: fragments of the tensor core, both parts.
    __device__ __forceinline__ void take(const float (&output)[head_dim / 8][4], float largest, float total) const {
        const int warp = threadIdx.x / lanes, g = threadIdx.x % lanes / 4, t = threadIdx.x % 4;
        float* row = space + (warp * 8 + g) * stride + 2 * t;
#pragma unroll
        for (int n = 0; n < head_dim / 8; ++n)
#pragma unroll
            for (int e = 0; e < 2; ++e) row[8 * n + e] = output[n][e] + output[n][e + 2];
        if (t == 0) sums()[(warp * 8 + g) * 2] = largest, sums()[(warp * 8 + g) * 2 + 1] = total;
    }

    // The result, where this block has all positions; else this split's part of it.
    __device__ void add_warps() const {
        const int d = p.attention.page.head_dim;
        const bool is_whole = place.n_active == 1;
        for (int i = threadIdx.x; i < place.n_heads * (head_dim / 4); i += n_threads) {
            const int head = i / (head_dim / 4), dim = i % (head_dim / 4) * 4;
            if (dim >= d) continue;
            const float sink = is_whole ? sink_of(place.first_head + head) : -INFINITY;
            float most = sink;
#pragma unroll
            for (int w = 0; w < n_warps; ++w) most = fmaxf(most, sums()[(w * 8 + head) * 2]);
            const float base = most == -INFINITY ? 0.0f : most;
            float sum = 0;
            float4 value = make_float4(0, 0, 0, 0);
#pragma unroll
            for (int w = 0; w < n_warps; ++w) {
                const float weight = exp2_fast(sums()[(w * 8 + head) * 2] - base);
                const float4 four = *reinterpret_cast<const float4*>(space + (w * 8 + head) * stride + dim);
                sum += weight * sums()[(w * 8 + head) * 2 + 1];
                value.x += weight * four.x, value.y += weight * four.y, value.z += weight * four.z, value.w += weight * four.w;
            }
            if (is_whole) {
                sum += exp2_fast(sink - base);
                const float factor = sum > 0 ? 1.0f / sum : 0.0f;
                value.x *= factor, value.y *= factor, value.z *= factor, value.w *= factor;
                *reinterpret_cast<float4*>(heads + head * head_dim + dim) = value;
            } else {
                const std::int64_t part = (place.token * p.attention.common.n_heads + place.first_head + head) * p.n_splits + place.split;
                *reinterpret_cast<float4*>(p.partials + part * d + dim) = value;
                if (dim == 0) p.partial_sums[part * 2] = most, p.partial_sums[part * 2 + 1] = sum;
            }
        }
        if (is_whole) write_heads(place.first_head, place.n_heads);
    }

    // Everything of this block is visible before its arrival is. Whoever comes last sees what all others wrote.
    __device__ bool is_last() const {
        __shared__ int last;
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            std::int32_t* arrival = p.arrivals + place.token * p.attention.common.state.n_kv_heads + place.kv_head;
            last = atomicAdd(arrival, 1) + 1 == place.n_active * p.n_chunks ? 1 : 0;
            if (last != 0) *arrival = 0;
            __threadfence();
        }
        __syncthreads();
        return last != 0;
    }

    // Of all query heads of the KV head. The splits' numbers come in pieces as large as the rings were, all of a piece at once and beside the sums: their time is that of one read.
    __device__ void add_splits() const {
        const int d = p.attention.page.head_dim, n_active = place.n_active;
        for (int chunk = 0; chunk < p.n_chunks; ++chunk) {
            const std::int64_t head0 = place.kv_head * p.group + chunk * 8;
            const int count = min(8, p.group - chunk * 8), piece = min(n_active, p.rings_bytes / (count * d * 4));
            const float* parts = p.partials + (place.token * p.attention.common.n_heads + head0) * p.n_splits * d;
            for (int first = 0; first < n_active; first += piece) {
                const int n = min(piece, n_active - first);
                if (first > 0) __syncthreads();
                for (int head = 0; head < count; ++head) {
                    const float* source = parts + (head * p.n_splits + first) * d;
                    const std::uint32_t target = shared_address(space + head * piece * d);
                    for (int i = threadIdx.x; i < n * d / 4; i += n_threads) copy_async16(target + i * 16, source + i * 4);  // head_dim is a multiple of 8
                }
                copy_commit();
                if (first == 0) weigh_splits(head0, count);
                copy_wait<0>();
                __syncthreads();
                for (int i = threadIdx.x; i < count * (head_dim / 4); i += n_threads) {
                    const int head = i / (head_dim / 4), dim = i % (head_dim / 4) * 4;
                    if (dim >= d) continue;
                    float4 value = make_float4(0, 0, 0, 0);
                    if (first > 0) value = *reinterpret_cast<const float4*>(heads + head * head_dim + dim);
#pragma unroll 4
                    for (int s = 0; s < n; ++s) {
                        const float4 four = *reinterpret_cast<const float4*>(space + (head * piece + s) * d + dim);
                        const float weight = weights[head * decode_attention_max_splits + first + s];
                        value.x += weight * four.x, value.y += weight * four.y, value.z += weight * four.z, value.w += weight * four.w;
                    }
                    *reinterpret_cast<float4*>(heads + head * head_dim + dim) = value;
                }
            }
            write_heads(head0, count);
        }
    }

private:
    // The splits' weights: (8, decode_attention_max_splits).
    __device__ __forceinline__ void weigh_splits(std::int64_t head0, int count) const {
        static_assert(decode_attention_max_splits == 2 * lanes && 8 * decode_attention_max_splits * 4 <= decode_q_bytes(head_dim));
        constexpr int per_warp = 8 / n_warps;
        const int warp = threadIdx.x / lanes, lane = threadIdx.x % lanes;
        float largest[per_warp][2], sum_of[per_warp][2];
#pragma unroll
        for (int i = 0; i < per_warp; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int head = warp + i * n_warps, s = lane + half * lanes;
                uint2 both = make_uint2(float_bits(-INFINITY), 0);
                if (head < count && s < place.n_active)
                    both = __ldcg(reinterpret_cast<const uint2*>(p.partial_sums) + (place.token * p.attention.common.n_heads + head0 + head) * p.n_splits + s);
                largest[i][half] = bits_float(both.x), sum_of[i][half] = bits_float(both.y);
            }
#pragma unroll
        for (int i = 0; i < per_warp; ++i) {
            const int head = warp + i * n_warps;
            if (head >= count) break;  // whole warps
            const float sink = sink_of(head0 + head), most = fmaxf(sink, warp_max(fmaxf(largest[i][0], largest[i][1]))), base = most == -INFINITY ? 0.0f : most;
            const float first = exp2_fast(largest[i][0] - base), second = exp2_fast(largest[i][1] - base);
            const float sum = warp_sum(first * sum_of[i][0] + second * sum_of[i][1]) + exp2_fast(sink - base), factor = sum > 0 ? 1.0f / sum : 0.0f;
            weights[head * decode_attention_max_splits + lane] = first * factor;
            weights[head * decode_attention_max_splits + lanes + lane] = second * factor;
        }
    }

    // `heads` has the finished floats.
    __device__ void write_heads(std::int64_t head0, int count) const {
        const int d = p.attention.page.head_dim, warp = threadIdx.x / lanes, lane = threadIdx.x % lanes;
        const AttentionCommon& common = p.attention.common;
        __syncthreads();
        if (p.attention.page.form == StateForm::int4) {
            for (int head = warp; head < count; head += n_warps) rotate(heads + head * head_dim, d, lane);
            __syncthreads();
        }
        for (int i = threadIdx.x; i < count * head_dim; i += n_threads) {
            const int head = i / head_dim, dim = i % head_dim;
            if (dim >= d) continue;
            const std::int64_t column = (head0 + head) * d + dim;
            if (common.y != nullptr) common.y[place.token * common.y_stride + column] = heads[i];
            if (p.attention.operand.data != nullptr) p.attention.operand.put(place.token, column, heads[i]);
        }
        __syncthreads();
    }
};

}  // namespace skiff::cuda
