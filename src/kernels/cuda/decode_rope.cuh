// What stands between the product of q, k and v and attention (RopeWriteArgs), done by the blocks of decode attention: each turns its own queries, and those that have the newest position turn its key and
// keep both rows, in the state and, for themselves, here. What depends on nothing but the position is ready before the product is.
#pragma once

#include "kernels/cuda/decode_merge.cuh"
#include "kernels/cuda/rope.cuh"

namespace skiff::cuda {

// A row of the state with its scales, of keys and of values.
constexpr int decode_fresh_stride(int head_dim) { return 2 * head_dim + 16; }
constexpr int decode_fresh_bytes(int head_dim) { return 2 * decode_fresh_stride(head_dim); }

template <int head_dim>
struct DecodeRope {
    static constexpr int n_warps = decode_warps(head_dim), n_threads = n_warps * lanes, per_lane = head_dim / lanes;
    const DecodeParams& p;
    float *space, *heads;  // where fragments of q will be: (6, head_dim): cosines, sines, norms of q and of k, a key, a value; (8, head_dim)
    unsigned char* fresh;

    __device__ __forceinline__ unsigned short* fresh_scales(int part) const { return reinterpret_cast<unsigned short*>(fresh + part * decode_fresh_stride(head_dim) + p.attention.page.row_bytes); }

    // Before the kernel in front has ended.
    __device__ __forceinline__ void prepare(int position) const {
        static_assert(6 * head_dim * 4 <= decode_q_bytes(head_dim));
        const RopeWriteArgs& rope = p.rope;
        const int d = p.attention.page.head_dim;
        for (int dim = threadIdx.x; dim < d; dim += n_threads) {
            if (rope.inv_freq != nullptr && dim < rope.rotary_dim) {
                const Turn turn = turn_of(rope, position, dim);
                space[dim] = turn.cosine, space[head_dim + dim] = turn.sine;
            }
            if (rope.q_norm != nullptr) space[2 * head_dim + dim] = rope.q_norm[dim];
            if (rope.k_norm != nullptr) space[3 * head_dim + dim] = rope.k_norm[dim];
        }
    }

    struct Newest {
        bool is_here, keeps;  // whether this block has the newest position; whether it is the one that writes it into the state
        std::int64_t page, in_page;
    };
    // Once all threads have met, `heads` has the queries.
    __device__ __forceinline__ void take(std::int64_t token, std::int64_t kv_head, std::int64_t first_head, int n_heads, const Newest& newest) const {
        const RopeWriteArgs& rope = p.rope;
        const AttentionCommon& common = p.attention.common;
        const PageLayout& page = p.attention.page;
        const int d = page.head_dim, warp = threadIdx.x / lanes, lane = threadIdx.x % lanes, n_items = newest.is_here ? 10 : 8;
        const auto row_of = [&](int item) { return item < 8 ? heads + item * head_dim : space + (item - 4) * head_dim; };
        // All of a warp's heads at once: this is what the block has waited for.
        constexpr int per_warp = (10 + n_warps - 1) / n_warps;
        float x[per_warp][per_lane];
#pragma unroll
        for (int i = 0; i < per_warp; ++i) {
            const int item = warp + i * n_warps;
            const float* q = common.q + token * common.q_stride + (first_head + item) * d;
            const float* kept = rope.qkv + token * rope.qkv_stride + (item == 8 ? rope.k_offset : rope.v_offset) + kv_head * d;
            read_head(item < 8 ? q : kept, item < n_heads || (item >= 8 && item < n_items) ? d : 0, lane, x[i]);
        }
#pragma unroll
        for (int i = 0; i < per_warp; ++i)
            if (warp + i * n_warps < 10)
#pragma unroll
                for (int j = 0; j < per_lane; ++j) row_of(warp + i * n_warps)[lane + j * lanes] = x[i][j];
        __syncthreads();  // what prepare() left is there
#pragma unroll 1
        for (int item = warp; item < n_items; item += n_warps) {
            if (item >= n_heads && item < 8) continue;  // whole warps
            float* row = row_of(item);
            float v[per_lane];
            read_head(row, d, lane, v);
            const bool is_query = item < 8, changes = is_query ? rope.n_heads > 0 : item == 8;
            const float* norm = is_query ? rope.q_norm : rope.k_norm;
            if (changes && norm != nullptr) norm_head(space + (is_query ? 2 : 3) * head_dim, rope.norm_eps, d, lane, v);
            if (changes && rope.inv_freq != nullptr) turn_head(rope, [&](int dim) { return Turn{space[dim], space[head_dim + dim]}; }, row, d, lane, v);
            if (is_query) {
#pragma unroll
                for (int j = 0; j < per_lane; ++j) row[lane + j * lanes] = v[j];
                if (page.form == StateForm::int4) rotate(row, d, lane);
                continue;
            }
            const int part = item - 8;
            unsigned char* bytes = fresh + part * decode_fresh_stride(head_dim);
            __syncwarp();
            write_state(page, bytes, fresh_scales(part), row, lane, v);
            __syncwarp();
            if (!newest.keeps) continue;
            auto* pool = static_cast<unsigned char*>(part == 0 ? common.state.keys : common.state.values);
            if (lane < page.row_bytes / 16) reinterpret_cast<uint4*>(pool + page.row(newest.page, kv_head, newest.in_page))[lane] = reinterpret_cast<const uint4*>(bytes)[lane];
            if (lane < page.n_groups) reinterpret_cast<unsigned short*>(pool + page.scale(newest.page, kv_head, newest.in_page))[lane] = fresh_scales(part)[lane];
        }
    }

    // Both rows into a tile as it was copied: bf16 rows as they are multiplied, coded ones behind one another with their scales behind all. By the warp whose tile it is.
    template <bool is_bf16>
    __device__ __forceinline__ void put(unsigned char* slot, int part_bytes, int in_tile) const {
        const PageLayout& page = p.attention.page;
        const int raw_chunks = page.row_bytes / 16, lane = threadIdx.x % lanes;
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            unsigned char* tile = slot + part * part_bytes;
            if (lane < raw_chunks)
                *reinterpret_cast<uint4*>(tile + (is_bf16 ? tile_chunk<head_dim>(in_tile, lane) : in_tile * page.row_bytes + lane * 16)) = reinterpret_cast<const uint4*>(fresh + part * decode_fresh_stride(head_dim))[lane];
            if (lane < page.n_groups) reinterpret_cast<unsigned short*>(tile + decode_tile * page.row_bytes)[in_tile * page.n_groups + lane] = fresh_scales(part)[lane];
        }
        __syncwarp();
    }
};

}  // namespace skiff::cuda
