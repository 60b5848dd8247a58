// Attention of few tokens, bound by the bytes of keys and values. A block takes a KV head, up to eight of its query heads and one split of the positions; each warp streams
// tiles of 16 positions through its own ring of shared memory and keeps a softmax of its own, so that there is no barrier until the end.
// The tensor core's tile has 16 rows for eight heads: rows 0 .. 7 have the larger bf16 part of q (and of the softmax weights), rows 8 .. 15 the smaller one,
// so neither is rounded to 8 bits. Splits that had work are merged in order by the block that arrives last (decode_merge.cuh).
//
// A short context is bound by what waits for one another, not by bytes. So positions, pages and the tiles that earlier runs wrote are fetched while the kernel in front still runs (device.cuh says
// why they may be), a ring's whole length of them, and angles of the rotation computed (decode_rope.cuh), where each sequence of the run has one token; behind it come the queries, the products, the warps' merge, and with several splits an arrival and one more read of memory.
#pragma once

#include "kernels/cuda/decode_rope.cuh"

namespace skiff::cuda {

// `head_dim` is rounded up; dimensions behind the real one are zero. `turns`: with the rotation, which takes registers, so that an SM of an H200 holds two blocks instead of three.
template <int head_dim, bool is_bf16, bool turns>
__global__ void __launch_bounds__(decode_warps(head_dim) * lanes, decode_attention_waves) decode_attention_kernel(const __grid_constant__ DecodeParams p) {
    const int slot_bytes = p.slot_bytes;
    constexpr int n_warps = decode_warps(head_dim), n_threads = n_warps * lanes, n_chunks = head_dim / 8, tile_bytes = decode_tile_bytes(head_dim);
    SKIFF_SHARED_MEMORY(shared);
    auto* q_fragments = reinterpret_cast<uint4*>(shared);
    auto* heads = reinterpret_cast<float*>(shared + decode_q_bytes(head_dim));  // (8, head_dim)
    unsigned char* rings = shared + decode_q_bytes(head_dim) + decode_heads_bytes(head_dim) + decode_fresh_bytes(head_dim);
    const int warp_bytes = decode_stages * slot_bytes + (is_bf16 ? 0 : tile_bytes);
    const int warp = threadIdx.x / lanes, lane = threadIdx.x % lanes, g = lane / 4, t = lane % 4;
    unsigned char* ring = rings + warp * warp_bytes;
    const AttentionCommon& common = p.attention.common;
    const PageLayout& page = p.attention.page;
    const int d = page.head_dim;

    // What is read up to the wait lies past the L1, which may have older numbers.
    const std::int64_t token = blockIdx.z, kv_head = blockIdx.y / p.n_chunks, first_head = kv_head * p.group + blockIdx.y % p.n_chunks * 8;
    const int n_heads = static_cast<int>(min(static_cast<std::int64_t>(8), (kv_head + 1) * p.group - first_head));
    const std::int64_t sequence = common.tokens.sequences != nullptr ? __ldcg(common.tokens.sequences + token) : token;
    const int position = __ldcg(common.tokens.positions + token), window = static_cast<int>(common.window);
    const DecodeRope<head_dim> rope = {p, reinterpret_cast<float*>(shared), heads, rings - decode_fresh_bytes(head_dim)};
    int end = position + 1;
    int settled = end - static_cast<int>(common.tokens.n_tokens);  // positions before it are not of this run, whose tokens of a sequence follow one another
    if (common.mask == AttentionMask::none) {
        wait_for_predecessor();
        end = common.lengths[sequence], settled = 0;
    }
    const int first = window > 0 && position - window + 1 > 0 ? position - window + 1 : 0;
    const int first_tile = first / decode_tile, n_tiles = end > first ? (end + decode_tile - 1) / decode_tile - first_tile : 0;
    constexpr int least_tiles = decode_attention_min_positions / decode_tile;
    const int n_splits = static_cast<int>(p.n_splits), even = (n_tiles + n_splits - 1) / n_splits, per_split = even > least_tiles ? even : least_tiles;
    const int n_active = n_tiles > per_split ? (n_tiles + per_split - 1) / per_split : 1, split = static_cast<int>(blockIdx.x);
    if (split >= n_active) {
        wait_for_predecessor();
        return;
    }
    const int begin_tile = first_tile + split * per_split, end_tile = first_tile + min(n_tiles, (split + 1) * per_split);

    // Dimensions that no copy fills stay zero.
    if (d < head_dim) {
        for (int i = lane; i < warp_bytes / 16; i += lanes) reinterpret_cast<uint4*>(ring)[i] = make_uint4(0, 0, 0, 0);
        __syncwarp();
    }
    // This warp's tiles: every n_warps-th. Each lane knows the page of one of the next 32.
    const auto* page_table = common.state.page_table + sequence * common.state.max_pages;
    const unsigned char* const pools[2] = {static_cast<const unsigned char*>(common.state.keys), static_cast<const unsigned char*>(common.state.values)};
    const int raw_chunks = page.row_bytes / 16, scale_bytes = decode_tile * page.n_groups * 2;
    const int copied_end = turns ? position : end, fresh_tile = position / decode_tile;
    int ahead = begin_tile + warp, n_ahead = 0;
    std::int32_t pages = 0;
    const auto copy_next = [&] {
        if (n_ahead % lanes == 0) {
            const int tile = ahead + lane * n_warps;
            pages = tile < end_tile ? __ldcg(page_table + tile / (page_positions / decode_tile)) : 0;
        }
        const std::int64_t number = __shfl_sync(0xffffffffu, pages, n_ahead % lanes);
        if (ahead < end_tile) {
            unsigned char* slot = ring + n_ahead % decode_stages * slot_bytes;
            const int at = ahead * decode_tile, in_page = at % static_cast<int>(page_positions);
#pragma unroll
            for (int part = 0; part < 2; ++part) {
                const unsigned char* rows = pools[part] + page.row(number, kv_head, in_page);
                if constexpr (is_bf16) {
                    const std::uint32_t target = shared_address(slot + part * (tile_bytes / 2));
                    constexpr int n_items = decode_tile * n_chunks / lanes;
                    const auto copy_item = [&](int i) {
                        const int item = lane + i * lanes, row = item / n_chunks, chunk = item % n_chunks;
                        if (chunk < raw_chunks) copy_async16(target + tile_chunk<head_dim>(row, chunk), rows + row * page.row_bytes + chunk * 16, at + row < copied_end ? 16 : 0);
                    };
                    if constexpr (head_dim > 128) {  // all at once would take more registers than there are (sm_120)
#pragma unroll 8
                        for (int i = 0; i < n_items; ++i) copy_item(i);
                    } else {
#pragma unroll
                        for (int i = 0; i < n_items; ++i) copy_item(i);
                    }
                } else {
                    const std::uint32_t target = shared_address(slot + part * (slot_bytes / 2));
                    for (int item = lane; item < decode_tile * raw_chunks; item += lanes) copy_async16(target + item * 16, rows + item * 16);  // rows are neighbours
                    const unsigned char* scales = pools[part] + page.scale(number, kv_head, in_page);
                    for (int byte = lane * 16; byte < scale_bytes; byte += lanes * 16) copy_async16(target + decode_tile * page.row_bytes + byte, scales + byte);
                }
            }
        }
        copy_commit();
        ahead += n_warps;
        ++n_ahead;
    };
#pragma unroll 1
    while (n_ahead < decode_stages && (turns || (ahead + 1) * decode_tile <= settled)) copy_next();
    if constexpr (turns) rope.prepare(position);  // a sequence has one token, whose rows no copy fetches
    wait_for_predecessor();
    let_successor_start();
#pragma unroll 1
    while (n_ahead < decode_stages) copy_next();

    // q: floats, rotated where the state is, then both parts as the tensor core's first operand.
    if constexpr (turns) {
        const bool is_here = fresh_tile < end_tile;
        rope.take(token, kv_head, first_head, n_heads, {is_here, is_here && blockIdx.y % p.n_chunks == 0, is_here ? __ldcg(page_table + position / page_positions) : 0, position % page_positions});
    } else {
#pragma unroll 8
        for (int i = threadIdx.x; i < 8 * head_dim; i += n_threads) {
            const int head = i / head_dim, dim = i % head_dim;
            heads[i] = head < n_heads && dim < d ? common.q[token * common.q_stride + (first_head + head) * d + dim] : 0.0f;
        }
        if (page.form == StateForm::int4) {
            __syncthreads();
            for (int head = warp; head < n_heads; head += n_warps) rotate(heads + head * head_dim, d, lane);
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < head_dim / 16 * lanes; i += n_threads) {
        const float* row = heads + i % lanes / 4 * head_dim + i / lanes * 16 + i % 4 * 2;
        const std::uint32_t x0 = split_bf16(row[0]), x1 = split_bf16(row[1]), x8 = split_bf16(row[8]), x9 = split_bf16(row[9]);
        q_fragments[i] = make_uint4(permute_bytes(x0, x1, 0x5410u), permute_bytes(x0, x1, 0x7632u), permute_bytes(x8, x9, 0x5410u), permute_bytes(x8, x9, 0x7632u));
    }
    __syncthreads();

    float output[head_dim / 8][4] = {}, largest = -INFINITY, total = 0;
    const float slope = common.alibi_slopes != nullptr && g < n_heads ? common.alibi_slopes[first_head + g] : 0.0f;
    int slot_number = 0;
    for (int tile = begin_tile + warp; tile < end_tile; tile += n_warps) {
        copy_wait<decode_stages - 1>();
        __syncwarp();
        unsigned char* slot = ring + slot_number * slot_bytes;
        slot_number = slot_number + 1 == decode_stages ? 0 : slot_number + 1;
        const int at = tile * decode_tile;
        unsigned char* rows = slot;
        if constexpr (turns)
            if (tile == fresh_tile) rope.template put<is_bf16>(slot, is_bf16 ? tile_bytes / 2 : slot_bytes / 2, position % decode_tile);
        if constexpr (!is_bf16) {
            rows = ring + decode_stages * slot_bytes;
            for (int item = lane; item < 2 * decode_tile * raw_chunks; item += lanes) {
                const int part = item / (decode_tile * raw_chunks), in_part = item - part * decode_tile * raw_chunks, row = in_part / raw_chunks, chunk = in_part - row * raw_chunks;
                const unsigned char* source = slot + part * (slot_bytes / 2);
                uint4 raw = *reinterpret_cast<const uint4*>(source + in_part * 16);
                float scale = 0;
                if (page.n_groups > 0)
                    scale = f16_float(reinterpret_cast<const unsigned short*>(source + decode_tile * page.row_bytes)[row * page.n_groups + (page.form == StateForm::int4 ? chunk : 0)]);
                if (at + row >= end) raw = make_uint4(0, 0, 0, 0), scale = 0;  // what was never written may be anything
                expand_chunk<head_dim>(page.form, raw, scale, rows + part * (tile_bytes / 2), row, chunk);
            }
            __syncwarp();
            copy_next();
        }

        float scores[2][2][4] = {};  // of even and odd steps: a chain of products half as long
        const std::uint32_t keys = shared_address(rows), values = shared_address(rows + tile_bytes / 2);
#pragma unroll
        for (int k = 0; k < head_dim / 16; ++k) {
            const uint4 four = q_fragments[k * lanes + lane];
            const std::uint32_t a[4] = {four.x, four.y, four.z, four.w};
            std::uint32_t b[4];
            load_matrices(b, keys + tile_chunk<head_dim>((lane / 16) * 8 + lane % 8, 2 * k + lane / 8 % 2));
            multiply_add(scores[k % 2][0], a, b[0], b[1]);
            multiply_add(scores[k % 2][1], a, b[2], b[3]);
        }
        float exponents[2][2], highest = -INFINITY;
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int key = at + 8 * half + 2 * t + e;
                const float score = finished_score(common, scores[0][half][e] + scores[1][half][e] + (scores[0][half][e + 2] + scores[1][half][e + 2]), key, position, slope);
                exponents[half][e] = key >= first && key < end ? score : -INFINITY;
                highest = fmaxf(highest, exponents[half][e]);
            }
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
        const float next = fmaxf(largest, highest), base = next == -INFINITY ? 0.0f : next, shrink = exp2_fast(largest - base);
        largest = next;
        total *= shrink;
        std::uint32_t weights[4];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float p0 = exp2_fast(exponents[half][0] - base), p1 = exp2_fast(exponents[half][1] - base);
            total += p0 + p1;
            const std::uint32_t x0 = split_bf16(p0), x1 = split_bf16(p1);
            weights[2 * half] = permute_bytes(x0, x1, 0x5410u);
            weights[2 * half + 1] = permute_bytes(x0, x1, 0x7632u);
        }
        if (__any_sync(0xffffffffu, shrink != 1.0f)) {
#pragma unroll
            for (int n = 0; n < head_dim / 8; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) output[n][i] *= shrink;
        }
#pragma unroll
        for (int pair = 0; pair < head_dim / 16; ++pair) {
            std::uint32_t b[4];
            load_matrices_transposed(b, values + tile_chunk<head_dim>(lane / 8 % 2 * 8 + lane % 8, 2 * pair + lane / 16));
            multiply_add(output[2 * pair], weights, b[0], b[1]);
            multiply_add(output[2 * pair + 1], weights, b[2], b[3]);
        }
        if constexpr (is_bf16) {
            __syncwarp();  // nobody reads the slot that is filled next
            copy_next();
        } else {
            __syncwarp();  // nor the expanded tile
        }
    }
    copy_wait<0>();
    total += __shfl_xor_sync(0xffffffffu, total, 1);
    total += __shfl_xor_sync(0xffffffffu, total, 2);

