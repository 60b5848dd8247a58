// Mixtures of experts for 1 to 8 tokens, as gemv.cuh multiplies: each block finds out by the router's logits whom the tokens chose, and reads those experts' weights alone. Of the first matrices a block
// takes one expert's tile at a time; of the second ones a tile of all chosen experts one behind the other, so that their sum needs no other block. A warp's columns of an expert are those of gemv, and
// experts that a token did not choose are left out of its sums: a token's bits do not depend on the others.
#pragma once

#include "kernels/cuda/gemv.cuh"
#include "kernels/cuda/routing.cuh"

namespace skiff::cuda {

struct ExpertParams {
    GemvParams gemv;                    // weight: the first expert's, without row_scales
    const float* row_scales = nullptr;  // of all experts' tiles
    RouteLaunchArgs route;
    int part_columns = 0;               // of the operand between the two: from one chosen expert to the next
};

// Sixteen levels of two parts for each row leave no registers for two slabs of numbers. They, and plain weights of two parts, take more registers with the numbers of eight tokens than two blocks of
// an SM have.
template <class Decoder>
constexpr bool expert_tables_are_large = Decoder::form == CodeForm::table4 && Decoder::n_parts > 1;
template <class Decoder, int n_blocks, int n_warps>
constexpr int expert_least_blocks = n_warps > gemv_warps || (n_blocks > 1 && Decoder::n_parts > 1 && (expert_tables_are_large<Decoder> || Decoder::form <= CodeForm::f16)) ? 1 : 2;

template <class Decoder, int n_blocks, int n_warps>
__global__ void __launch_bounds__(n_warps* lanes, expert_least_blocks<Decoder, n_blocks, n_warps>) expert_gemv_kernel(const __grid_constant__ ExpertParams params) {
    static_assert(n_warps * lanes >= max_routed_experts && n_warps >= max_gemv_tokens);
    constexpr int unit = unit_columns(Decoder::form), n_unit_slabs = unit_slabs<Decoder>, stages = gemv_stages(Decoder::form, n_warps), few_stages = gemv_few_stages(Decoder::form, n_warps), most_units = gemv_chunk_units(Decoder::form);
    SKIFF_SHARED_MEMORY(shared);
    __shared__ Routed routed;
    auto* token_scales = reinterpret_cast<float*>(shared);
    unsigned char* tables = shared + gemv_head_bytes;
    auto* reduction = reinterpret_cast<float*>(tables + (Decoder::form == CodeForm::table8 ? gemv_table_bytes : 0));
    const LinearParams& p = params.gemv.linear;
    const GpuWeight& weight = p.weight;
    const int warp = threadIdx.x / lanes, lane = threadIdx.x % lanes, g = lane / 4, t = lane % 4;
    const int stage_bytes = most_units * unit_bytes<Decoder> + params.gemv.param_bytes;
    const int n_stages = few_stages == stages ? stages : params.gemv.n_stages;
    unsigned char* ring = shared + gemv_fixed_bytes<Decoder, n_blocks, n_warps>() + warp * n_stages * stage_bytes;
    const int n_chunks = (weight.n_units + params.gemv.n_units - 1) / params.gemv.n_units, first_chunk = n_chunks * warp / n_warps, end_chunk = n_chunks * (warp + 1) / n_warps;
    const int param_units = static_cast<int>(n_param_units(weight, p.layout));

    Decoder decoder;
    load_shared_tables<Decoder, n_warps * lanes>(decoder, weight, tables, lane);

    let_successor_start();
    wait_for_predecessor();
    if (warp < p.n_tokens) {
        const float scale = pending_scale(p.rms, warp, lane);
        if (lane == 0) token_scales[warp] = scale;
    }
    route_tokens(params.route, routed);

    // What a block does: items, each of which is one tile of an expert, or of all active ones.
    const bool first = p.write == GemvWrite::gate;
    const int n_items = first ? routed.n_active * weight.n_tiles : weight.n_tiles, n_segments = first ? 1 : routed.n_active;
    const auto active_of = [&](int item, int segment) { return first ? item / weight.n_tiles : segment; };
    const auto tile_of = [&](int item, int segment) { return routed.active[active_of(item, segment)] * weight.n_tiles + (first ? item % weight.n_tiles : item); };  // of all experts' tiles

    int ahead_item = end_chunk > first_chunk ? static_cast<int>(blockIdx.x) : n_items, ahead_segment = 0, ahead_chunk = first_chunk, ahead_slot = 0;
    int ahead_tile = ahead_item < n_items ? tile_of(ahead_item, 0) : 0;
    const auto copy_next = [&] {
        if (ahead_item < n_items) {
            copy_chunk<Decoder>(params.gemv, param_units, ahead_tile, ahead_chunk, shared_address(ring + ahead_slot * stage_bytes), lane);
            if (++ahead_chunk == end_chunk) {
                ahead_chunk = first_chunk;
                if (++ahead_segment == n_segments) ahead_segment = 0, ahead_item += gridDim.x;
                if (ahead_item < n_items) ahead_tile = tile_of(ahead_item, ahead_segment);
            }
        }
        copy_commit();
        ahead_slot = ahead_slot + 1 == n_stages ? 0 : ahead_slot + 1;
    };
#pragma unroll 1
    for (int i = 0; i < n_stages - 1; ++i) copy_next();

    const int n_slabs = static_cast<int>(p.x_slabs);
    const bool relative = has_supers(weight.params);
    int slot = 0, round = 0;
    for (int item = blockIdx.x; item < n_items; item += gridDim.x, ++round) {
        float weighted[n_blocks][2] = {};
#pragma unroll 1
        for (int segment = 0; segment < n_segments; ++segment) {
            const int active = active_of(item, segment), tile = tile_of(item, segment);
            float sums[n_blocks][2] = {}, part[n_blocks][4] = {}, ones[n_blocks][4] = {};
            int places[n_blocks];  // the byte at which this lane's numbers of this expert begin; negative: its token did not choose it, and zeros are multiplied
            uint4 b[2][n_blocks][2];
#pragma unroll
            for (int block = 0; block < n_blocks; ++block) {
                const int token = 4 * block + g / 2, place = token < p.n_tokens ? routed.places[active][token] : -1;
                places[block] = keeps_zeros<Decoder, n_blocks> && place < 0 ? -1 : (block * n_slabs + (first || place < 0 ? 0 : place * (params.part_columns / slab_columns))) * 1024 + lane * 16;
#pragma unroll
                for (int i = 0; i < 4; ++i) b[i / 2][block][i % 2] = make_uint4(0, 0, 0, 0);
            }
            if constexpr (Decoder::per_tile_tables) decoder.load_tables(weight, tile, lane);
            for (int chunk = first_chunk; chunk < end_chunk; ++chunk) {
                const int first_unit = chunk * params.gemv.n_units;
                Supers supers[2] = {};
                if (relative) load_supers(weight, tile, static_cast<std::int64_t>(first_unit) * unit, g, supers);
                if (few_stages == stages || n_stages == stages) copy_wait<stages - 2>();
                else copy_wait<few_stages - 2>();
                __syncwarp();
                copy_next();
                const unsigned char* here = ring + slot * stage_bytes;
                slot = slot + 1 == n_stages ? 0 : slot + 1;
                multiply_chunk<Decoder, n_blocks, n_warps, loads_x_ahead<Decoder, n_blocks> && !expert_tables_are_large<Decoder>>(
                    params.gemv, decoder, tile, first_unit, here,
                    [&](int slab, uint4 (&to)[n_blocks][2]) {
#pragma unroll
                        for (int block = 0; block < n_blocks; ++block)
#pragma unroll
                            for (int half = 0; half < 2; ++half)
                                if (!keeps_zeros<Decoder, n_blocks> || places[block] >= 0) to[block][half] = *reinterpret_cast<const uint4*>(p.x + (places[block] + first_unit * (n_unit_slabs * 1024)) + (slab * 1024 + half * 512));
                    },
                    b, supers, sums, part, ones);
            }
            if (p.fold_steps == 0) {
                const GroupScale scale[2] = {{1, 0}, {1, 0}};
                fold<n_blocks>(sums, part, scale);
            }
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const float row_scale = params.row_scales != nullptr ? params.row_scales[tile * tile_rows + g + 8 * i] : 1.0f;
#pragma unroll
                for (int block = 0; block < n_blocks; ++block) {
                    const int token = 4 * block + t, place = token < p.n_tokens ? routed.places[active][token] : -1;
                    if (place >= 0) weighted[block][i] = fmaf(first ? 1.0f : routed.shares[token][place], row_scale * sums[block][i], weighted[block][i]);
                }
            }
        }

        float* sums_here = reduction + round % 2 * (n_warps * n_blocks * 2 * lanes);
#pragma unroll
        for (int block = 0; block < n_blocks; ++block)
#pragma unroll
            for (int i = 0; i < 2; ++i) sums_here[((warp * n_blocks + block) * 2 + i) * lanes + lane] = weighted[block][i];
        __syncthreads();
        if (warp != round % n_warps) continue;
#pragma unroll
        for (int block = 0; block < n_blocks; ++block) {
            float v[2];
            add_warps<n_blocks, n_warps>(sums_here, block, lane, v);
            const int token = 4 * block + t;
            const bool valid = token < p.n_tokens;
            if (first) {
                const int place = valid ? routed.places[active_of(item, 0)][token] : -1, column = item % weight.n_tiles * 8 + g;
                const float scale = token_scales[valid ? token : 0];
                if (place >= 0 && column < weight.n_rows / 2) p.operand.put(token, place * params.part_columns + column, activate(p.activation, v[0] * scale) * (v[1] * scale));
            } else {
                finish(p, item, g, token, valid, v[0], v[1], 1.0f);
            }
        }
    }
    copy_wait<0>();
}

