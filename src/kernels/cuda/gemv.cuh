// y = W x for 1 to 8 tokens, bound by the bytes of W. Warps read their share of a tile through rings of cp.async in shared memory (no barrier: a lane
// reads what it copied itself, and the records of groups within its warp), decode in registers and multiply on the tensor cores, whose eight columns hold
// both bf16 parts of four tokens' activations. That leaves the vector units free for unpacking: a 4-bit weight costs 1.5 instructions, and would cost twice as
// many with multiply-adds of its own. The ring runs over the end of a tile, and it starts before the kernel in front has ended.
#pragma once

#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/tuning.h"

namespace skiff::cuda {

constexpr int gemv_head_bytes = 128, gemv_table_bytes = 1024;
template <class Decoder, int n_blocks>
constexpr int gemv_fixed_bytes() {
    return gemv_head_bytes + (Decoder::form == CodeForm::table8 ? gemv_table_bytes : 0) + 2 * gemv_warps * n_blocks * 2 * lanes * 4;
}

// Sums of one scale's columns go to the sums of the row.
template <int n_blocks>
__device__ __forceinline__ void fold(float (&sums)[n_blocks][2], float (&part)[n_blocks][4], float (&ones)[n_blocks][4], const GroupScale (&scale)[2]) {
#pragma unroll
    for (int block = 0; block < n_blocks; ++block) {
        // Rounded as written, so that one and two blocks give the same bits.
        const float one = ones[block][0] + ones[block][1];
        sums[block][0] = fmaf(-scale[0].offset, one, fmaf(scale[0].scale, part[block][0] + part[block][1], sums[block][0]));
        sums[block][1] = fmaf(-scale[1].offset, one, fmaf(scale[1].scale, part[block][2] + part[block][3], sums[block][1]));
#pragma unroll
        for (int i = 0; i < 4; ++i) part[block][i] = 0, ones[block][i] = 0;
    }
}

// The bits of a token's sums do not depend on n_blocks (of four tokens) or on the other tokens: each column of the product is summed by itself.
template <class Decoder, int n_blocks>
__global__ void __launch_bounds__(gemv_warps* lanes, gemv_least_blocks) gemv_kernel(const __grid_constant__ LinearParams p) {
    constexpr int unit = unit_columns(Decoder::form), pieces = unit_pieces(Decoder::form), n_steps = slab_steps<Decoder>, n_unit_slabs = unit_slabs<Decoder>, stages = gemv_stages(Decoder::form), few_stages = gemv_few_stages(Decoder::form);
    static_assert(few_stages >= 2);
    SKIFF_SHARED_MEMORY(shared);
    auto* token_scales = reinterpret_cast<float*>(shared);
    unsigned char* tables = shared + gemv_head_bytes;
    auto* reduction = reinterpret_cast<float*>(tables + (Decoder::form == CodeForm::table8 ? gemv_table_bytes : 0));
    const int warp = threadIdx.x / lanes, lane = threadIdx.x % lanes, g = lane / 4, t = lane % 4;
    const int stage_bytes = unit_bytes<Decoder> + p.param_bytes;
    const int n_stages = few_stages == stages ? stages : p.n_stages;
    unsigned char* ring = shared + gemv_fixed_bytes<Decoder, n_blocks>() + warp * n_stages * stage_bytes;
    const GpuWeight& weight = p.weight;

    // This warp's units of every tile.
    const int first_unit = static_cast<int>(static_cast<std::int64_t>(weight.n_units) * warp / gemv_warps);
    const int end_unit = static_cast<int>(static_cast<std::int64_t>(weight.n_units) * (warp + 1) / gemv_warps);
    const auto* records = static_cast<const unsigned char*>(weight.group_params);
    const std::int64_t param_units = n_param_units(weight, p.layout);

    int ahead_tile = end_unit > first_unit ? static_cast<int>(blockIdx.x) : weight.n_tiles, ahead_unit = first_unit, ahead_slot = 0;
    const auto copy_next = [&] {
        if (ahead_tile < weight.n_tiles) {
            const std::uint32_t slot = shared_address(ring + ahead_slot * stage_bytes);
            copy_codes<Decoder>(weight, ahead_tile, ahead_unit, slot, lane);
            if (p.param_bytes > 0) {
                const unsigned char* from = records + (ahead_tile * param_units + p.layout.index(ahead_unit)) * p.param_bytes;
                for (int byte = lane * 16; byte < p.param_bytes; byte += lanes * 16) copy_async16(slot + unit_bytes<Decoder> + byte, from + byte);
            }
            if (++ahead_unit == end_unit) ahead_unit = first_unit, ahead_tile += gridDim.x;
        }
        copy_commit();
        ahead_slot = ahead_slot + 1 == n_stages ? 0 : ahead_slot + 1;
    };
    if constexpr (few_stages == stages) {
#pragma unroll
        for (int i = 0; i < stages - 1; ++i) copy_next();
    } else {
#pragma unroll 1
        for (int i = 0; i < n_stages - 1; ++i) copy_next();
    }

    Decoder decoder;
    if constexpr (Decoder::form == CodeForm::table8) {
        auto* levels = reinterpret_cast<std::uint32_t*>(tables);
        for (int i = threadIdx.x; i < 256; i += gemv_warps * lanes) levels[i] = weight.table[i];
        GpuWeight near = weight;
        near.table = levels;
        decoder.load_tables(near, 0, lane);
    } else if constexpr (!Decoder::per_tile_tables) {
        decoder.load_tables(weight, 0, lane);
    }

    let_successor_start();
    wait_for_predecessor();
    if (warp < p.n_tokens) {
        const float scale = pending_scale(p.rms, warp, lane);
        if (lane == 0) token_scales[warp] = scale;
    }
    __syncthreads();

    const std::int64_t n_slabs = p.x_slabs;
    const bool relative = has_supers(weight.params);
    int slot = 0, round = 0;
    for (int tile = blockIdx.x; tile < weight.n_tiles; tile += gridDim.x, ++round) {
        float sums[n_blocks][2] = {}, part[n_blocks][4] = {}, ones[n_blocks][4] = {};
        if constexpr (Decoder::per_tile_tables) decoder.load_tables(weight, tile, lane);
        for (int u = first_unit; u < end_unit; ++u) {
            Supers supers[2] = {};
            if (relative) load_supers(weight, tile, static_cast<std::int64_t>(u) * unit, g, supers);
            if (few_stages == stages || n_stages == stages) copy_wait<stages - 2>();
            else copy_wait<few_stages - 2>();
            __syncwarp();  // records come from other lanes, and none of them still reads the slot that is filled next
            copy_next();
            const unsigned char* here = ring + slot * stage_bytes;
            slot = slot + 1 == n_stages ? 0 : slot + 1;
#pragma unroll 1
            for (int slab = 0; slab < n_unit_slabs; ++slab) {
                uint4 b[n_blocks][2];
#pragma unroll
                for (int block = 0; block < n_blocks; ++block)
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        b[block][half] = make_uint4(0, 0, 0, 0);
                        if (4 * block + g / 2 < p.n_tokens)
                            b[block][half] = *reinterpret_cast<const uint4*>(p.x + (block * n_slabs + static_cast<std::int64_t>(u) * n_unit_slabs + slab) * 1024 + half * 512 + lane * 16);
                    }
                std::uint32_t words[pieces * 4];
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
                        const unsigned char* record = here + unit_bytes<Decoder> + (g * p.layout.in_unit + p.layout.in(16 * (slab * n_steps + s))) * p.pair_bytes;
                        GroupScale scale[2];
                        read_pair(weight, record, supers, scale);
                        fold<n_blocks>(sums, part, ones, scale);
                    }
                });
            }
        }
        if (p.fold_steps == 0) {
            const GroupScale scale[2] = {{1, 0}, {1, 0}};
            fold<n_blocks>(sums, part, ones, scale);
        }

        // The warps' sums meet in shared memory; two places for them, so that one barrier a tile is enough, and the warps take turns at finishing.
        float* here = reduction + round % 2 * (gemv_warps * n_blocks * 2 * lanes);
