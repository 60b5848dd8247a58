// Attention of many tokens, in the manner of FlashAttention-2 (Dao 2023): a block has 64 tokens of one head, 16 for each warp; keys and values come in tiles of 64 positions (32 for
// heads beyond 128) through two stages of shared memory; scores and weights stay in registers. Operands bf16, sums f32.
#pragma once

#include "kernels/cuda/attention.cuh"

namespace skiff::cuda {

struct PrefillParams {
    AttentionParams attention;
    const PrefillTile* tiles = nullptr;
    int n_tiles = 0, group = 1;
};

constexpr int prefill_warps = 4;
constexpr int prefill_keys(int head_dim) { return head_dim > 128 ? 32 : 64; }
constexpr int prefill_stage_bytes(int head_dim) { return 2 * prefill_keys(head_dim) * head_dim * 2; }  // keys, then values
constexpr int prefill_q_bytes(int head_dim) { return static_cast<int>(prefill_tile_tokens) * head_dim * 2; }

template <int head_dim, bool is_bf16>
__global__ void __launch_bounds__(prefill_warps* lanes) prefill_attention_kernel(const __grid_constant__ PrefillParams p) {
    constexpr int n_keys = prefill_keys(head_dim), n_threads = prefill_warps * lanes, n_chunks = head_dim / 8, stage_bytes = prefill_stage_bytes(head_dim), n_tokens = static_cast<int>(prefill_tile_tokens);
    constexpr bool q_in_registers = head_dim <= 128;
    SKIFF_SHARED_MEMORY(shared);
    unsigned char* q_tile = shared;
    unsigned char* stages = shared + prefill_q_bytes(head_dim);
    auto* floats = reinterpret_cast<float*>(stages);  // (64, head_dim): q or y of a rotated state, while the stages are not in use
    const int warp = threadIdx.x / lanes, lane = threadIdx.x % lanes, g = lane / 4, t = lane % 4;
    const AttentionCommon& common = p.attention.common;
    const PageLayout& page = p.attention.page;
    const int d = page.head_dim;
    wait_for_predecessor();
    let_successor_start();

    // The longest tiles (the last of a causal prompt) first, so that none of them begins when the others end.
    const PrefillTile tile = p.tiles[p.n_tiles - 1 - static_cast<int>(blockIdx.y)];
    const std::int64_t head = blockIdx.x, kv_head = head / p.group;
    const int query0 = tile.first_position, last_query = query0 + tile.n_tokens - 1, window = static_cast<int>(common.window);
    const int end = common.mask == AttentionMask::none ? common.lengths[tile.sequence] : last_query + 1;
    const int first = window > 0 && query0 - window + 1 > 0 ? query0 - window + 1 : 0;
    const int first_tile = first / n_keys, end_tile = end > first ? (end + n_keys - 1) / n_keys : first_tile;
    const auto* page_table = common.state.page_table + static_cast<std::int64_t>(tile.sequence) * common.state.max_pages;
    const unsigned char* const pools[2] = {static_cast<const unsigned char*>(common.state.keys), static_cast<const unsigned char*>(common.state.values)};
    const int raw_chunks = page.row_bytes / 16;

    const bool rotated = !is_bf16 && page.form == StateForm::int4;
    const auto q_of = [&](int row, int dim) { return row < tile.n_tokens && dim < d ? common.q[(tile.first_token + row) * common.q_stride + head * d + dim] : 0.0f; };
    if (rotated) {
        for (int i = threadIdx.x; i < n_tokens * head_dim; i += n_threads) floats[i] = q_of(i / head_dim, i % head_dim);
        __syncthreads();
        for (int row = warp; row < n_tokens; row += prefill_warps) rotate(floats + row * head_dim, d, lane);
        __syncthreads();
    }
    for (int i = threadIdx.x; i < n_tokens * head_dim / 2; i += n_threads) {
        const int row = i / (head_dim / 2), dim = i % (head_dim / 2) * 2;
        const std::uint32_t both = rotated ? pack_bf16x2(floats[row * head_dim + dim], floats[row * head_dim + dim + 1]) : pack_bf16x2(q_of(row, dim), q_of(row, dim + 1));
        *reinterpret_cast<std::uint32_t*>(q_tile + tile_chunk<head_dim>(row, dim / 8) + dim % 8 * 2) = both;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * stage_bytes / 16; i += n_threads) reinterpret_cast<uint4*>(stages)[i] = make_uint4(0, 0, 0, 0);  // dimensions that no copy fills
    __syncthreads();

    const auto bring = [&](int number, int stage) {
        const int at = number * n_keys;
        const std::int64_t page_number = page_table[at / page_positions];
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            unsigned char* target = stages + stage * stage_bytes + part * (stage_bytes / 2);
            const unsigned char* rows = pools[part] + page.row(page_number, kv_head, at % page_positions);
            if constexpr (is_bf16) {
                const std::uint32_t address = shared_address(target);
#pragma unroll
                for (int i = 0; i < n_keys * n_chunks / n_threads; ++i) {
                    const int item = static_cast<int>(threadIdx.x) + i * n_threads, row = item / n_chunks, chunk = item % n_chunks;
                    if (chunk < raw_chunks) copy_async16(address + tile_chunk<head_dim>(row, chunk), rows + row * page.row_bytes + chunk * 16, at + row < end ? 16 : 0);
                }
            } else {
                const auto* scales = reinterpret_cast<const unsigned short*>(pools[part] + page.scale(page_number, kv_head, at % page_positions));
                for (int item = threadIdx.x; item < n_keys * raw_chunks; item += n_threads) {
                    const int row = item / raw_chunks, chunk = item - row * raw_chunks;
                    uint4 raw = make_uint4(0, 0, 0, 0);
                    float scale = 0;
                    if (at + row < end) {
                        raw = *reinterpret_cast<const uint4*>(rows + static_cast<std::int64_t>(item) * 16);
                        if (page.n_groups > 0) scale = f16_float(scales[row * page.n_groups + (page.form == StateForm::int4 ? chunk : 0)]);
                    }
                    expand_chunk<head_dim>(page.form, raw, scale, target, row, chunk);
                }
            }
        }
    };

