// What a warp of gemv does with a chunk, 2 KiB of a tile's codes and their records: copies it to its ring in shared memory, and multiplies it. Here on bf16: codes become bf16 in registers, and
// the eight columns of the tensor core's product hold both bf16 parts of four tokens' numbers. digits.cuh has the other way, for integers.
#pragma once

#include <bit>

#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/norm_rows.cuh"
#include "kernels/cuda/tuning.h"

namespace skiff::cuda {

// The head: scales of tokens, whether this block is the last, and what sums over a block need.
constexpr int gemv_head_bytes = 256, gemv_last_at = 32, gemv_scratch_at = 64, gemv_table_bytes = 1024;
template <class Decoder, int n_blocks, int n_warps>
constexpr int gemv_fixed_bytes() {
    return gemv_head_bytes + (Decoder::form == CodeForm::table8 ? gemv_table_bytes : 0) + 2 * n_warps * n_blocks * 2 * lanes * 4;
}

// Where the records of a whole chunk are.
struct ChunkPlace {
    int record_units = 0, record_shift = 0;  // a chunk's first record is of the param unit (chunk * record_units) >> record_shift of its tile
};
inline ChunkPlace chunk_place(const GpuWeight& weight, const ParamLayout& layout, int n_units, int unit) {
    if (weight.params == ParamForm::none) return {};
    if (layout.in_unit > 1) return {n_units, 0};  // a unit of columns has its records
    const int columns = n_units * unit, log2 = std::bit_width(static_cast<unsigned>(columns)) - 1;  // a power of two
    if (weight.group_log2 <= log2) return {columns >> weight.group_log2, 0};
    return {1, weight.group_log2 >= 31 ? 31 : weight.group_log2 - log2};
}

struct GemvParams {
    LinearParams linear;
    int n_stages = 0;           // of a ring
    int n_units = 1;            // of a chunk, what a stage of the ring holds: gemv_chunk_units, or 1 for matrices so narrow that some warps would have none
    int param_bytes = 0;        // of a whole chunk
    int fold_mask = 0x3fffffff; // where records are of 64 columns and more: they end behind each slab of a chunk whose number (from 1) has none of these bits
    ChunkPlace place;
    int is_whole = 0;           // no tile ends within a chunk
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

// A warp's whole chunks of one tile after another on their way to its ring: addresses run on, for there is no time to compute them.
template <int code_bytes>
struct ChunkStream {
    const unsigned char* codes;  // the lane's 16 bytes of the chunk
    std::uint32_t slot, first_slot;
    int tile, chunk, first_chunk, end_chunk;

    __device__ __forceinline__ ChunkStream(const GpuWeight& weight, int n_chunks, int first_tile, int first_chunk_, int end_chunk_, std::uint32_t ring, int lane)
        : slot(ring + lane * 16), first_slot(slot), tile(end_chunk_ > first_chunk_ ? first_tile : weight.n_tiles), chunk(first_chunk_), first_chunk(first_chunk_), end_chunk(end_chunk_) {
        codes = static_cast<const unsigned char*>(weight.codes) + static_cast<std::int64_t>(first_tile * n_chunks + first_chunk) * code_bytes + lane * 16;
    }
    // tile_stride: to the warp's next tile, tile_records, unit_records, chunk_records: bytes of records
    __device__ __forceinline__ void next(const GpuWeight& weight, const ChunkPlace& place, int n_chunks, int tile_stride, int tile_records, int unit_records, int chunk_records, int stage_bytes, int ring_bytes, int lane) {
        if (tile < weight.n_tiles) {
#pragma unroll
            for (int i = 0; i < code_bytes / 512; ++i) copy_async16(slot + i * 512, codes + i * 512);
            if (lane * 16 < chunk_records) {
                const unsigned char* records = static_cast<const unsigned char*>(weight.group_params) + static_cast<std::int64_t>(tile) * tile_records + (chunk * place.record_units >> place.record_shift) * unit_records + lane * 16;
                copy_async16(slot + code_bytes, records);
#pragma unroll 1
                for (int byte = lanes * 16; byte + lane * 16 < chunk_records; byte += lanes * 16) copy_async16(slot + code_bytes + byte, records + byte);
            }
            codes += code_bytes;
            if (++chunk == end_chunk) chunk = first_chunk, tile += tile_stride, codes += static_cast<std::int64_t>(tile_stride * n_chunks - (end_chunk - first_chunk)) * code_bytes;
        }
        copy_commit();
        slot += stage_bytes;
        if (slot == first_slot + ring_bytes) slot = first_slot;
    }
};

// Lanes whose token is not there, or did not choose the expert, multiply zeros, which stay in their registers from slab to slab. Two blocks of four tokens have no registers for that (f32 has): such lanes
// read what lies there, and it goes into columns of the product that nobody reads.
template <class Decoder, int n_blocks>
constexpr bool keeps_zeros = n_blocks == 1 || Decoder::form == CodeForm::f32;

// Whether the numbers of the next slab are loaded while one is multiplied: beside tables there are no registers for two slabs of eight tokens.
template <class Decoder, int n_blocks>
constexpr bool loads_x_ahead = n_blocks == 1 || !is_table(Decoder::form);

// A chunk of a tile, in shared memory at `here`, from unit `first` on. load_x(slab, to): the lane's numbers of a slab of the chunk.
template <class Decoder, int n_blocks, int n_warps, bool x_is_ahead, class LoadX>
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
            if constexpr (x_is_ahead) load_x(decltype(index)::value, b[at]);
            load_slab<Decoder>(here + i * unit_bytes<Decoder>, slab, lane, words[at]);
            positions[at] = slab_positions<Decoder>(here + i * unit_bytes<Decoder>, slab, lane);
        };
        load(std::integral_constant<int, 0>{});
        for_steps<0, n_slabs_here>([&](auto index) {
            constexpr int now = decltype(index)::value, at = now % 2;
            if constexpr (!x_is_ahead) load_x(now, b[at]);
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

}  // namespace skiff::cuda
