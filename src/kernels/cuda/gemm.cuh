// y = W x for more than a few tokens: bf16 activations (one part), weights decoded in registers for 64 tokens at a time, f32 sums. A block has 128 rows and 64 tokens.
// Slabs of x (64 columns) go round a ring of shared memory that all warps read, one barrier a slab; each warp's weights and records go round one of its own.
// Where rows and tokens give too few blocks, columns are cut and the partial sums are added in order by the block that arrives last: no atomics on sums, the same bits
// every time.
#pragma once

#include "kernels/cuda/gemm_shape.h"
#include "kernels/cuda/linear.cuh"

namespace skiff::cuda {

struct GemmParams {
    LinearParams linear;
    float* partials = nullptr;  // (n_splits, row blocks, token blocks, tokens, rows)
    std::int32_t* arrivals = nullptr;
    int n_splits = 1;
};

constexpr int gemm_x_slab_bytes = gemm_token_tiles * 1024;
constexpr int gemm_row_stride(int block_rows) { return block_rows + 4; }  // of the finished sums in shared memory

template <class Decoder>
__global__ void __launch_bounds__(gemm_warps* lanes) gemm_kernel(const __grid_constant__ GemmParams params) {
    constexpr CodeForm form = Decoder::form;
    constexpr int unit = unit_columns(form), pieces = unit_pieces(form), n_tiles = gemm_warp_tiles_of(form, Decoder::n_parts), n_threads = gemm_warps * lanes, n_steps = slab_steps<Decoder>, n_unit_slabs = unit_slabs<Decoder>;
    constexpr int ahead = gemm_units_ahead(n_unit_slabs), weight_slots = ahead + 1, block_rows = gemm_block_rows(n_tiles), row_stride = gemm_row_stride(block_rows);
    SKIFF_SHARED_MEMORY(shared);
    __shared__ float token_scales[gemm_block_tokens];
    __shared__ std::uint32_t levels[form == CodeForm::table8 ? 256 : 1];
    __shared__ int is_last;
    const LinearParams& p = params.linear;
    const GpuWeight& weight = p.weight;
    const int warp = threadIdx.x / lanes, lane = threadIdx.x % lanes, g = lane / 4, t = lane % 4;
    const int tile_bytes = unit_bytes<Decoder> + p.param_bytes;
    unsigned char* x_ring = shared;
    unsigned char* weight_ring = shared + gemm_x_stages * gemm_x_slab_bytes + warp * weight_slots * n_tiles * tile_bytes;
    const int first_tile = (static_cast<int>(blockIdx.x) * gemm_warps + warp) * n_tiles, first_token_tile = static_cast<int>(blockIdx.y) * gemm_token_tiles;
    const int n_token_tiles = min(gemm_token_tiles, (p.n_tokens + 7) / 8 - first_token_tile);
    const int first_unit = static_cast<int>(static_cast<std::int64_t>(weight.n_units) * blockIdx.z / params.n_splits), end_unit = static_cast<int>(static_cast<std::int64_t>(weight.n_units) * (blockIdx.z + 1) / params.n_splits);
    const std::int64_t param_units = n_param_units(weight, p.layout), n_slabs = p.x_slabs;

    const auto copy_unit = [&](int u) {
        if (u < end_unit) {
#pragma unroll
            for (int i = 0; i < n_tiles; ++i) {
                if (first_tile + i >= weight.n_tiles) continue;
                const std::uint32_t slot = shared_address(weight_ring + ((u - first_unit) % weight_slots * n_tiles + i) * tile_bytes);
                copy_codes<Decoder>(weight, first_tile + i, u, slot, lane);
                const auto* from = static_cast<const unsigned char*>(weight.group_params) + ((first_tile + i) * param_units + p.layout.index(u)) * p.param_bytes;
                for (int byte = lane * 16; byte < p.param_bytes; byte += lanes * 16) copy_async16(slot + unit_bytes<Decoder> + byte, from + byte);
            }
        }
    };
    // Slab `j` of this block's columns, of all token tiles that there are. A fragment is 1024 bytes in one run.
    const int n_block_slabs = (end_unit - first_unit) * n_unit_slabs;
    const auto copy_x = [&](int j) {
        if (j < n_block_slabs) {
            const std::uint32_t slot = shared_address(x_ring + j % gemm_x_stages * gemm_x_slab_bytes);
            for (int i = threadIdx.x; i < n_token_tiles * 64; i += n_threads)
                copy_async16(slot + i * 16, p.x + ((first_token_tile + i / 64) * n_slabs + static_cast<std::int64_t>(first_unit) * n_unit_slabs + j) * 1024 + i % 64 * 16);
        }
    };

    Decoder decoder[n_tiles];
    if constexpr (form == CodeForm::table8) {
#pragma unroll 1  // unrolled, it takes what the loop below needs: sm_80 spilled
        for (int i = threadIdx.x; i < 256; i += n_threads) levels[i] = weight.table[i];
        GpuWeight near = weight;
        near.table = levels;
        for (int i = 0; i < n_tiles; ++i) decoder[i].load_tables(near, 0, lane);
    } else {
        for (int i = 0; i < n_tiles; ++i)
            if (first_tile + i < weight.n_tiles) decoder[i].load_tables(weight, first_tile + i, lane);
    }
    // Tiles behind the last row and tokens behind the last one: zeros, once (records, too: no NaN meets a zero).
    for (int i = threadIdx.x; i < (gemm_x_stages * gemm_x_slab_bytes + gemm_warps * weight_slots * n_tiles * tile_bytes) / 16; i += n_threads) reinterpret_cast<uint4*>(shared)[i] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    // Weights do not depend on the kernel before; each group of copies is one slab of x and the weights that go with it.
    copy_unit(first_unit);
    if constexpr (ahead == 2) copy_unit(first_unit + 1);
    let_successor_start();
    wait_for_predecessor();
    copy_x(0);
    copy_commit();
    copy_x(1);
    copy_commit();

    const bool relative = form > CodeForm::bf16 && has_supers(weight.params);
    const int fold_steps = form > CodeForm::bf16 ? p.fold_steps : 0;  // said here, a compiler leaves the scales of plain numbers out
    float sums[n_tiles][gemm_token_tiles][4] = {};
    int j = 0;
    for (int u = first_unit; u < end_unit; ++u) {
        Supers supers[n_tiles][2] = {};
        if (relative) {
#pragma unroll
            for (int i = 0; i < n_tiles; ++i)
                if (first_tile + i < weight.n_tiles) load_supers(weight, first_tile + i, static_cast<std::int64_t>(u) * unit, g, supers[i]);
        }
#pragma unroll 1
        for (int slab = 0; slab < n_unit_slabs; ++slab, ++j) {
            copy_wait<gemm_x_stages - 2>();
            __syncthreads();  // slab j and its weights are there for all; nobody reads what is filled next
            if (slab == 0) copy_unit(u + ahead);
            copy_x(j + gemm_x_stages - 1);
            copy_commit();
            std::uint32_t a[n_tiles][n_steps][Decoder::n_parts][4], positions[n_tiles];
            GroupScale scales[n_tiles][n_steps][2];
#pragma unroll
            for (int i = 0; i < n_tiles; ++i) {
                const unsigned char* here = weight_ring + ((u - first_unit) % weight_slots * n_tiles + i) * tile_bytes;
                std::uint32_t words[pieces * 4];
                load_slab<Decoder>(here, slab, lane, words);
                positions[i] = first_tile + i < weight.n_tiles ? slab_positions<Decoder>(here, slab, lane) : no_positions;
                for_steps<0, n_steps>([&](auto index) {
                    constexpr int s = decltype(index)::value;
                    decoder[i].template step<s>(words, a[i][s]);
                    scales[i][s][0] = scales[i][s][1] = {1, 0};
                    if ((fold_steps >> s & 1) != 0) read_pair(weight, here + unit_bytes<Decoder> + (g * p.layout.in_unit + p.layout.in(16 * (slab * n_steps + s))) * p.pair_bytes, supers[i], scales[i][s]);
                });
            }
            const unsigned char* x = x_ring + j % gemm_x_stages * gemm_x_slab_bytes + lane * 16;
#pragma unroll
            for (int n = 0; n < gemm_token_tiles; ++n) {
                if (n >= n_token_tiles) break;
                const uint4 b[2] = {*reinterpret_cast<const uint4*>(x + n * 1024), *reinterpret_cast<const uint4*>(x + n * 1024 + 512)};
                float part[n_tiles][4] = {}, ones[4] = {};
#pragma unroll
                for (int s = 0; s < n_steps; ++s) {
#pragma unroll
                    for (int i = 0; i < n_tiles; ++i) multiply_step<Decoder>(part[i], a[i][s], b, s, positions[i]);
                    sum_step<Decoder>(p, ones, b, s);
                    if (s == n_steps - 1 || (fold_steps >> s & 1) != 0) {
#pragma unroll
                        for (int i = 0; i < n_tiles; ++i)
#pragma unroll
                            for (int c = 0; c < 4; ++c) {
                                const GroupScale& scale = scales[i][s][c / 2];
                                sums[i][n][c] += scale.scale * part[i][c] - scale.offset * ones[c % 2];
                                part[i][c] = 0;
                            }
#pragma unroll
                        for (int c = 0; c < 4; ++c) ones[c] = 0;
                    }
                }
            }
        }
    }
    copy_wait<0>();
    __syncthreads();

    // The sums of the block, (tokens, rows), where the rings were.
    auto* block = reinterpret_cast<float*>(shared);
#pragma unroll
    for (int i = 0; i < n_tiles; ++i)
#pragma unroll
        for (int n = 0; n < gemm_token_tiles; ++n)
#pragma unroll
            for (int c = 0; c < 4; ++c) block[(n * 8 + 2 * t + c % 2) * row_stride + (warp * n_tiles + i) * tile_rows + g + c / 2 * 8] = sums[i][n][c];
    __syncthreads();
    const int n_tokens = min(gemm_block_tokens, p.n_tokens - first_token_tile * 8);
    if (params.n_splits > 1) {
        const std::int64_t place = blockIdx.x * static_cast<std::int64_t>(gridDim.y) + blockIdx.y, n_places = static_cast<std::int64_t>(gridDim.x) * gridDim.y;
        constexpr int block_size = block_rows * gemm_block_tokens;
        float* mine = params.partials + (blockIdx.z * n_places + place) * block_size;
        for (int i = threadIdx.x; i < n_tokens * block_rows; i += n_threads) mine[i] = block[i / block_rows * row_stride + i % block_rows];
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) {
            is_last = atomicAdd(params.arrivals + place, 1) + 1 == params.n_splits ? 1 : 0;
            if (is_last != 0) params.arrivals[place] = 0;
        }
        __syncthreads();
        if (is_last == 0) return;
        __threadfence();
        for (int i = threadIdx.x; i < n_tokens * block_rows; i += n_threads) {
            float sum = 0;
#pragma unroll 4
            for (int split = 0; split < params.n_splits; ++split) sum += __ldcg(params.partials + (split * n_places + place) * block_size + i);
            block[i / block_rows * row_stride + i % block_rows] = sum;
        }
        __syncthreads();
    }
    for (int token = warp; token < gemm_block_tokens; token += gemm_warps) {
        const float scale = token < n_tokens ? pending_scale(p.rms, first_token_tile * 8 + token, lane) : 0.0f;
        if (lane == 0) token_scales[token] = scale;
    }
    __syncthreads();
#pragma unroll 1
    for (int item = warp; item < gemm_warps * n_tiles * gemm_block_tokens / 4; item += gemm_warps) {
        const int in_block = item % (gemm_warps * n_tiles), token = item / (gemm_warps * n_tiles) * 4 + t, tile = static_cast<int>(blockIdx.x) * gemm_warps * n_tiles + in_block;
        if (tile >= weight.n_tiles) continue;  // whole warps
        const float* here = block + token * row_stride + in_block * tile_rows + g;
        finish(p, tile, g, first_token_tile * 8 + token, token < n_tokens, here[0], here[8], token_scales[token]);
    }
}