template <class Decoder, int n_blocks, int n_warps>
int launch_experts_warps(const ExpertParams& given, const Launch& launch) {
    ExpertParams params = given;
    const GpuWeight& weight = params.gemv.linear.weight;
    auto* kernel = expert_gemv_kernel<Decoder, n_blocks, n_warps>;
    const GemvLaunch shape = gemv_launch<Decoder, n_blocks, n_warps>(kernel, params.gemv.param_bytes, launch);
    params.gemv.n_stages = shape.n_stages;
    const std::int64_t chosen = params.route.n_used * params.route.n_tokens, active = chosen < params.route.n_experts ? chosen : params.route.n_experts;
    const std::int64_t items = params.gemv.linear.write == GemvWrite::gate ? active * weight.n_tiles : weight.n_tiles;
    return launch_kernel<ExpertParams>(kernel, dim3(static_cast<unsigned>(items < shape.most_blocks ? items : shape.most_blocks)), dim3(n_warps * lanes), shape.shared_bytes, launch, params);
}

template <class Decoder>
int launch_experts_form(const ExpertsArgs& args, const Launch& launch) {
    ExpertParams params;
    params.gemv = gemv_params<Decoder>(args.product);
    params.gemv.linear.weight.row_scales = nullptr;
    params.row_scales = args.product.weight.row_scales;
    params.route = args.route;
    const GpuWeight& weight = args.product.weight;
    const bool first = args.product.write == GemvWrite::gate;
    params.part_columns = static_cast<int>(operand_columns(first ? weight.n_rows / 2 : weight.n_columns));
    if constexpr (gemv_takes_many_warps<Decoder>) {
        if (gemv_wants_many_warps<Decoder>(params.gemv, first ? weight.n_tiles * args.route.n_used : weight.n_tiles))
            return args.product.n_tokens <= 4 ? launch_experts_warps<Decoder, 1, gemv_many_warps>(params, launch) : launch_experts_warps<Decoder, 2, gemv_many_warps>(params, launch);
    }
    return args.product.n_tokens <= 4 ? launch_experts_warps<Decoder, 1, gemv_warps>(params, launch) : launch_experts_warps<Decoder, 2, gemv_warps>(params, launch);
}

}  // namespace skiff::cuda
