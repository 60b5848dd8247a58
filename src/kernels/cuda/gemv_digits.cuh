// y = W x for 1 to 8 tokens by bytes (digits.cuh). Eight warps share a tile of 16 rows and cut its columns among themselves, as in gemv.cuh; a block works on up to three tiles at once, so that
// the digits of the inputs, which all of its warps need, are made once. Where shared memory does not hold them for all columns (wide matrices, many tokens), the warps of the same
// columns make those of a chunk together and multiply it then, tile beside tile.
#pragma once

#include <algorithm>

#include "kernels/cuda/digits.cuh"

namespace skiff::cuda {

// A block of the most tiles is alone on its SM: 80 registers with 24 warps, 128 with 16.
constexpr int most_digit_groups(int n_blocks) { return n_blocks == 1 ? 3 : 2; }
constexpr int digit_group_threads = gemv_warps * lanes;

template <class Decoder, int n_blocks>
constexpr int digit_reduction_bytes = 2 * gemv_warps * n_blocks * 2 * lanes * 4;  // of a tile's warps, twice

template <class Decoder, int n_blocks>
__global__ void __launch_bounds__(most_digit_groups(n_blocks) * digit_group_threads, 1) gemv_digits_kernel(const __grid_constant__ DigitNormParams all) {
    constexpr int stages = gemv_stages(Decoder::form, gemv_warps), few_stages = gemv_few_stages(Decoder::form, gemv_warps), code_bytes = gemv_chunk_units(Decoder::form) * unit_bytes<Decoder>;
    static_assert(few_stages >= 2);
    const DigitParams& params = all.digits;
    const LinearParams& p = params.linear;
    const GpuWeight& weight = p.weight;
    const int warp_of_block = threadIdx.x / lanes, lane = threadIdx.x % lanes, g = lane / 4, t = lane % 4, warp = warp_of_block % gemv_warps, group = warp_of_block / gemv_warps;
    const int n_groups = params.n_groups, n_block_warps = n_groups * gemv_warps, n_stages = few_stages == stages ? stages : params.n_stages, stage_bytes = code_bytes + params.param_bytes;
    SKIFF_SHARED_MEMORY(shared);
    auto* token_scales = reinterpret_cast<float*>(shared);
    auto* reduction = reinterpret_cast<float*>(shared + gemv_head_bytes + group * digit_reduction_bytes<Decoder, n_blocks>);
    unsigned char* rings = shared + gemv_head_bytes + n_groups * digit_reduction_bytes<Decoder, n_blocks>;
    unsigned char* ring = rings + warp_of_block * n_stages * stage_bytes;
    unsigned char* all_scales = rings + n_block_warps * n_stages * stage_bytes;
    auto* scales = reinterpret_cast<float2*>(all_scales + warp_of_block * digit_scale_bytes);
    unsigned char* digits = all_scales + n_block_warps * digit_scale_bytes;

    // This warp's chunks of every tile, and the tiles of its group: as many rounds for each group, of which the last may have no tile.
    const int n_chunks = weight.n_units / gemv_chunk_units(Decoder::form), first_chunk = n_chunks * warp / gemv_warps, end_chunk = n_chunks * (warp + 1) / gemv_warps;
    const int stride = static_cast<int>(gridDim.x) * n_groups;
    const int tile_records = static_cast<int>(n_param_units(weight, p.layout)) * p.param_bytes;
    ChunkStream<code_bytes> stream(weight, n_chunks, static_cast<int>(blockIdx.x) * n_groups + group, first_chunk, end_chunk, shared_address(ring), lane);
    const auto copy_next = [&] { stream.next(weight, params.place, n_chunks, stride, tile_records, p.param_bytes, params.param_bytes, stage_bytes, n_stages * stage_bytes, lane); };
#pragma unroll 1
    for (int i = 0; i < n_stages - 1; ++i) copy_next();
    Decoder decoder;
    if constexpr (is_table(Decoder::form)) decoder.load_bytes(weight);
    if (lane < 8) scales[lane] = {1, 1};  // of weights without records

    let_successor_start();
    wait_for_predecessor();
    // The last warps have fewer digits to make, or none.
    const int pending_token = n_block_warps - 1 - warp_of_block;
    PendingLoads pending = {};
    if (pending_token < p.n_tokens) pending = load_pending(p.rms, p.first_token + pending_token, lane);
    if (params.keeps_digits != 0) {
#pragma unroll 1
        for (int chunk = warp_of_block; chunk < n_chunks; chunk += n_block_warps) make_digits<Decoder>(p, chunk, 0, tokens_at_once<Decoder>, digits + chunk * p.n_tokens * digit_bytes<Decoder>, lane);
    }
    if (pending_token < p.n_tokens) {
        const float scale = pending_scale(p.rms, pending, p.first_token + pending_token, lane);
        if (lane == 0) token_scales[pending_token] = scale;
    }
    __syncthreads();

    int slot = 0, round = 0;
    for (int first_tile = static_cast<int>(blockIdx.x) * n_groups; first_tile < weight.n_tiles; first_tile += stride, ++round) {
        const int tile = first_tile + group;
        const bool has_tile = tile < weight.n_tiles;
        FinishLoads loads[n_blocks];
        if (has_tile && warp == round % gemv_warps) {
#pragma unroll
            for (int block = 0; block < n_blocks; ++block) loads[block] = load_finish(p, tile, g, p.first_token + 4 * block + t, 4 * block + t < p.n_tokens);
        }
        float sums[n_blocks][2] = {};
#pragma unroll 1
        for (int chunk = first_chunk; chunk < end_chunk; ++chunk) {
            const unsigned char* of_chunk = digits;
            if (params.keeps_digits != 0) {
                of_chunk += chunk * p.n_tokens * digit_bytes<Decoder>;
            } else {
                unsigned char* mine = digits + warp * p.n_tokens * digit_bytes<Decoder>;
                sync_some(1 + most_digit_groups(1) + warp, n_groups * lanes);  // nobody reads those of the chunk before
                make_digits<Decoder>(p, chunk, group * tokens_at_once<Decoder>, n_groups * tokens_at_once<Decoder>, mine, lane);
                __syncwarp();
                sync_some(1 + most_digit_groups(1) + warp, n_groups * lanes);
                of_chunk = mine;
            }
            if (!has_tile) continue;
            Supers supers[2] = {};
            if (has_supers(weight.params)) load_supers(weight, tile, static_cast<std::int64_t>(chunk) * (64 * chunk_slabs<Decoder>), lane % 8, supers);
            if (few_stages == stages || n_stages == stages) copy_wait<stages - 2>();
            else copy_wait<few_stages - 2>();
            __syncwarp();  // records come from other lanes, and none of them still reads the slot that is filled next
            copy_next();
            const unsigned char* here = ring + slot;
            slot = slot + stage_bytes == n_stages * stage_bytes ? 0 : slot + stage_bytes;
            if (p.fold_steps != 0) read_scales<Decoder>(p, supers, here, scales, lane);
            multiply_digits<Decoder, n_blocks>(params, decoder, here, of_chunk, scales, sums);
        }
        if (!has_tile) continue;

        // The warps' sums meet in shared memory; two places for them, so that one barrier a tile is enough, and the warps take turns at finishing.
        float* sums_here = reduction + round % 2 * (gemv_warps * n_blocks * 2 * lanes);
#pragma unroll
        for (int block = 0; block < n_blocks; ++block)
#pragma unroll
            for (int i = 0; i < 2; ++i) sums_here[((warp * n_blocks + block) * 2 + i) * lanes + lane] = sums[block][i];
        sync_some(1 + group, digit_group_threads);
        if (warp == round % gemv_warps) {
#pragma unroll
            for (int block = 0; block < n_blocks; ++block) {
                float v[2];
                add_warps<n_blocks, gemv_warps>(sums_here, block, lane, v);
                const int token = 4 * block + t;
                const bool valid = token < p.n_tokens;
                finish(p, loads[block], tile, g, p.first_token + token, valid, v[0], v[1], token_scales[valid ? token : 0]);
            }
        }
    }
    copy_wait<0>();
    if constexpr (4 * n_blocks <= max_last_norm_tokens) {
        if (all.arrivals != nullptr) last_norms(all.norms, p.n_tokens, all.arrivals, shared, reinterpret_cast<float*>(rings));
    }
}

// Where all warps have whole chunks, and records are of 32 columns and more. So it follows from the weight alone, never from the number of tokens.
template <class Decoder>
bool takes_digits(const GpuWeight& weight) {
    constexpr int most_units = gemv_chunk_units(Decoder::form);
    if (is_table(weight.form) && weight.table_step == 0) return false;
    if (weight.n_units % most_units != 0 || weight.n_units < most_units * gemv_warps) return false;
    return weight.params == ParamForm::none || (weight.group_log2 >= 5 && (!has_supers(weight.params) || 1 << std::min<int>(weight.super_log2, 30) >= most_units * unit_columns(weight.form)));
}

// Tiles at once, chunks of a ring, whose digits are kept: the most of them that a block's shared memory holds, in this order of importance: digits, tiles, ring. Wide records and eight tokens are too much
// for 99 KiB (sm_86, sm_89, sm_120): then four tokens are multiplied, and then the others, with the same bits.
template <class Decoder, int n_blocks>
int launch_digits(const LinearParams& linear, const NormLaunchArgs& norms, std::int32_t* arrivals, const Launch& launch) {
    constexpr int form = static_cast<int>(Decoder::form), most_units = gemv_chunk_units(Decoder::form);
    constexpr int stages = gemv_stages(Decoder::form, gemv_warps), few_stages = gemv_few_stages(Decoder::form, gemv_warps);
    const GpuWeight& weight = linear.weight;
    DigitNormParams all{{linear}, norm_params(norms), arrivals};
    DigitParams& params = all.digits;
    if (weight.params != ParamForm::none) {
        const int group = weight.group_log2;
        params.place = chunk_place(weight, linear.layout, most_units, unit_columns(Decoder::form));
        params.param_bytes = (params.place.record_shift > 0 ? 1 : params.place.record_units) * linear.param_bytes;
        params.fold_pairs = group == 5 ? 1 : 0;
        params.fold_mask = group >= 20 ? 0x3fffffff : group > 6 ? (1 << (group - 6)) - 1 : 0;
    }
    const int n_chunks = weight.n_units / most_units, n_tiles = weight.n_tiles, n_sms = std::max(1, launch.n_sms), tuned = launch.tuning.gemv_blocks[form];
    const int wanted = std::clamp((n_tiles + n_sms - 1) / n_sms, 1, tuned > 0 ? std::min(tuned, most_digit_groups(n_blocks)) : most_digit_groups(n_blocks));
    const std::size_t row_bytes = arrivals != nullptr ? static_cast<std::size_t>(norms.width) * sizeof(float) : 0;
    const auto shared_bytes_of = [&](int n_groups, int n_stages, bool keeps) {
        const std::size_t of_warp = static_cast<std::size_t>(n_stages * (most_units * unit_bytes<Decoder> + params.param_bytes) + digit_scale_bytes);
        const std::size_t digits = static_cast<std::size_t>((keeps ? n_chunks : gemv_warps) * linear.n_tokens) * digit_bytes<Decoder>;
        return gemv_head_bytes + static_cast<std::size_t>(n_groups * digit_reduction_bytes<Decoder, n_blocks>) + std::max(static_cast<std::size_t>(n_groups * gemv_warps) * of_warp + digits, row_bytes);
    };
    const std::size_t most_shared = most_block_shared(launch.arch);
    std::size_t shared_bytes = 0;
    const auto fits = [&](bool keeps) {
        for (int n_groups = wanted; n_groups > 0; --n_groups)
            for (const int n_stages : {stages, few_stages}) {
                if (n_stages == stages && launch.tuning.gemv_ring[form] != Tuning::Ring::longest && stages != few_stages) continue;
                shared_bytes = shared_bytes_of(n_groups, n_stages, keeps);
                params.n_groups = n_groups, params.n_stages = n_stages, params.keeps_digits = keeps ? 1 : 0;
                if (shared_bytes <= most_shared) return true;
            }
        return false;
    };
    if (!fits(true) && !fits(false)) {
        if constexpr (n_blocks > 1) {
            LinearParams part = linear;
            part.n_tokens = 4;
            if (const int error = launch_digits<Decoder, 1>(part, norms, nullptr, launch)) return error;
            part.n_tokens = linear.n_tokens - 4;
            part.first_token = 4;
            part.x += linear.x_slabs * 1024;
            return launch_digits<Decoder, 1>(part, norms, nullptr, launch);
        }
        return cudaErrorInvalidValue;
    }
    auto* kernel = gemv_digits_kernel<Decoder, n_blocks>;
    const int n_threads = params.n_groups * digit_group_threads;
    const std::int64_t blocks = (n_tiles + params.n_groups - 1) / params.n_groups, resident = static_cast<std::int64_t>(n_sms) * blocks_per_sm(kernel, n_threads, shared_bytes);
    return launch_kernel<DigitNormParams>(kernel, dim3(static_cast<unsigned>(std::min(blocks, resident))), dim3(static_cast<unsigned>(n_threads)), shared_bytes, launch, all);
}

}  // namespace skiff::cuda