    const int q_row = warp * 16 + lane / 8 % 2 * 8 + lane % 8;
    std::uint32_t q[q_in_registers ? head_dim / 16 : 1][4];
    if constexpr (q_in_registers) {
#pragma unroll
        for (int k = 0; k < head_dim / 16; ++k) load_matrices(q[k], shared_address(q_tile + tile_chunk<head_dim>(q_row, 2 * k + lane / 16)));
    }

    float output[head_dim / 8][4] = {}, largest[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
    const float slope = common.alibi_slopes != nullptr ? common.alibi_slopes[head] : 0.0f, plain_scale = common.scale * log2_e;
    const bool is_plain = !(common.softcap > 0) && common.alibi_slopes == nullptr;
    const int queries[2] = {query0 + warp * 16 + g, query0 + warp * 16 + g + 8};
    if (first_tile < end_tile) bring(first_tile, 0);
    copy_commit();
    for (int number = first_tile; number < end_tile; ++number) {
        const int stage = (number - first_tile) & 1;
        if (number + 1 < end_tile) bring(number + 1, stage ^ 1);
        copy_commit();
        copy_wait<1>();
        __syncthreads();
        const unsigned char* here = stages + stage * stage_bytes;
        const std::uint32_t keys = shared_address(here), values = shared_address(here + stage_bytes / 2);
        const int at = number * n_keys;

        float scores[n_keys / 8][4] = {};
        const auto multiply_keys = [&](int k) {
            std::uint32_t a[4];
            if constexpr (q_in_registers) {
#pragma unroll
                for (int i = 0; i < 4; ++i) a[i] = q[k][i];
            } else {
                load_matrices(a, shared_address(q_tile + tile_chunk<head_dim>(q_row, 2 * k + lane / 16)));
            }
#pragma unroll
            for (int pair = 0; pair < n_keys / 16; ++pair) {
                std::uint32_t b[4];
                load_matrices(b, keys + tile_chunk<head_dim>(16 * pair + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
                multiply_add(scores[2 * pair], a, b[0], b[1]);
                multiply_add(scores[2 * pair + 1], a, b[2], b[3]);
            }
        };
        if constexpr (q_in_registers) {
#pragma unroll
            for (int k = 0; k < head_dim / 16; ++k) multiply_keys(k);
        } else {  // all at once would take more registers than there are (sm_120)
#pragma unroll 4
            for (int k = 0; k < head_dim / 16; ++k) multiply_keys(k);
        }
        // Only tiles at an edge need a look at each pair of positions.
        const bool causal = common.mask == AttentionMask::causal;
        const bool inside = at + n_keys <= end && (!causal || at + n_keys - 1 <= query0) && (window <= 0 || at > last_query - window);
        float highest[2] = {-INFINITY, -INFINITY};
#pragma unroll
        for (int n = 0; n < n_keys / 8; ++n)
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                const int key = at + 8 * n + 2 * t + c % 2, query = queries[c / 2];
                float score = is_plain ? scores[n][c] * plain_scale : finished_score(common, scores[n][c], key, query, slope);
                if (!inside && !(key < end && (!causal || key <= query) && (window <= 0 || key > query - window))) score = -INFINITY;
                scores[n][c] = score;
                highest[c / 2] = fmaxf(highest[c / 2], score);
            }
        float base[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            highest[i] = fmaxf(highest[i], __shfl_xor_sync(0xffffffffu, highest[i], 1));
            highest[i] = fmaxf(highest[i], __shfl_xor_sync(0xffffffffu, highest[i], 2));
            const float next = fmaxf(largest[i], highest[i]);
            base[i] = next == -INFINITY ? 0.0f : next;
            const float shrink = exp2_fast(largest[i] - base[i]);
            largest[i] = next;
            total[i] *= shrink;
#pragma unroll
            for (int n = 0; n < head_dim / 8; ++n) output[n][2 * i] *= shrink, output[n][2 * i + 1] *= shrink;
        }
#pragma unroll
        for (int k = 0; k < n_keys / 16; ++k) {
            std::uint32_t a[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {  // registers 0 and 1: rows g and g + 8 of the first eight keys; 2 and 3 of the next
                const float x = exp2_fast(scores[2 * k + i / 2][i % 2 * 2] - base[i % 2]), y = exp2_fast(scores[2 * k + i / 2][i % 2 * 2 + 1] - base[i % 2]);
                total[i % 2] += x + y;
                a[i] = pack_bf16x2(x, y);
            }
#pragma unroll
            for (int pair = 0; pair < head_dim / 16; ++pair) {
                std::uint32_t b[4];
                load_matrices_transposed(b, values + tile_chunk<head_dim>(16 * k + lane / 8 % 2 * 8 + lane % 8, 2 * pair + lane / 16));
                multiply_add(output[2 * pair], a, b[0], b[1]);
                multiply_add(output[2 * pair + 1], a, b[2], b[3]);
            }
        }
        __syncthreads();  // the stage is filled anew in the next round
    }
    copy_wait<0>();

    float factor[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        total[i] += __shfl_xor_sync(0xffffffffu, total[i], 1);
        total[i] += __shfl_xor_sync(0xffffffffu, total[i], 2);
        if (common.sinks != nullptr) {
            const float sink = common.sinks[head] * log2_e, next = fmaxf(largest[i], sink), shrink = exp2_fast(largest[i] - next);
            total[i] = total[i] * shrink + exp2_fast(sink - next);
            factor[i] = shrink / total[i];
        } else {
            factor[i] = total[i] > 0 ? 1.0f / total[i] : 0.0f;
        }
    }
    const auto write = [&](int row, int dim, float first_value, float second_value) {
        if (row >= tile.n_tokens || dim >= d) return;
        const std::int64_t token = tile.first_token + row, column = head * d + dim;
        if (common.y != nullptr) {
            common.y[token * common.y_stride + column] = first_value;
            common.y[token * common.y_stride + column + 1] = second_value;
        }
        if (p.attention.operand.data != nullptr) p.attention.operand.put_pair(token, column, first_value, second_value);
    };
    if (!rotated) {
#pragma unroll
        for (int n = 0; n < head_dim / 8; ++n)
#pragma unroll
            for (int i = 0; i < 2; ++i) write(warp * 16 + g + 8 * i, 8 * n + 2 * t, output[n][2 * i] * factor[i], output[n][2 * i + 1] * factor[i]);
        return;
    }
    __syncthreads();
#pragma unroll
    for (int n = 0; n < head_dim / 8; ++n)
#pragma unroll
        for (int c = 0; c < 4; ++c) floats[(warp * 16 + g + c / 2 * 8) * head_dim + 8 * n + 2 * t + c % 2] = output[n][c] * factor[c / 2];
    __syncwarp();  // a warp's rows are its own
    for (int row = warp * 16; row < warp * 16 + 16; ++row) rotate(floats + row * head_dim, d, lane);
    for (int i = lane; i < 16 * head_dim / 2; i += lanes) {
        const int row = warp * 16 + i / (head_dim / 2), dim = i % (head_dim / 2) * 2;
        write(row, dim, floats[row * head_dim + dim], floats[row * head_dim + dim + 1]);
    }
}

template <int head_dim, bool is_bf16>
int launch_prefill_attention_of(const PrefillAttentionArgs& args, const Launch& launch) {
    PrefillParams p;
    p.attention = attention_params(args.common);
    p.tiles = args.tiles;
    p.n_tiles = static_cast<int>(args.n_tiles);
    p.group = static_cast<int>(args.common.n_heads / args.common.state.n_kv_heads);
    return launch_kernel<PrefillParams>(prefill_attention_kernel<head_dim, is_bf16>, dim3(static_cast<unsigned>(args.common.n_heads), static_cast<unsigned>(args.n_tiles)), dim3(prefill_warps * lanes),
                                        static_cast<std::size_t>(prefill_q_bytes(head_dim) + 2 * prefill_stage_bytes(head_dim)), launch, p);
}

}  // namespace skiff::cuda