    __syncthreads();
    const DecodePlace place = {token, kv_head, first_head, n_heads, split, n_active};
    DecodeMerge<head_dim> merge = {p, place, reinterpret_cast<float*>(shared), heads, reinterpret_cast<float*>(rings)};
    merge.take(output, largest, total);
    __syncthreads();
    merge.add_warps();
    if (n_active > 1 && merge.is_last()) merge.add_splits();
}

template <int head_dim, bool is_bf16>
int launch_decode_attention_of(const DecodeAttentionArgs& args, const Launch& launch) {
    const AttentionCommon& common = args.common;
    DecodeParams p;
    p.attention = attention_params(common);
    p.rope = args.rope;
    p.n_splits = args.n_splits;
    p.partials = args.partials;
    p.partial_sums = args.partials + common.tokens.n_tokens * common.n_heads * args.n_splits * common.state.head_dim;
    p.arrivals = args.arrivals;
    p.group = static_cast<int>(common.n_heads / common.state.n_kv_heads);
    p.n_chunks = (p.group + 7) / 8;
    constexpr int warps = decode_warps(head_dim), merge_bytes = decode_merge_bytes(head_dim);
    p.slot_bytes = is_bf16 ? decode_tile_bytes(head_dim) : 2 * decode_tile * (p.attention.page.row_bytes + p.attention.page.n_groups * 2);
    const int rings_bytes = warps * (decode_stages * p.slot_bytes + (is_bf16 ? 0 : decode_tile_bytes(head_dim)));
    p.rings_bytes = rings_bytes > merge_bytes ? rings_bytes : merge_bytes;
    const auto shared_bytes = static_cast<std::size_t>(decode_q_bytes(head_dim) + decode_heads_bytes(head_dim) + decode_fresh_bytes(head_dim) + p.rings_bytes);
    return launch_kernel<DecodeParams>(args.rope.qkv != nullptr ? decode_attention_kernel<head_dim, is_bf16, true> : decode_attention_kernel<head_dim, is_bf16, false>,
                                       dim3(static_cast<unsigned>(args.n_splits), static_cast<unsigned>(common.state.n_kv_heads * p.n_chunks), static_cast<unsigned>(common.tokens.n_tokens)), dim3(warps * lanes), shared_bytes, launch, p);
}

}  // namespace skiff::cuda