template <class Decoder>
int launch_gemm_form(const GemmArgs& args, const Launch& launch) {
    constexpr CodeForm form = Decoder::form;
    GemmParams params;
    params.linear = linear_params(args);
    params.n_splits = args.partials != nullptr && args.arrivals != nullptr ? gemm_splits(args.weight, args.n_tokens, launch) : 1;
    params.partials = args.partials;
    params.arrivals = args.arrivals;
    constexpr int n_tiles = gemm_warp_tiles_of(form, Decoder::n_parts), rows = gemm_block_rows(n_tiles);
    const int rings = gemm_x_stages * gemm_x_slab_bytes + gemm_warps * (gemm_units_ahead(unit_slabs<Decoder>) + 1) * n_tiles * (unit_bytes<Decoder> + params.linear.param_bytes);
    const int sums = gemm_block_tokens * gemm_row_stride(rows) * 4;
    const dim3 grid(static_cast<unsigned>((args.weight.n_tiles * tile_rows + rows - 1) / rows), static_cast<unsigned>((args.n_tokens + gemm_block_tokens - 1) / gemm_block_tokens), static_cast<unsigned>(params.n_splits));
    return launch_kernel<GemmParams>(gemm_kernel<Decoder>, grid, dim3(gemm_warps * lanes), static_cast<std::size_t>(rings > sums ? rings : sums), launch, params);
}

}  // namespace skiff::cuda
