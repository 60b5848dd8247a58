// What the attention kernels share: parameters, scores, rows of the state in shared memory, the rotation of int4 heads.
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/state_format.h"

namespace skiff::cuda {

struct AttentionParams {
    AttentionCommon common;
    PageLayout page;
    OperandTarget operand;
};
inline AttentionParams attention_params(const AttentionCommon& common) { return {common, page_layout(common.state), target_of(common.operand)}; }

constexpr float log2_e = 1.4426950408889634f;

// A score as the exponent of two that softmax takes: scaled, capped, with ALiBi. Masked ones are -infinity.
__device__ __forceinline__ float finished_score(const AttentionCommon& common, float product, int key, int query, float slope) {
    float score = product * common.scale;
    if (common.softcap > 0) score = common.softcap * tanhf(score / common.softcap);
    if (common.alibi_slopes != nullptr) score += slope * static_cast<float>(key - query);
    return score * log2_e;
}

// A tile of bf16 rows in shared memory: row r has its 16-byte chunk c at c ^ (r % 8), so that eight rows of a matrix lie in different banks.
template <int head_dim>
__device__ __forceinline__ int tile_chunk(int row, int chunk) {
    return (row * (head_dim / 8) + (chunk ^ (row & 7))) * 16;
}

// One row's raw 16 bytes (chunk `chunk` of the raw row) as bf16 into a tile.
template <int head_dim>
__device__ __forceinline__ void expand_chunk(StateForm form, uint4 raw, float scale, unsigned char* tile, int row, int chunk) {
    const std::uint32_t four[4] = {raw.x, raw.y, raw.z, raw.w};
    std::uint32_t words[16];
    expand_state(form, four, scale, words);
    const int n = form == StateForm::int4 ? 4 : 2;
    for (int i = 0; i < n; ++i) *reinterpret_cast<uint4*>(tile + tile_chunk<head_dim>(row, chunk * n + i)) = make_uint4(words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]);
}

// The Walsh-Hadamard transform of rotate_head (kernels/state_layout.h) on shared memory, by one warp.
__device__ inline void rotate(float* x, int head_dim, int lane) {
    for (int begin = 0; begin < head_dim;) {
        int n = 1;
        while (n * 2 <= head_dim - begin) n *= 2;
        for (int half = 1; half < n; half *= 2) {
            __syncwarp();
            for (int i = lane; i < n / 2; i += lanes) {
                const int at = begin + i / half * 2 * half + i % half;
                const float a = x[at], b = x[at + half];
                x[at] = a + b;
                x[at + half] = a - b;
            }
        }
        __syncwarp();
        const float factor = 1.0f / sqrtf(static_cast<float>(n));
        for (int i = lane; i < n; i += lanes) x[begin + i] *= factor;
        begin += n;
    }
    __syncwarp();
}

}  // namespace skiff::cuda
