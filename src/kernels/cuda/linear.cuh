// What the matrix kernels share: their parameters, the scales of groups, and what happens to a finished number.
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/two_of_four.h"

namespace skiff::cuda {

// Products of a slab of 64 columns, slabs of a unit, and a unit's bytes in front of its records.
template <class Decoder>
constexpr int slab_steps = Decoder::two_of_four ? 2 : 4;
template <class Decoder>
constexpr int unit_slabs = unit_columns(Decoder::form) / (16 * slab_steps<Decoder>);
template <class Decoder>
constexpr int unit_bytes = unit_pieces(Decoder::form) * 512 + (Decoder::two_of_four ? position_unit_bytes : 0);

struct LinearParams {
    GpuWeight weight;
    ParamLayout layout;
    int param_bytes = 0;        // of a unit and tile
    int pair_bytes = 0;         // of the records of rows g and g + 8
    int fold_steps = 0;         // bit s: a record's columns end behind step s of a slab. A group of 16 columns ends with every step, one of 32 with every second; wider ones are folded every 64 columns
    int has_offsets = 0;
    const unsigned char* x = nullptr;
    std::int64_t x_slabs = 0;   // of the operand that x lies in
    int n_tokens = 0;
    int first_token = 0;        // of all but x, which begins with it (gemv_digits.cuh)
    PendingRms rms;
    const float* bias = nullptr;
    GemvWrite write = GemvWrite::replace;
    Activation activation = Activation::silu;
    float* y = nullptr;
    std::int64_t y_stride = 0;
    float softcap = 0, factor = 1;
    const float* next_weight = nullptr;
    OperandTarget operand;
    int cuts[2] = {0, 0}, gaps[2] = {0, 0};  // of the operand
    float* square_sums = nullptr;
};

template <class Args>
LinearParams linear_params(const Args& args) {
    LinearParams p;
    p.weight = args.weight;
    p.layout = param_layout(args.weight, unit_columns(args.weight.form));
    p.param_bytes = param_unit_bytes(args.weight.params, p.layout);
    p.pair_bytes = 2 * record_bytes(args.weight.params);
    const int every_step = args.weight.two_of_four ? 3 : 15, every_second = args.weight.two_of_four ? 2 : 10, last_step = args.weight.two_of_four ? 2 : 8;
    p.fold_steps = args.weight.params == ParamForm::none ? 0 : args.weight.group_log2 == 4 ? every_step : args.weight.group_log2 == 5 ? every_second : last_step;
    p.has_offsets = has_offset(args.weight.params) ? 1 : 0;
    p.x = static_cast<const unsigned char*>(args.x) + args.x_first / slab_columns * 1024;
    p.x_slabs = operand_columns(args.x_columns > 0 ? args.x_columns : args.weight.n_columns) / slab_columns;
    p.n_tokens = static_cast<int>(args.n_tokens);
    p.rms = args.rms;
    p.bias = args.bias;
    p.write = args.write;
    p.activation = args.activation;
    p.y = args.y;
    p.y_stride = args.y_stride;
    p.softcap = args.softcap;
    p.factor = args.factor;
    p.next_weight = args.next.weight;
    p.operand = target_of(args.next.operand);
    for (int i = 0; i < 2; ++i) p.cuts[i] = args.next.operand.cuts[i] > 0 ? args.next.operand.cuts[i] : INT32_MAX, p.gaps[i] = args.next.operand.gaps[i];
    p.square_sums = args.next.square_sums;
    return p;
}

template <int i, int n, class Use>
__device__ __forceinline__ void for_steps(Use&& use) {
    if constexpr (i < n) {
        use(std::integral_constant<int, i>{});
        for_steps<i + 1, n>(use);
    }
}

// A lane's words of one slab of a unit that lies in shared memory: at the places of the unit's first slab, so that a decoder's steps 0 .. 3 read them.
template <class Decoder>
__device__ __forceinline__ void load_slab(const unsigned char* unit, int slab, int lane, std::uint32_t (&words)[unit_words(Decoder::form)]) {
    if constexpr (Decoder::two_of_four) {  // half of the words
        constexpr int n = unit_words(Decoder::form) / 2;
        if constexpr (n == 2) {
            const uint2 two = *reinterpret_cast<const uint2*>(unit + lane * 16 + slab * 8);
            words[0] = two.x, words[1] = two.y;
        } else {
#pragma unroll
            for (int i = 0; i < n / 4; ++i) {
                const uint4 four = *reinterpret_cast<const uint4*>(unit + (slab * (n / 4) + i) * 512 + lane * 16);
                words[i * 4] = four.x, words[i * 4 + 1] = four.y, words[i * 4 + 2] = four.z, words[i * 4 + 3] = four.w;
            }
        }
    } else if constexpr (unit_columns(Decoder::form) == slab_columns) {
#pragma unroll
        for (int piece = 0; piece < unit_pieces(Decoder::form); ++piece) {
            const uint4 four = *reinterpret_cast<const uint4*>(unit + piece * 512 + lane * 16);
            words[piece * 4] = four.x, words[piece * 4 + 1] = four.y, words[piece * 4 + 2] = four.z, words[piece * 4 + 3] = four.w;
        }
    } else {
        constexpr Planes planes = planes_of(Decoder::form);
        for_steps<0, planes.n>([&](auto index) {
            constexpr int i = decltype(index)::value, bits = planes.bits[i], first = planes.first_word[i];
            const unsigned char* plane = unit + first / 4 * 512 + lane * 16;
            if constexpr (bits == 4) {
                const uint4 four = *reinterpret_cast<const uint4*>(plane + slab * 512);
                words[first] = four.x, words[first + 1] = four.y, words[first + 2] = four.z, words[first + 3] = four.w;
            } else if constexpr (bits == 2) {
                const uint2 two = *reinterpret_cast<const uint2*>(plane + slab / 2 * 512 + slab % 2 * 8);
                words[first] = two.x, words[first + 1] = two.y;
            } else {
                words[first] = *reinterpret_cast<const std::uint32_t*>(plane + slab * 4);
            }
        });
    }
}

// The positions of a slab's kept columns, of a unit that lies in shared memory.
template <class Decoder>
__device__ __forceinline__ std::uint32_t slab_positions(const unsigned char* unit, int slab, int lane) {
    if constexpr (Decoder::two_of_four) return *reinterpret_cast<const std::uint32_t*>(unit + unit_pieces(Decoder::form) * 512 + lane * 8 + slab * 4);
    else return 0;
}
// The codes and, of kept columns, the positions of some units, which are neighbours, on their way to shared memory, by a warp. `first` of all units of the matrix.
template <class Decoder, int n_units>
__device__ __forceinline__ void copy_units(const GpuWeight& weight, std::int64_t first, std::uint32_t slot, int lane) {
    constexpr int pieces = unit_pieces(Decoder::form);
    const unsigned char* source = static_cast<const unsigned char*>(weight.codes) + first * (pieces * 512) + lane * 16;
#pragma unroll
    for (int i = 0; i < n_units; ++i) {
#pragma unroll
        for (int piece = 0; piece < pieces; ++piece) copy_async16(slot + i * unit_bytes<Decoder> + piece * 512 + lane * 16, source + (i * pieces + piece) * 512);
        if constexpr (Decoder::two_of_four) {
            if (lane < position_unit_bytes / 16) copy_async16(slot + i * unit_bytes<Decoder> + pieces * 512 + lane * 16, weight.positions + (first + i) * position_unit_words + lane * 4);
        }
    }
}
template <class Decoder>
__device__ __forceinline__ void copy_codes(const GpuWeight& weight, std::int64_t tile, int u, std::uint32_t slot, int lane) {
    copy_units<Decoder, 1>(weight, tile * weight.n_units + u, slot, lane);
}

// Step `s` of a slab, which is a constant where loops are unrolled. `b`: a lane's numbers of the slab.
template <class Decoder>
__device__ __forceinline__ void multiply_step(float (&part)[4], const std::uint32_t (&a)[Decoder::n_parts][4], const uint4 (&b)[2], int s, std::uint32_t positions) {
    if constexpr (Decoder::two_of_four) {
        if (s == 0) multiply_add_sparse<0>(part, a[0], b[0], positions);
        else multiply_add_sparse<1>(part, a[0], b[1], positions);
    } else {
        const uint4& four = b[s / 2];
#pragma unroll
        for (int i = 0; i < Decoder::n_parts; ++i) multiply_add(part, a[i], s % 2 == 0 ? four.x : four.z, s % 2 == 0 ? four.y : four.w);
    }
}
// The sums of the numbers themselves, which offsets are multiplied with. Kept columns and plain numbers have none.
template <class Decoder>
__device__ __forceinline__ void sum_numbers(float (&ones)[4], const uint4 (&b)[2], int s) {
    if constexpr (!Decoder::two_of_four && Decoder::form > CodeForm::bf16) {
        const std::uint32_t all_ones[4] = {one_bf16x2, one_bf16x2, one_bf16x2, one_bf16x2};
        const uint4& four = b[s / 2];
        multiply_add(ones, all_ones, s % 2 == 0 ? four.x : four.z, s % 2 == 0 ? four.y : four.w);
    }
}
template <class Decoder>
__device__ __forceinline__ void sum_step(const LinearParams& p, float (&ones)[4], const uint4 (&b)[2], int s) {
    if (p.has_offsets != 0) sum_numbers<Decoder>(ones, b, s);
}

// The scale of a pending RMS norm, by one warp, in a fixed order. Its first loads (a row of 4096 has no more) are of the caller's choice of time, so that their way is that of others.
struct PendingLoads {
    float part[8];
};
__device__ __forceinline__ PendingLoads load_pending(const PendingRms& rms, int token, int lane) {
    PendingLoads loads = {};
    if (rms.square_sums == nullptr) return loads;
#pragma unroll
    for (int i = 0; i < 8; ++i)
        if (lane + i * lanes < rms.n_parts) loads.part[i] = rms.square_sums[token * rms.n_parts + lane + i * lanes];
    return loads;
}
__device__ __forceinline__ float pending_scale(const PendingRms& rms, const PendingLoads& loads, int token, int lane) {
    if (rms.square_sums == nullptr) return 1;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += loads.part[i];
    for (std::int64_t i = lane + 8 * lanes; i < rms.n_parts; i += lanes) sum += rms.square_sums[token * rms.n_parts + i];
    return 1.0f / sqrtf(warp_sum(sum) / static_cast<float>(rms.width) + rms.eps);
}
__device__ __forceinline__ float pending_scale(const PendingRms& rms, int token, int lane) { return pending_scale(rms, load_pending(rms, token, lane), token, lane); }

// Records of rows g and g + 8; the two common forms first, so that they cost two branches.
__device__ __forceinline__ void read_pair(const GpuWeight& weight, const unsigned char* record, const Supers (&supers)[2], GroupScale (&scale)[2]) {
    if (weight.params == ParamForm::s16) {
        const std::uint32_t both = *reinterpret_cast<const std::uint32_t*>(record);
        const bool f16 = weight.param_float == Float16Form::f16;
        scale[0] = {f16 ? f16_float(both & 0xffffu) : bf16_float(both & 0xffffu), 0};
        scale[1] = {f16 ? f16_float(both >> 16) : bits_float(both & 0xffff0000u), 0};
    } else if (weight.params == ParamForm::r8) {
        const std::uint32_t both = *reinterpret_cast<const unsigned short*>(record);
        const bool without_sign = weight.relative_unsigned;
        const int low = static_cast<int>(both & 0xffu), high = static_cast<int>(both >> 8);
        scale[0] = {supers[0].scale * static_cast<float>(without_sign ? low : static_cast<int>(static_cast<signed char>(low))), 0};
        scale[1] = {supers[1].scale * static_cast<float>(without_sign ? high : static_cast<int>(static_cast<signed char>(high))), 0};
    } else {
        const int bytes = record_bytes(weight.params);
        scale[0] = read_record(weight, record, supers[0]);
        scale[1] = read_record(weight, record + bytes, supers[1]);
    }
}

__device__ __forceinline__ void load_supers(const GpuWeight& weight, std::int64_t tile, std::int64_t column, int g, Supers (&supers)[2]) {
    const std::int64_t at = (tile * weight.n_supers + (weight.super_log2 >= 31 ? 0 : column >> weight.super_log2)) * tile_rows + g;
    supers[0].scale = weight.super_scales[at];
    supers[1].scale = weight.super_scales[at + 8];
    if (weight.params == ParamForm::r8m8) {
        supers[0].minimum = weight.super_minimums[at];
        supers[1].minimum = weight.super_minimums[at + 8];
    }
}

// What the numbers of rows g and g + 8 of a tile meet for one token, read before they are there.
struct FinishLoads {
    float row_scale[2] = {1, 1}, bias[2] = {0, 0}, before[2] = {0, 0}, next[2] = {1, 1};
};
__device__ __forceinline__ FinishLoads load_finish(const LinearParams& p, int tile, int g, std::int64_t token, bool valid) {
    FinishLoads loads;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int row = tile * tile_rows + g + 8 * i;
        if (p.weight.row_scales != nullptr) loads.row_scale[i] = p.weight.row_scales[row];
        if (!valid || (p.write == GemvWrite::gate ? tile * 8 + g >= p.weight.n_rows / 2 : row >= p.weight.n_rows)) continue;
        if (p.bias != nullptr) loads.bias[i] = p.bias[row];
        if (p.write == GemvWrite::add) loads.before[i] = p.y[token * p.y_stride + row];
        if (p.next_weight != nullptr) loads.next[i] = p.next_weight[row];
    }
    return loads;
}
// Rows g and g + 8 of a tile for one token: sums that lack their row's scale and the token's. All lanes of a warp call it; `valid` says whether
// this lane's token is there.
__device__ __forceinline__ void finish(const LinearParams& p, const FinishLoads& loads, int tile, int g, std::int64_t token, bool valid, float v0, float v1, float token_scale) {
    const int row0 = tile * tile_rows + g;
    float values[2] = {v0 * loads.row_scale[0] * token_scale, v1 * loads.row_scale[1] * token_scale}, squares = 0;
    if (p.write == GemvWrite::gate) {
        const int column = tile * 8 + g;
        if (!valid || column >= p.weight.n_rows / 2) return;
        p.operand.put(token, column, activate(p.activation, values[0] + loads.bias[0]) * (values[1] + loads.bias[1]));
        return;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int row = row0 + 8 * i;
        if (!valid || row >= p.weight.n_rows) continue;
        float value = (values[i] + loads.bias[i]) * p.factor;
        if (p.write == GemvWrite::activate) {
            p.operand.put(token, row, activate(p.activation, value));
            continue;
        }
        if (p.softcap > 0) value = p.softcap * tanhf(value / p.softcap);
        value += loads.before[i];
        p.y[token * p.y_stride + row] = value;
        squares += value * value;
        if (p.operand.data != nullptr) p.operand.put(token, row + (row >= p.cuts[1] ? p.gaps[1] : row >= p.cuts[0] ? p.gaps[0] : 0), value * loads.next[i]);
    }
    if (p.square_sums == nullptr || p.write == GemvWrite::activate) return;  // the same for all lanes
#pragma unroll
    for (int distance = 4; distance < lanes; distance *= 2) squares += __shfl_xor_sync(0xffffffffu, squares, distance);
    if (valid && g == 0) p.square_sums[token * ((p.weight.n_rows + 15) / 16) + tile] = squares;
}
__device__ __forceinline__ void finish(const LinearParams& p, int tile, int g, std::int64_t token, bool valid, float v0, float v1, float token_scale) {
    finish(p, load_finish(p, tile, g, token, valid), tile, g, token, valid, v0, v1, token_scale);
}

}  // namespace skiff::cuda