#pragma unroll
        for (int block = 0; block < n_blocks; ++block)
#pragma unroll
            for (int i = 0; i < 2; ++i) here[((warp * n_blocks + block) * 2 + i) * lanes + lane] = sums[block][i];
        __syncthreads();
        if (warp == round % gemv_warps) {
#pragma unroll
            for (int block = 0; block < n_blocks; ++block) {
                float v[2] = {0, 0};
#pragma unroll
                for (int from = 0; from < gemv_warps; ++from)
#pragma unroll
                    for (int i = 0; i < 2; ++i) v[i] += here[((from * n_blocks + block) * 2 + i) * lanes + lane];
                const int token = 4 * block + t;
                const bool valid = token < p.n_tokens;
                finish(p, tile, g, token, valid, v[0], v[1], token_scales[valid ? token : 0]);
            }
        }
    }
    copy_wait<0>();
}

template <class Decoder, int n_blocks>
int launch_gemv_blocks(const GemvArgs& args, const Launch& launch) {
    LinearParams params = linear_params(args);
    const auto ring_bytes = [&](int n_stages) { return std::size_t{gemv_warps} * static_cast<std::size_t>(n_stages * (unit_bytes<Decoder> + params.param_bytes)); };
    constexpr int form = static_cast<int>(Decoder::form);
    params.n_stages = ring_bytes(gemv_stages(Decoder::form)) <= 90 * 1024 && launch.tuning.gemv_ring[form] == Tuning::Ring::longest ? gemv_stages(Decoder::form) : gemv_few_stages(Decoder::form);
    const std::size_t shared_bytes = gemv_fixed_bytes<Decoder, n_blocks>() + ring_bytes(params.n_stages);
    auto* kernel = gemv_kernel<Decoder, n_blocks>;
    const int resident = blocks_per_sm(kernel, gemv_warps * lanes, shared_bytes), tuned = launch.tuning.gemv_blocks[form];
    const std::int64_t most = static_cast<std::int64_t>(launch.n_sms) * (tuned > 0 && tuned < resident ? tuned : resident);
    const auto grid = static_cast<unsigned>(args.weight.n_tiles < most ? args.weight.n_tiles : most);
    return launch_kernel<LinearParams>(kernel, dim3(grid), dim3(gemv_warps * lanes), shared_bytes, launch, params);
}

template <class Decoder>
int launch_gemv_form(const GemvArgs& args, const Launch& launch) {
    return args.n_tokens <= 4 ? launch_gemv_blocks<Decoder, 1>(args, launch) : launch_gemv_blocks<Decoder, 2>(args, launch);
}

}  // namespace skiff::cuda
