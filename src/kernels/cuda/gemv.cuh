// y = W x for 1 to 8 tokens, bound by the bytes of W. Warps read their share of a tile through rings of cp.async in shared memory, some units at a
// time (no barrier: a lane reads what it copied itself, and the records of groups within its warp), decode in registers and multiply on the tensor cores, whose eight columns hold
// both bf16 parts of four tokens' activations. That leaves the vector units free for unpacking: a 4-bit weight costs 1.5 instructions, and would cost twice as
// many with multiply-adds of its own. The ring runs over the end of a tile, and it starts before the kernel in front has ended.
#pragma once

#include <algorithm>

#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/norm_rows.cuh"
#include "kernels/cuda/tuning.h"

namespace skiff::cuda {

// The head: scales of tokens, whether this block is the last, and what sums over a block need.
constexpr int gemv_head_bytes = 128, gemv_last_at = 32, gemv_scratch_at = 64, gemv_table_bytes = 1024;
template <class Decoder, int n_blocks, int n_warps>
constexpr int gemv_fixed_bytes() {
    return gemv_head_bytes + (Decoder::form == CodeForm::table8 ? gemv_table_bytes : 0) + 2 * n_warps * n_blocks * 2 * lanes * 4;
}

struct GemvParams {
    LinearParams linear;
    int n_stages = 0;           // of a ring
    int n_units = 1;            // of a chunk, what a stage of the ring holds: gemv_chunk_units, or 1 for matrices so narrow that some warps would have none
    int param_bytes = 0;        // of a whole chunk
    int fold_mask = 0x3fffffff; // where records are of 64 columns and more: they end behind each slab of a chunk whose number (from 1) has none of these bits
    int is_fine = 0;            // records of fewer columns, or several super scales in a chunk
};
// And the norms of the finished rows.
struct GemvNormParams {
    GemvParams gemv;
    NormParams norms;
    std::int32_t* arrivals = nullptr;
};

// Sums of one scale's columns go to the sums of the row. Rounded as written, so that one and two blocks give the same bits.
template <int n_blocks>
__device__ __forceinline__ void fold(float (&sums)[n_blocks][2], float (&part)[n_blocks][4], const GroupScale (&scale)[2]) {
#pragma unroll
    for (int block = 0; block < n_blocks; ++block) {
        sums[block][0] = fmaf(scale[0].scale, part[block][0] + part[block][1], sums[block][0]);
        sums[block][1] = fmaf(scale[1].scale, part[block][2] + part[block][3], sums[block][1]);
#pragma unroll
        for (int i = 0; i < 4; ++i) part[block][i] = 0;
    }
}
template <int n_blocks>
__device__ __forceinline__ void fold_offsets(float (&sums)[n_blocks][2], float (&ones)[n_blocks][4], const GroupScale (&scale)[2]) {
#pragma unroll
    for (int block = 0; block < n_blocks; ++block) {
        const float one = ones[block][0] + ones[block][1];
#pragma unroll
        for (int i = 0; i < 2; ++i) sums[block][i] = fmaf(-scale[i].offset, one, sums[block][i]);
#pragma unroll
        for (int i = 0; i < 4; ++i) ones[block][i] = 0;
    }
}
// Raw codes are `bias` too large. // ones: the sums of what they were multiplied with
template <int n_blocks>
__device__ __forceinline__ void subtract_bias(float (&part)[n_blocks][4], const float (&ones)[n_blocks][4], float bias) {
#pragma unroll
    for (int block = 0; block < n_blocks; ++block)
#pragma unroll
        for (int i = 0; i < 4; ++i) part[block][i] = fmaf(-bias, ones[block][i % 2], part[block][i]);
}
// Decoders that give codes without the subtraction of their middle, too (lane.h).
template <class Decoder, class = void>
constexpr bool has_raw_codes = false;
template <class Decoder>
constexpr bool has_raw_codes<Decoder, std::void_t<decltype(Decoder::raw_bias)>> = true;

// A decoder's tables that all tiles share. `near`: shared memory of gemv_table_bytes, whose numbers are there behind the next barrier.
template <class Decoder, int n_threads>
__device__ __forceinline__ void load_shared_tables(Decoder& decoder, const GpuWeight& weight, unsigned char* near, int lane) {
    if constexpr (Decoder::form == CodeForm::table8) {
        auto* levels = reinterpret_cast<std::uint32_t*>(near);
        for (int i = threadIdx.x; i < 256; i += n_threads) levels[i] = weight.table[i];
        GpuWeight of_levels = weight;
        of_levels.table = levels;
        decoder.load_tables(of_levels, 0, lane);
    } else if constexpr (!Decoder::per_tile_tables) {
        decoder.load_tables(weight, 0, lane);
    }
}
// The warps' sums of a tile, in order // sums: (n_warps, n_blocks, 2, lanes)
template <int n_blocks, int n_warps>
__device__ __forceinline__ void add_warps(const float* sums, int block, int lane, float (&v)[2]) {
    v[0] = v[1] = 0;
#pragma unroll
    for (int from = 0; from < n_warps; ++from)
#pragma unroll
        for (int i = 0; i < 2; ++i) v[i] += sums[((from * n_blocks + block) * 2 + i) * lanes + lane];
}

// A chunk's codes and records on their way to shared memory, by a warp. Units and records of a chunk are neighbours in memory, too. `slot` is the lane's.
template <class Decoder>
__device__ __forceinline__ void copy_chunk(const GemvParams& params, int param_units, int tile, int chunk, std::uint32_t slot, int lane) {
    constexpr int most_units = gemv_chunk_units(Decoder::form);
    const LinearParams& p = params.linear;
    const int first = chunk * params.n_units, n = min(params.n_units, p.weight.n_units - first);
    const int unit = tile * p.weight.n_units + first, in_tile = p.layout.in_unit > 1 ? first : (first << p.layout.unit_log2) >> p.layout.group_log2;
    int param_bytes = params.param_bytes;
    if (n == most_units) {
        copy_units<Decoder, most_units>(p.weight, unit, slot, lane);
    } else {
#pragma unroll 1
        for (int i = 0; i < n; ++i) copy_units<Decoder, 1>(p.weight, unit + i, slot + i * unit_bytes<Decoder>, lane);
        param_bytes = static_cast<int>(p.layout.index(first + n - 1) - p.layout.index(first) + 1) * p.param_bytes;
    }
    const unsigned char* from = static_cast<const unsigned char*>(p.weight.group_params) + static_cast<std::int64_t>(tile * param_units + in_tile) * p.param_bytes;
#pragma unroll 1
    for (int byte = lane * 16; byte < param_bytes; byte += lanes * 16) copy_async16(slot + most_units * unit_bytes<Decoder> + byte, from + byte);
}

// A chunk of a tile, in shared memory at `here`, from unit `first` on. load_x(slab, to): the lane's numbers of a slab of the chunk.
template <class Decoder, int n_blocks, int n_warps, class LoadX>
__device__ __forceinline__ void multiply_chunk(const GemvParams& params, const Decoder& decoder, int tile, int first, const unsigned char* here, LoadX&& load_x, uint4 (&b)[2][n_blocks][2], Supers (&supers)[2],
                                               float (&sums)[n_blocks][2], float (&part)[n_blocks][4], float (&ones)[n_blocks][4]) {
    constexpr int unit = unit_columns(Decoder::form), n_steps = slab_steps<Decoder>, n_unit_slabs = unit_slabs<Decoder>, most_units = gemv_chunk_units(Decoder::form);
    const LinearParams& p = params.linear;
    const GpuWeight& weight = p.weight;
    const int lane = threadIdx.x % lanes, g = lane / 4;
    const bool relative = has_supers(weight.params), has_records = p.fold_steps != 0;
    const bool is_common = weight.params == ParamForm::s16 && weight.param_float == Float16Form::f16;
    const unsigned char* records = here + most_units * unit_bytes<Decoder> + g * p.layout.in_unit * p.pair_bytes;  // of row g
    const auto fold_records = [&](int i, int slab, int s) {
        const int unit_of_records = p.layout.in_unit > 1 ? i : (i * unit) >> p.layout.group_log2;
        const unsigned char* record = records + unit_of_records * p.param_bytes + p.layout.in(16 * (slab * n_steps + s)) * p.pair_bytes;
        GroupScale scale[2];
        if (is_common) {
            const std::uint32_t both = *reinterpret_cast<const std::uint32_t*>(record);
            scale[0] = {f16_float(both & 0xffffu), 0}, scale[1] = {f16_float(both >> 16), 0};
            fold<n_blocks>(sums, part, scale);
            return;
        }
        read_pair(weight, record, supers, scale);
        fold<n_blocks>(sums, part, scale);
        if (p.has_offsets != 0) fold_offsets<n_blocks>(sums, ones, scale);
    };
    const int n = min(params.n_units, weight.n_units - first);
    if (n_warps > gemv_warps || (n == most_units && params.is_fine == 0)) {
        // What a slab reads is loaded while the one in front is multiplied.
        constexpr int n_slabs_here = most_units * n_unit_slabs;
        constexpr bool is_raw = has_raw_codes<Decoder>;
        std::uint32_t words[2][unit_words(Decoder::form)], positions[2];
        const auto load = [&](auto index) {
            constexpr int i = decltype(index)::value / n_unit_slabs, slab = decltype(index)::value % n_unit_slabs, at = decltype(index)::value % 2;
            load_x(decltype(index)::value, b[at]);
            load_slab<Decoder>(here + i * unit_bytes<Decoder>, slab, lane, words[at]);
            positions[at] = slab_positions<Decoder>(here + i * unit_bytes<Decoder>, slab, lane);
        };
        load(std::integral_constant<int, 0>{});
        for_steps<0, n_slabs_here>([&](auto index) {
            constexpr int now = decltype(index)::value, at = now % 2;
            if constexpr (now + 1 < n_slabs_here) load(std::integral_constant<int, now + 1>{});
            for_steps<0, n_steps>([&](auto step) {
                constexpr int s = decltype(step)::value;
                std::uint32_t a[Decoder::n_parts][4];
                if constexpr (is_raw) decoder.template raw_step<s>(words[at], a);
                else decoder.template step<s>(words[at], a);
#pragma unroll
                for (int block = 0; block < n_blocks; ++block) multiply_step<Decoder>(part[block], a, b[at][block], s, positions[at]);
            });
            if (is_raw || p.has_offsets != 0)
#pragma unroll
                for (int s = 0; s < n_steps; ++s)
#pragma unroll
                    for (int block = 0; block < n_blocks; ++block) sum_numbers<Decoder>(ones[block], b[at][block], s);
            if (now + 1 == n_slabs_here || ((now + 1) & params.fold_mask) == 0) {
                if constexpr (is_raw) subtract_bias<n_blocks>(part, ones, Decoder::raw_bias);
                if (has_records) {
                    fold_records(now / n_unit_slabs, now % n_unit_slabs, n_steps - 1);
                } else if constexpr (is_raw) {
                    const GroupScale scale[2] = {{1, 0}, {1, 0}};
                    fold<n_blocks>(sums, part, scale);
                }
                if constexpr (is_raw)
#pragma unroll
                    for (int block = 0; block < n_blocks; ++block)
#pragma unroll
                        for (int i = 0; i < 4; ++i) ones[block][i] = 0;
            }
        });
    } else if constexpr (n_warps == gemv_warps) {  // sixteen warps are for whole chunks
#pragma unroll 1
        for (int index = 0; index < n * n_unit_slabs; ++index) {
            const int i = index / n_unit_slabs, slab = index % n_unit_slabs;
            if (relative && slab == 0) load_supers(weight, tile, static_cast<std::int64_t>(first + i) * unit, g, supers);
            load_x(index, b[0]);
            std::uint32_t words[unit_words(Decoder::form)];
            load_slab<Decoder>(here + i * unit_bytes<Decoder>, slab, lane, words);
            const std::uint32_t positions = slab_positions<Decoder>(here + i * unit_bytes<Decoder>, slab, lane);
            for_steps<0, n_steps>([&](auto step) {
                constexpr int s = decltype(step)::value;
                std::uint32_t a[Decoder::n_parts][4];
                decoder.template step<s>(words, a);
#pragma unroll
                for (int block = 0; block < n_blocks; ++block) {
                    multiply_step<Decoder>(part[block], a, b[0][block], s, positions);
                    sum_step<Decoder>(p, ones[block], b[0][block], s);
                }
                if ((p.fold_steps >> s & 1) != 0) fold_records(i, slab, s);
            });
        }
    }
}

// The block that ends last has all rows before it: the norms behind the product. // near: shared memory for a row
__device__ __forceinline__ void last_norms(const NormParams& norms, int n_tokens, std::int32_t* arrivals, unsigned char* head, float* near) {
    auto* is_last = reinterpret_cast<int*>(head + gemv_last_at);
    __threadfence();
    __syncthreads();  // nobody reads the rings any more
    if (threadIdx.x == 0) {
        *is_last = atomicAdd(arrivals, 1) + 1 == static_cast<int>(gridDim.x) ? 1 : 0;
        if (*is_last != 0) *arrivals = 0;
    }
    __syncthreads();
    if (*is_last == 0) return;
    __threadfence();
    for (int token = 0; token < n_tokens; ++token) {
        const float* x = norms.args.x + token * norms.args.x_stride;  // other SMs wrote it: past the L1
        if (threadIdx.x < norm_threads)
            for (int at = static_cast<int>(threadIdx.x) * 4; at < norms.args.width; at += norm_threads * 4) *reinterpret_cast<float4*>(near + at) = __ldcg(reinterpret_cast<const float4*>(x + at));
        norm_row<4>(norms, token, 0, near, reinterpret_cast<float*>(head + gemv_scratch_at));
    }
}

// The bits of a token's sums do not depend on n_blocks (of four tokens) or on the other tokens: each column of the product is summed by itself.
template <class Decoder, int n_blocks, int n_warps>
__global__ void __launch_bounds__(n_warps* lanes, gemv_least_blocks(Decoder::form, Decoder::n_parts, n_blocks, n_warps)) gemv_kernel(const __grid_constant__ GemvNormParams all) {
    constexpr int unit = unit_columns(Decoder::form), n_unit_slabs = unit_slabs<Decoder>, stages = gemv_stages(Decoder::form, n_warps), few_stages = gemv_few_stages(Decoder::form, n_warps);
    constexpr int most_units = gemv_chunk_units(Decoder::form);
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
    const auto copy_next = [&] {
        if (ahead_tile < weight.n_tiles) {
            copy_chunk<Decoder>(params, param_units, ahead_tile, ahead_chunk, shared_address(ring + ahead_slot * stage_bytes), lane);
            if (++ahead_chunk == end_chunk) ahead_chunk = first_chunk, ahead_tile += gridDim.x;
        }
        copy_commit();
        ahead_slot = ahead_slot + 1 == n_stages ? 0 : ahead_slot + 1;
    };
#pragma unroll 1
    for (int i = 0; i < n_stages - 1; ++i) copy_next();

    Decoder decoder;
    load_shared_tables<Decoder, n_warps * lanes>(decoder, weight, tables, lane);

    let_successor_start();
    wait_for_predecessor();
    if (warp < p.n_tokens) {
        const float scale = pending_scale(p.rms, warp, lane);
        if (lane == 0) token_scales[warp] = scale;
    }
    __syncthreads();

    const std::int64_t n_slabs = p.x_slabs;
    const bool relative = has_supers(weight.params), has_records = p.fold_steps != 0;
    bool has_token[n_blocks];
#pragma unroll
    for (int block = 0; block < n_blocks; ++block) has_token[block] = 4 * block + g / 2 < p.n_tokens;
    // Lanes of tokens that are not there keep their zeros.
    uint4 b[2][n_blocks][2];
#pragma unroll
    for (int block = 0; block < n_blocks; ++block)
#pragma unroll
        for (int i = 0; i < 4; ++i) b[i / 2][block][i % 2] = make_uint4(0, 0, 0, 0);
    int slot = 0, round = 0;
    for (int tile = blockIdx.x; tile < weight.n_tiles; tile += gridDim.x, ++round) {
        float sums[n_blocks][2] = {}, part[n_blocks][4] = {}, ones[n_blocks][4] = {};
        if constexpr (Decoder::per_tile_tables) decoder.load_tables(weight, tile, lane);
        for (int chunk = first_chunk; chunk < end_chunk; ++chunk) {
            const int first = chunk * params.n_units;
            Supers supers[2] = {};
            if (relative) load_supers(weight, tile, static_cast<std::int64_t>(first) * unit, g, supers);
            if (few_stages == stages || n_stages == stages) copy_wait<stages - 2>();
            else copy_wait<few_stages - 2>();
            __syncwarp();  // records come from other lanes, and none of them still reads the slot that is filled next
            copy_next();
            const unsigned char* here = ring + slot * stage_bytes;
            slot = slot + 1 == n_stages ? 0 : slot + 1;
            const unsigned char* x = p.x + static_cast<std::int64_t>(first) * (n_unit_slabs * 1024) + lane * 16;
            multiply_chunk<Decoder, n_blocks, n_warps>(
                params, decoder, tile, first, here,
                [&](int slab, uint4 (&to)[n_blocks][2]) {
#pragma unroll
                    for (int block = 0; block < n_blocks; ++block)
#pragma unroll
                        for (int half = 0; half < 2; ++half)
                            if (has_token[block]) to[block][half] = *reinterpret_cast<const uint4*>(x + block * n_slabs * 1024 + (slab * 1024 + half * 512));
                },
                b, supers, sums, part, ones);
        }
        if (!has_records) {
            const GroupScale scale[2] = {{1, 0}, {1, 0}};
            fold<n_blocks>(sums, part, scale);
        }

        // The warps' sums meet in shared memory; two places for them, so that one barrier a tile is enough, and the warps take turns at finishing.
        float* sums_here = reduction + round % 2 * (n_warps * n_blocks * 2 * lanes);
#pragma unroll
        for (int block = 0; block < n_blocks; ++block)
#pragma unroll
            for (int i = 0; i < 2; ++i) sums_here[((warp * n_blocks + block) * 2 + i) * lanes + lane] = sums[block][i];
        __syncthreads();
        if (warp == round % n_warps) {
#pragma unroll
            for (int block = 0; block < n_blocks; ++block) {
                float v[2];
                add_warps<n_blocks, n_warps>(sums_here, block, lane, v);
                const int token = 4 * block + t;
                const bool valid = token < p.n_tokens;
                finish(p, tile, g, token, valid, v[0], v[1], token_scales[valid ? token : 0]);
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
    gemv_few_stages(Decoder::form, gemv_many_warps) >= 2 && !Decoder::two_of_four && (has_raw_codes<Decoder> || Decoder::form == CodeForm::bf16 || Decoder::form == CodeForm::e4m3 || Decoder::form == CodeForm::linear8);
template <class Decoder>
bool gemv_wants_many_warps(const GemvParams& params, std::int64_t n_tiles) {
    constexpr int most_units = gemv_chunk_units(Decoder::form);
    const int n_units = params.linear.weight.n_units;
    return n_tiles <= gemv_few_tiles && n_units % most_units == 0 && n_units >= most_units * gemv_many_warps && params.is_fine == 0;
}

template <class Decoder>
int launch_gemv_form(const GemvArgs& args, const Launch& launch) {
    const GemvNormParams params{gemv_params<Decoder>(args), norm_params(args.norms), args.arrivals};
    if constexpr (gemv_takes_many_warps<Decoder>) {
        if (gemv_wants_many_warps<Decoder>(params.gemv, args.weight.n_tiles)) return args.n_tokens <= 4 ? launch_gemv_warps<Decoder, 1, gemv_many_warps>(params, launch) : launch_gemv_warps<Decoder, 2, gemv_many_warps>(params, launch);
    }
    return args.n_tokens <= 4 ? launch_gemv_warps<Decoder, 1, gemv_warps>(params, launch) : launch_gemv_warps<Decoder, 2, gemv_warps>(params, launch);
}

}  // namespace skiff::cuda
