// Mixtures of experts for 1 to 8 tokens, as gemv.cuh multiplies: each block finds out by the router's logits whom the tokens chose, and reads those experts' weights alone. Of the first matrices a block
// takes one expert's tile at a time; of the second ones a tile of all chosen experts one behind the other, so that their sum needs no other block. A warp's columns of an expert are those of gemv, and
// experts that a token did not choose are left out of its sums: a token's bits do not depend on the others.
#pragma once

#include "kernels/cuda/gemv.cuh"
#include "kernels/cuda/routing.cuh"

namespace skiff::cuda {

struct ExpertParams {
    LinearParams linear;                // weight: the first expert's, without row_scales
    const float* row_scales = nullptr;  // of all experts' tiles
    RouteLaunchArgs route;
    int n_stages = 0;                   // of a warp's ring
    int part_columns = 0;               // of the operand between the two: from one chosen expert to the next
};

// Units in a warp's ring, 2 to 4 KiB on their way; what 99 KiB hold of the widest records (tuning.h).
constexpr int expert_stages(CodeForm form) {
    const int pieces = unit_pieces(form);
    return pieces == 1 ? 8 : pieces == 2 ? 5 : pieces == 3 ? 4 : pieces <= 5 ? 3 : 2;
}
constexpr int expert_few_stages(CodeForm form) {
    const int widest = unit_pieces(form) * 512 + unit_columns(form) / 16 * tile_rows * 8, fit = 90 * 1024 / (gemv_warps * widest), stages = expert_stages(form);
    return fit < stages ? fit : stages;
}

// A unit in shared memory times the tokens' columns of it. load(block, half, slab): this lane's 16 bytes of the operand of four tokens.
template <class Decoder, int n_blocks, class Load>
__device__ __forceinline__ void multiply_unit(const LinearParams& p, const Decoder& decoder, const unsigned char* here, const Supers (&supers)[2], int lane, Load&& load, float (&sums)[n_blocks][2],
                                              float (&part)[n_blocks][4], float (&ones)[n_blocks][4]) {
    constexpr int n_steps = slab_steps<Decoder>;
#pragma unroll 1
    for (int slab = 0; slab < unit_slabs<Decoder>; ++slab) {
        uint4 b[n_blocks][2];
#pragma unroll
        for (int block = 0; block < n_blocks; ++block)
#pragma unroll
            for (int half = 0; half < 2; ++half) b[block][half] = load(block, half, slab);
        std::uint32_t words[unit_words(Decoder::form)];
        load_slab<Decoder>(here, slab, lane, words);
        const std::uint32_t positions = slab_positions<Decoder>(here, slab, lane);
        for_steps<0, n_steps>([&](auto index) {
            constexpr int s = decltype(index)::value;
            std::uint32_t a[Decoder::n_parts][4];
            decoder.template step<s>(words, a);
#pragma unroll
            for (int block = 0; block < n_blocks; ++block) {
                multiply_step<Decoder>(part[block], a, b[block], s, positions);
                sum_step<Decoder>(p, ones[block], b[block], s);
            }
            if ((p.fold_steps >> s & 1) != 0) {
                const unsigned char* record = here + unit_bytes<Decoder> + (lane / 4 * p.layout.in_unit + p.layout.in(16 * (slab * n_steps + s))) * p.pair_bytes;
                GroupScale scale[2];
                read_pair(p.weight, record, supers, scale);
                fold<n_blocks>(sums, part, scale);
                fold_offsets<n_blocks>(sums, ones, scale);
            }
        });
    }
}

template <class Decoder, int n_blocks>
__global__ void __launch_bounds__(gemv_warps* lanes, 2) expert_gemv_kernel(const __grid_constant__ ExpertParams params) {
    static_assert(gemv_warps * lanes >= max_routed_experts && gemv_warps >= max_gemv_tokens);
    constexpr int unit = unit_columns(Decoder::form), n_unit_slabs = unit_slabs<Decoder>, stages = expert_stages(Decoder::form), few_stages = expert_few_stages(Decoder::form);
    SKIFF_SHARED_MEMORY(shared);
    __shared__ Routed routed;
    auto* token_scales = reinterpret_cast<float*>(shared);
    unsigned char* tables = shared + gemv_head_bytes;
    auto* reduction = reinterpret_cast<float*>(tables + (Decoder::form == CodeForm::table8 ? gemv_table_bytes : 0));
    const LinearParams& p = params.linear;
    const GpuWeight& weight = p.weight;
    const int warp = threadIdx.x / lanes, lane = threadIdx.x % lanes, g = lane / 4, t = lane % 4;
    const int stage_bytes = unit_bytes<Decoder> + p.param_bytes;
    const int n_stages = few_stages == stages ? stages : params.n_stages;
    unsigned char* ring = shared + gemv_fixed_bytes<Decoder, n_blocks, gemv_warps>() + warp * n_stages * stage_bytes;
    const int first_unit = static_cast<int>(static_cast<std::int64_t>(weight.n_units) * warp / gemv_warps);
    const int end_unit = static_cast<int>(static_cast<std::int64_t>(weight.n_units) * (warp + 1) / gemv_warps);
    const auto* records = static_cast<const unsigned char*>(weight.group_params);
    const std::int64_t param_units = n_param_units(weight, p.layout);

    Decoder decoder;
    load_shared_tables<Decoder, gemv_warps * lanes>(decoder, weight, tables, lane);

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

    int ahead_item = end_unit > first_unit ? static_cast<int>(blockIdx.x) : n_items, ahead_segment = 0, ahead_unit = first_unit, ahead_slot = 0;
    int ahead_tile = ahead_item < n_items ? tile_of(ahead_item, 0) : 0;
    const auto copy_next = [&] {
        if (ahead_item < n_items) {
            const std::uint32_t slot = shared_address(ring + ahead_slot * stage_bytes);
            copy_codes<Decoder>(weight, ahead_tile, ahead_unit, slot, lane);
            if (p.param_bytes > 0) {
                const unsigned char* from = records + (ahead_tile * param_units + p.layout.index(ahead_unit)) * p.param_bytes;
                for (int byte = lane * 16; byte < p.param_bytes; byte += lanes * 16) copy_async16(slot + unit_bytes<Decoder> + byte, from + byte);
            }
            if (++ahead_unit == end_unit) {
                ahead_unit = first_unit;
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
        float shared_sums[n_blocks][2] = {};  // weighted
#pragma unroll 1
        for (int segment = 0; segment < n_segments; ++segment) {
            const int active = active_of(item, segment), tile = tile_of(item, segment);
            float sums[n_blocks][2] = {}, part[n_blocks][4] = {}, ones[n_blocks][4] = {};
            int x[n_blocks];  // the byte at which this lane's numbers of this expert begin; negative: its token did not choose it
#pragma unroll
            for (int block = 0; block < n_blocks; ++block) {
                const int token = 4 * block + g / 2, place = token < p.n_tokens ? routed.places[active][token] : -1;
                x[block] = place < 0 ? -1 : (block * n_slabs + (first ? 0 : place * (params.part_columns / slab_columns))) * 1024 + lane * 16;
            }
            if constexpr (Decoder::per_tile_tables) decoder.load_tables(weight, tile, lane);
            for (int u = first_unit; u < end_unit; ++u) {
                Supers supers[2] = {};
                if (relative) load_supers(weight, tile, static_cast<std::int64_t>(u) * unit, g, supers);
                if (few_stages == stages || n_stages == stages) copy_wait<stages - 2>();
                else copy_wait<few_stages - 2>();
                __syncwarp();
                copy_next();
                const unsigned char* here = ring + slot * stage_bytes;
                slot = slot + 1 == n_stages ? 0 : slot + 1;
                multiply_unit<Decoder, n_blocks>(
                    p, decoder, here, supers, lane,
                    [&](int block, int half, int slab) {
                        if (x[block] < 0) return make_uint4(0, 0, 0, 0);
                        return *reinterpret_cast<const uint4*>(p.x + (x[block] + (u * n_unit_slabs + slab) * 1024 + half * 512));
                    },
                    sums, part, ones);
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
                    if (place >= 0) shared_sums[block][i] = fmaf(first ? 1.0f : routed.shares[token][place], row_scale * sums[block][i], shared_sums[block][i]);
                }
            }
        }

        float* here = reduction + round % 2 * (gemv_warps * n_blocks * 2 * lanes);
#pragma unroll
        for (int block = 0; block < n_blocks; ++block)
#pragma unroll
            for (int i = 0; i < 2; ++i) here[((warp * n_blocks + block) * 2 + i) * lanes + lane] = shared_sums[block][i];
        __syncthreads();
        if (warp != round % gemv_warps) continue;
#pragma unroll
        for (int block = 0; block < n_blocks; ++block) {
            float v[2];
            add_warps<n_blocks, gemv_warps>(here, block, lane, v);
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

template <class Decoder, int n_blocks>
int launch_experts_blocks(const ExpertsArgs& args, const Launch& launch) {
    ExpertParams params;
    params.linear = linear_params(args.product);
    params.linear.weight.row_scales = nullptr;
    params.row_scales = args.product.weight.row_scales;
    params.route = args.route;
    const GpuWeight& weight = args.product.weight;
    const bool first = args.product.write == GemvWrite::gate;
    params.part_columns = static_cast<int>(operand_columns(first ? weight.n_rows / 2 : weight.n_columns));
    const auto ring_bytes = [&](int n_stages) { return std::size_t{gemv_warps} * static_cast<std::size_t>(n_stages * (unit_bytes<Decoder> + params.linear.param_bytes)); };
    constexpr int form = static_cast<int>(Decoder::form);
    params.n_stages = ring_bytes(expert_stages(Decoder::form)) <= 90 * 1024 && launch.tuning.gemv_ring[form] == Tuning::Ring::longest ? expert_stages(Decoder::form) : expert_few_stages(Decoder::form);
    const std::size_t shared_bytes = gemv_fixed_bytes<Decoder, n_blocks, gemv_warps>() + ring_bytes(params.n_stages);
    auto* kernel = expert_gemv_kernel<Decoder, n_blocks>;
    const int resident = blocks_per_sm(kernel, gemv_warps * lanes, shared_bytes), tuned = launch.tuning.gemv_blocks[form];
    const std::int64_t most = static_cast<std::int64_t>(launch.n_sms) * (tuned > 0 && tuned < resident ? tuned : resident), chosen = args.route.n_used * args.route.n_tokens;
    const std::int64_t items = weight.n_tiles * (!first ? 1 : chosen < args.route.n_experts ? chosen : args.route.n_experts);
    return launch_kernel<ExpertParams>(kernel, dim3(static_cast<unsigned>(items < most ? items : most)), dim3(gemv_warps * lanes), shared_bytes, launch, params);
}

template <class Decoder>
int launch_experts_form(const ExpertsArgs& args, const Launch& launch) {
    return args.product.n_tokens <= 4 ? launch_experts_blocks<Decoder, 1>(args, launch) : launch_experts_blocks<Decoder, 2>(args, launch);
}

}  // namespace skiff::cuda
