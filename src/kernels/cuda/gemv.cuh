// y = W x for 1 to 8 tokens, bound by the bytes of W. Warps read their share of a tile through rings of cp.async in shared memory, a chunk at a
// time (no barrier: a lane reads what it copied itself, and the records of groups within its warp), decode in registers and multiply on the tensor cores
// (gemv_chunk.cuh, gemv_digits.cuh). That leaves the vector units free for unpacking. The ring runs over the end of a tile, and it starts before the kernel in front has ended.
#pragma once

#include <algorithm>

#include "kernels/cuda/gemv_chunk.cuh"
#include "kernels/cuda/gemv_digits.cuh"

namespace skiff::cuda {

// The bits of a token's sums do not depend on n_blocks (of four tokens) or on the other tokens: each column of the product is summed by itself.
template <class Decoder, int n_blocks, int n_warps>
__global__ void __launch_bounds__(n_warps* lanes, gemv_least_blocks(Decoder::form, Decoder::n_parts, n_blocks, n_warps)) gemv_kernel(const __grid_constant__ GemvNormParams all) {
    constexpr int stages = gemv_stages(Decoder::form, n_warps), few_stages = gemv_few_stages(Decoder::form, n_warps), most_units = gemv_chunk_units(Decoder::form);
    static_assert(few_stages >= 2);
    const GemvParams& params = all.gemv;
    const LinearParams& p = params.linear;
    SKIFF_SHARED_MEMORY(shared);
    auto* token_scales = reinterpret_cast<float*>(shared);
    unsigned char* tables = shared + gemv_head_bytes;
    auto* reduction = reinterpret_cast<float*>(tables + (Decoder::form == CodeForm::table8 ? gemv_table_bytes : 0));
    const int warp = threadIdx.x / lanes, lane = threadIdx.x % lanes, g = lane / 4, t = lane % 4;
    const int stage_bytes = most_units * unit_bytes<Decoder> + params.param_bytes;
    const int n_stages = few_stages == stages ? stages : params.n_stages;
    unsigned char* ring = shared + gemv_fixed_bytes<Decoder, n_blocks, n_warps>() + warp * n_stages * stage_bytes;
    const GpuWeight& weight = p.weight;

    // This warp's chunks of every tile.
    const int n_chunks = (weight.n_units + params.n_units - 1) / params.n_units, first_chunk = n_chunks * warp / n_warps, end_chunk = n_chunks * (warp + 1) / n_warps;
    const int param_units = static_cast<int>(n_param_units(weight, p.layout));

    int ahead_tile = end_chunk > first_chunk ? static_cast<int>(blockIdx.x) : weight.n_tiles, ahead_chunk = first_chunk, ahead_slot = 0;
    const auto copy_any = [&] {
        if (ahead_tile < weight.n_tiles) {
            copy_chunk<Decoder>(params, param_units, ahead_tile, ahead_chunk, shared_address(ring + ahead_slot * stage_bytes), lane);
            if (++ahead_chunk == end_chunk) ahead_chunk = first_chunk, ahead_tile += gridDim.x;
        }
        copy_commit();
        ahead_slot = ahead_slot + 1 == n_stages ? 0 : ahead_slot + 1;
    };
    ChunkStream<most_units * unit_bytes<Decoder>> stream(weight, n_chunks, static_cast<int>(blockIdx.x), first_chunk, end_chunk, shared_address(ring), lane);
    const auto copy_next = [&] {
        const auto copy_whole = [&] { stream.next(weight, params.place, n_chunks, static_cast<int>(gridDim.x), param_units * p.param_bytes, p.param_bytes, params.param_bytes, stage_bytes, n_stages * stage_bytes, lane); };
        if constexpr (n_warps > gemv_warps) copy_whole();  // sixteen warps are for whole chunks
        else if constexpr (Decoder::two_of_four || has_bytes<Decoder>) copy_any();  // whole chunks are multiplied as digits, but for groups of 16 and tables without a step
        else if (params.is_whole != 0) copy_whole();
        else copy_any();
    };
#pragma unroll 1
    for (int i = 0; i < n_stages - 1; ++i) copy_next();

    Decoder decoder;
    load_shared_tables<Decoder, n_warps * lanes>(decoder, weight, tables, lane);

    let_successor_start();
    wait_for_predecessor();
    // The numbers of this warp's columns are read as they are needed, one slab ahead, which is soon enough from the L1 alone; more of them than it holds are not fetched twice.
    const int first_slab = first_chunk * params.n_units * unit_slabs<Decoder>, n_lines = (min(end_chunk * params.n_units, weight.n_units) * unit_slabs<Decoder> - first_slab) * 2 * p.n_tokens;
#pragma unroll 1
    for (int line = lane; line < n_lines && n_lines * n_warps * 128 <= most_touched_bytes; line += lanes) {
        const int token = line % p.n_tokens, half = line / p.n_tokens % 2, slab = first_slab + line / (2 * p.n_tokens);
        touch(p.x + ((token >> 2) * p.x_slabs + slab) * 1024 + half * 512 + (token & 3) * 128);
    }
    if (warp < p.n_tokens) {  // read behind a tile's barrier
        const float scale = pending_scale(p.rms, warp, lane);
        if (lane == 0) token_scales[warp] = scale;
    }
    if constexpr (Decoder::form == CodeForm::table8) __syncthreads();  // its table

    int slot = 0, round = 0;
    const auto arrived_chunk = [&] {
        if (few_stages == stages || n_stages == stages) copy_wait<stages - 2>();
        else copy_wait<few_stages - 2>();
        __syncwarp();  // records come from other lanes, and none of them still reads the slot that is filled next
        copy_next();
        const unsigned char* here = ring + slot * stage_bytes;
        slot = slot + 1 == n_stages ? 0 : slot + 1;
        return here;
    };
    bool has_token[n_blocks];
    uint4 b[2][n_blocks][2];
#pragma unroll
    for (int block = 0; block < n_blocks; ++block) {
        has_token[block] = 4 * block + g / 2 < p.n_tokens;
#pragma unroll
        for (int i = 0; i < 4; ++i) b[i / 2][block][i % 2] = make_uint4(0, 0, 0, 0);
    }
    for (int tile = blockIdx.x; tile < weight.n_tiles; tile += gridDim.x, ++round) {
        float sums[n_blocks][2] = {}, part[n_blocks][4] = {}, ones[n_blocks][4] = {};
        if constexpr (Decoder::per_tile_tables) decoder.load_tables(weight, tile, lane);
        for (int chunk = first_chunk; chunk < end_chunk; ++chunk) {
            const int first = chunk * params.n_units;
            Supers supers[2] = {};
            if (has_supers(weight.params)) load_supers(weight, tile, static_cast<std::int64_t>(first) * unit_columns(Decoder::form), g, supers);
            const unsigned char* here = arrived_chunk();
            const unsigned char* x = p.x + static_cast<std::int64_t>(first) * (unit_slabs<Decoder> * 1024) + lane * 16;
            multiply_chunk<Decoder, n_blocks, n_warps, loads_x_ahead<Decoder, n_blocks>>(
                params, decoder, tile, first, here,
                [&](int slab, uint4 (&to)[n_blocks][2]) {
#pragma unroll
                    for (int block = 0; block < n_blocks; ++block)
#pragma unroll
                        for (int half = 0; half < 2; ++half)
                            if (!keeps_zeros<Decoder, n_blocks> || has_token[block]) to[block][half] = *reinterpret_cast<const uint4*>(x + block * p.x_slabs * 1024 + (slab * 1024 + half * 512));
                },
                b, supers, sums, part, ones);
        }
        if (p.fold_steps == 0) {
            const GroupScale scale[2] = {{1, 0}, {1, 0}};
            fold<n_blocks>(sums, part, scale);
        }

        // The warps' sums meet in shared memory; two places for them, so that one barrier a tile is enough, and the warps take turns at finishing.
        float* sums_here = reduction + round % 2 * (n_warps * n_blocks * 2 * lanes);
#pragma unroll
        for (int block = 0; block < n_blocks; ++block)
#pragma unroll
            for (int i = 0; i < 2; ++i) sums_here[((warp * n_blocks + block) * 2 + i) * lanes + lane] = sums[block][i];
        constexpr bool loads_early = n_warps == gemv_warps && Decoder::n_parts == 1;  // others have no registers for it
        [[maybe_unused]] FinishLoads loads[n_blocks];
        if (loads_early && warp == round % n_warps) {
#pragma unroll
            for (int block = 0; block < n_blocks; ++block) loads[block] = load_finish(p, tile, g, 4 * block + t, 4 * block + t < p.n_tokens);
        }
        __syncthreads();
        if (warp == round % n_warps) {
#pragma unroll
            for (int block = 0; block < n_blocks; ++block) {
                float v[2];
                add_warps<n_blocks, n_warps>(sums_here, block, lane, v);
                const int token = 4 * block + t;
                const bool valid = token < p.n_tokens;
                if constexpr (loads_early) finish(p, loads[block], tile, g, token, valid, v[0], v[1], token_scales[valid ? token : 0]);
                else finish(p, tile, g, token, valid, v[0], v[1], token_scales[valid ? token : 0]);
            }
        }
    }
    copy_wait<0>();
    if constexpr (4 * n_blocks <= max_last_norm_tokens) {
        if (all.arrivals != nullptr) last_norms(all.norms, p.n_tokens, all.arrivals, shared, reinterpret_cast<float*>(shared + gemv_fixed_bytes<Decoder, n_blocks, n_warps>()));
    }
}

template <class Decoder>
GemvParams gemv_params(const GemvArgs& args) {
    constexpr int most_units = gemv_chunk_units(Decoder::form), unit = unit_columns(Decoder::form), slab_log2 = slab_steps<Decoder> == 4 ? 6 : 5;
    GemvParams params;
    LinearParams& p = params.linear;
    p = linear_params(args);
    params.n_units = args.weight.n_units >= most_units * gemv_warps ? most_units : 1;
    const int group = args.weight.group_log2;
    params.is_whole = params.n_units == most_units && args.weight.n_units % most_units == 0 ? 1 : 0;
    params.place = chunk_place(args.weight, p.layout, params.n_units, unit);
    if (args.weight.params != ParamForm::none) {
        const int in_chunk = p.layout.in_unit > 1 ? params.n_units : group >= 31 ? 1 : ((params.n_units * unit - 1) >> group) + 1;  // of param units; chunks begin at multiples of their columns
        params.param_bytes = in_chunk * p.param_bytes;
        params.fold_mask = group >= 20 ? 0x3fffffff : group > slab_log2 ? (1 << (group - slab_log2)) - 1 : 0;
        params.is_fine = group < slab_log2 || (has_supers(args.weight.params) && 1 << std::min<int>(args.weight.super_log2, 30) < params.n_units * unit) ? 1 : 0;
    }
    return params;
}

// How a kernel that works as gemv does is launched; `row_bytes` of shared memory are needed where the rings were.
struct GemvLaunch {
    int n_stages = 0;
    std::size_t shared_bytes = 0;
    std::int64_t most_blocks = 0;  // at once
};
template <class Decoder, int n_blocks, int n_warps, class Params>
GemvLaunch gemv_launch(void (*kernel)(Params), int param_bytes, const Launch& launch, std::size_t row_bytes = 0) {
    constexpr int form = static_cast<int>(Decoder::form), stages = gemv_stages(Decoder::form, n_warps), few_stages = gemv_few_stages(Decoder::form, n_warps);
    const auto ring_bytes = [&](int n_stages) { return std::size_t{n_warps} * static_cast<std::size_t>(n_stages * (gemv_chunk_units(Decoder::form) * unit_bytes<Decoder> + param_bytes)); };
    const auto shared_bytes_of = [&](int n_stages) { return gemv_fixed_bytes<Decoder, n_blocks, n_warps>() + std::max(ring_bytes(n_stages), row_bytes); };
    GemvLaunch shape;
    shape.n_stages = stages;
    if (launch.tuning.gemv_ring[form] != Tuning::Ring::longest || (n_warps == gemv_warps && ring_bytes(stages) > 90 * 1024) || blocks_per_sm(kernel, n_warps * lanes, shared_bytes_of(stages)) < 2) shape.n_stages = few_stages;
    shape.shared_bytes = shared_bytes_of(shape.n_stages);
    const int resident = blocks_per_sm(kernel, n_warps * lanes, shape.shared_bytes), tuned = launch.tuning.gemv_blocks[form];
    shape.most_blocks = static_cast<std::int64_t>(launch.n_sms) * (tuned > 0 && tuned < resident ? tuned : resident);
    return shape;
}

template <class Decoder, int n_blocks, int n_warps>
int launch_gemv_warps(const GemvNormParams& given, const Launch& launch) {
    GemvNormParams params = given;
    auto* kernel = gemv_kernel<Decoder, n_blocks, n_warps>;
    const std::size_t row_bytes = params.arrivals != nullptr ? static_cast<std::size_t>(params.norms.args.width) * sizeof(float) : 0;
    const GemvLaunch shape = gemv_launch<Decoder, n_blocks, n_warps>(kernel, params.gemv.param_bytes, launch, row_bytes);
    params.gemv.n_stages = shape.n_stages;
    const std::int64_t n_tiles = params.gemv.linear.weight.n_tiles;
    return launch_kernel<GemvNormParams>(kernel, dim3(static_cast<unsigned>(n_tiles < shape.most_blocks ? n_tiles : shape.most_blocks)), dim3(n_warps * lanes), shape.shared_bytes, launch, params);
}

// How columns are cut follows from the shape alone, never from the number of tokens.
template <class Decoder>
constexpr bool gemv_takes_many_warps =
    gemv_few_stages(Decoder::form, gemv_many_warps) >= 2 && !Decoder::two_of_four && (has_raw_codes<Decoder> || Decoder::form == CodeForm::bf16 || Decoder::form == CodeForm::linear8);  // e4m3 has no registers for it
template <class Decoder>
bool gemv_wants_many_warps(const GemvParams& params, std::int64_t n_tiles) {
    constexpr int most_units = gemv_chunk_units(Decoder::form);
    const int n_units = params.linear.weight.n_units;
    return n_tiles <= gemv_few_tiles && n_units % most_units == 0 && n_units >= most_units * gemv_many_warps && params.is_fine == 0;
}

template <class Decoder>
int launch_gemv_form(const GemvArgs& args, const Launch& launch) {
    if constexpr (has_bytes<Decoder>) {
        if (takes_digits<Decoder>(args.weight)) return args.n_tokens <= 4 ? launch_digits<Decoder, 1>(linear_params(args), args.norms, args.arrivals, launch) : launch_digits<Decoder, 2>(linear_params(args), args.norms, args.arrivals, launch);
    }
    const GemvNormParams params{gemv_params<Decoder>(args), norm_params(args.norms), args.arrivals};
    if constexpr (gemv_takes_many_warps<Decoder> && !has_bytes<Decoder>) {  // those with bytes have whole chunks as digits, or groups of 16
        if (gemv_wants_many_warps<Decoder>(params.gemv, args.weight.n_tiles)) return args.n_tokens <= 4 ? launch_gemv_warps<Decoder, 1, gemv_many_warps>(params, launch) : launch_gemv_warps<Decoder, 2, gemv_many_warps>(params, launch);
    }
    return args.n_tokens <= 4 ? launch_gemv_warps<Decoder, 1, gemv_warps>(params, launch) : launch_gemv_warps<Decoder, 2, gemv_warps>(params, launch);
}

}  // namespace skiff::cuda
