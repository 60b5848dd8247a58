// Packed weights as numbers: rows by index (embedding) and whole matrices as bf16 (for cuBLASLt).
#include "kernels/cuda/decoders.h"
#include "kernels/cuda/device.cuh"

namespace skiff::cuda {
namespace {

constexpr int gather_threads = 64;

struct GatherParams {
    GpuWeight weight;
    ParamLayout layout;
    int param_bytes = 0;
    enum class Mode : std::uint8_t { embed, matrix } mode = Mode::embed;
    // embed
    const std::int32_t* index = nullptr;
    std::int64_t offset = 0;
    float scale = 1;
    EmbedArgs::Write write = EmbedArgs::Write::replace;
    float* x = nullptr;
    const float* next_weight = nullptr;
    OperandTarget operand;
    float* square_sums = nullptr;
    std::int64_t n_parts = 0;
    // matrix
    std::int64_t first_row = 0, n_rows = 0, target_stride = 0;
    unsigned short* target = nullptr;
};

// A lane's numbers of a unit, one row of its two, without scales: (n_steps, 4) floats. Kept apart from what follows, which is the same for all forms.
template <class Decoder, int s = 0>
__device__ __forceinline__ void decode_unit(const Decoder& decoder, const std::uint32_t* words, int second, float4* values) {
    if constexpr (s < unit_columns(Decoder::form) / 16) {
        std::uint32_t a[Decoder::n_parts][4];
        decoder.template step<s>(words, a);
        float4 four = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int part = 0; part < Decoder::n_parts; ++part) {
            const std::uint32_t first = second != 0 ? a[part][1] : a[part][0], last = second != 0 ? a[part][3] : a[part][2];
            four.x += bits_float(first << 16), four.y += bits_float(first & 0xffff0000u);
            four.z += bits_float(last << 16), four.w += bits_float(last & 0xffff0000u);
        }
        values[s] = four;
        decode_unit<Decoder, s + 1>(decoder, words, second, values);
    }
}

__device__ GroupScale scale_of(const GatherParams& p, std::int64_t tile, int in_tile, int u, int column_of_unit) {
    const GpuWeight& weight = p.weight;
    if (weight.params == ParamForm::none) return {weight.row_scales != nullptr ? weight.row_scales[tile * tile_rows + in_tile] : 1.0f, 0};
    const std::int64_t column = (static_cast<std::int64_t>(u) << p.layout.unit_log2) + column_of_unit;
    const std::int64_t at = (tile * weight.n_supers + (weight.super_log2 >= 31 ? 0 : column >> weight.super_log2)) * tile_rows + in_tile;
    const Supers supers = {weight.super_scales != nullptr ? weight.super_scales[at] : 0.0f, weight.super_minimums != nullptr ? weight.super_minimums[at] : 0.0f};
    const auto* records = static_cast<const unsigned char*>(weight.group_params) + (tile * n_param_units(weight, p.layout) + p.layout.index(u)) * p.param_bytes;
    return read_record(weight, records + record_offset(weight.params, p.layout, in_tile, p.layout.in(column_of_unit)), supers);
}

// Four neighbouring columns of a row of the tile; the four lanes of a row have sixteen. All lanes of a warp call it.
__device__ __forceinline__ void put_four(const GatherParams& p, std::int64_t tile, int in_tile, std::int64_t column, float4 four, bool is_there, int t) {
    const GpuWeight& weight = p.weight;
    if (p.mode == GatherParams::Mode::embed) {
        float squares = 0;
#pragma unroll 1
        for (int e = 0; e < 4; ++e) {
            if (!is_there || column + e >= weight.n_columns) continue;
            float* x = p.x + static_cast<std::int64_t>(blockIdx.x) * weight.n_columns + column + e;
            float value = (e == 0 ? four.x : e == 1 ? four.y : e == 2 ? four.z : four.w) * p.scale;
            if (p.write == EmbedArgs::Write::add) value += *x;
            *x = value;
            squares += value * value;
            if (p.operand.data != nullptr) p.operand.put(blockIdx.x, column + e, p.next_weight != nullptr ? value * p.next_weight[column + e] : value);
        }
        squares += __shfl_xor_sync(0xffffffffu, squares, 1);
        squares += __shfl_xor_sync(0xffffffffu, squares, 2);
        if (p.square_sums != nullptr && is_there && t == 0 && column < weight.n_columns) p.square_sums[blockIdx.x * p.n_parts + column / 16] = squares;
        return;
    }
    const std::int64_t row = tile * tile_rows + in_tile;
    if (!is_there || row < p.first_row || row >= p.first_row + p.n_rows) return;
    unsigned short* target = p.target + (row - p.first_row) * p.target_stride + column;
    const uint2 packed = make_uint2(pack_bf16x2(four.x, four.y), pack_bf16x2(four.z, four.w));
    if (column + 4 <= weight.n_columns && reinterpret_cast<std::uintptr_t>(target) % 8 == 0) {
        *reinterpret_cast<uint2*>(target) = packed;
        return;
    }
    if (column < weight.n_columns) target[0] = static_cast<unsigned short>(packed.x);
    if (column + 1 < weight.n_columns) target[1] = static_cast<unsigned short>(packed.x >> 16);
    if (column + 2 < weight.n_columns) target[2] = static_cast<unsigned short>(packed.y);
    if (column + 3 < weight.n_columns) target[3] = static_cast<unsigned short>(packed.y >> 16);
}

// Four columns of which two are kept: kept columns `kept` and the next of a step.
__device__ __forceinline__ float4 spread(const std::uint32_t* positions, int in_tile, int step, int kept, float first, float second) {
    const PositionPlace place = position_place(in_tile, step, kept / 2);
    const std::uint32_t nibble = positions[place.index()] >> place.bit & 15u, at = nibble & 3u, last = nibble >> 2;
    return make_float4(at == 0 ? first : 0.0f, at == 1 ? first : last == 1 ? second : 0.0f, at == 2 ? first : last == 2 ? second : 0.0f, last == 3 ? second : 0.0f);
}

// An embedding's block has one row: a thread for each unit and quarter (t) of it. A matrix' block has a tile: a thread for each unit and lane.
template <class Decoder>
__global__ void __launch_bounds__(gather_threads, 4) gather_kernel(const __grid_constant__ GatherParams p) {
    constexpr int unit = unit_columns(Decoder::form), pieces = unit_pieces(Decoder::form);
    __shared__ float4 staged[gather_threads][unit / 16 + 1];  // one more, so that neighbours' rows begin in other banks
    wait_for_predecessor();
    let_successor_start();
    const GpuWeight& weight = p.weight;
    const bool embed = p.mode == GatherParams::Mode::embed;
    const std::int64_t wanted = embed ? p.index[blockIdx.x] + p.offset : 0;
    if (embed && (wanted < 0 || wanted >= weight.n_rows)) return;
    const std::int64_t tile = embed ? wanted / tile_rows : p.first_row / tile_rows + blockIdx.x;
    const int per_unit = embed ? 4 : lanes, n_items = weight.n_units * per_unit;
    float4* mine = staged[threadIdx.x];
    // Whole warps stay together: sums of squares are of four neighbouring lanes.
    for (int begin = static_cast<int>(blockIdx.y) * gather_threads; begin < n_items; begin += static_cast<int>(gridDim.y) * gather_threads) {
        const int item = begin + static_cast<int>(threadIdx.x);
        const bool is_there = item < n_items;
        const int u = is_there ? item / per_unit : 0, lane = embed ? static_cast<int>(wanted % 8) * 4 + item % 4 : item % lanes;
        std::uint32_t words[pieces * 4];
        const auto* source = static_cast<const uint4*>(weight.codes) + (tile * weight.n_units + u) * (pieces * lanes) + lane;
#pragma unroll
        for (int piece = 0; piece < pieces; ++piece) {
            const uint4 four = source[piece * lanes];
            words[piece * 4] = four.x, words[piece * 4 + 1] = four.y, words[piece * 4 + 2] = four.z, words[piece * 4 + 3] = four.w;
        }
        Decoder decoder;
        decoder.load_tables(weight, static_cast<int>(tile), lane);
        const int first_row = embed ? static_cast<int>(wanted % tile_rows / 8) : 0, end_row = embed ? first_row + 1 : 2;
#pragma unroll 1
        for (int second = first_row; second < end_row; ++second) {
            decode_unit(decoder, words, second, mine);
            const int in_tile = lane / 4 + 8 * second, t = lane % 4;
#pragma unroll 1
            for (int s = 0; s < unit / 16; ++s) {
                const GroupScale scale = scale_of(p, tile, in_tile, u, 16 * s);
                float4 four = mine[s];
                four.x = four.x * scale.scale - scale.offset, four.y = four.y * scale.scale - scale.offset;
                four.z = four.z * scale.scale - scale.offset, four.w = four.w * scale.scale - scale.offset;
                const std::int64_t step = (static_cast<std::int64_t>(u) * (unit / 16) + s) * 16;
                if constexpr (Decoder::two_of_four) {
                    const std::uint32_t* positions = weight.positions + (tile * weight.n_units + u) * position_unit_words;
                    put_four(p, tile, in_tile, 2 * step + 4 * t, spread(positions, in_tile, s, 2 * t, four.x, four.y), is_there, t);
                    put_four(p, tile, in_tile, 2 * step + 16 + 4 * t, spread(positions, in_tile, s, 8 + 2 * t, four.z, four.w), is_there, t);
                } else {
                    // Two and two neighbours become four: the even lane of two has those of columns 0 to 7, the odd one those of 8 to 15.
                    const bool odd = t % 2 != 0;
                    const float first = __shfl_xor_sync(0xffffffffu, odd ? four.x : four.z, 1), second_of = __shfl_xor_sync(0xffffffffu, odd ? four.y : four.w, 1);
                    put_four(p, tile, in_tile, step + 4 * (t / 2) + (odd ? 8 : 0), odd ? make_float4(first, second_of, four.z, four.w) : make_float4(four.x, four.y, first, second_of), is_there, t);
                }
            }
        }
    }
}

int launch_gather(GatherParams p, std::int64_t n_blocks, const Launch& launch) {
    const int unit = unit_columns(p.weight.form);
    p.layout = param_layout(p.weight, unit);
    p.param_bytes = param_unit_bytes(p.weight.params, p.layout);
    const std::int64_t items = std::int64_t{p.weight.n_units} * (p.mode == GatherParams::Mode::embed ? 4 : lanes);
    const std::int64_t slices = (items + gather_threads - 1) / gather_threads;
    int error = 0;
    with_decoder(p.weight, [&]<class Decoder>(Decoder) {
        error = launch_kernel<GatherParams>(gather_kernel<Decoder>, dim3(static_cast<unsigned>(n_blocks), static_cast<unsigned>(slices < 64 ? slices : 64)), dim3(gather_threads), 0, launch, p);
    });
    return error;
}

}  // namespace

int launch_embed(const EmbedArgs& args, const Launch& launch) {
    GatherParams p;
    p.weight = args.table;
    p.index = args.index;
    p.offset = args.offset;
    p.scale = args.scale;
    p.write = args.write;
    p.x = args.x;
    p.next_weight = args.next.weight;
    p.operand = target_of(args.next.operand);
    p.square_sums = args.next.square_sums;
    p.n_parts = pending_parts(args.table.n_columns);
    return launch_gather(p, args.n_tokens, launch);
}

int launch_dequantize(const DequantizeArgs& args, const Launch& launch) {
    if (args.n_rows <= 0) return 0;
    GatherParams p;
    p.weight = args.weight;
    p.mode = GatherParams::Mode::matrix;
    p.first_row = args.first_row;
    p.n_rows = args.n_rows;
    p.target = static_cast<unsigned short*>(args.target);
    p.target_stride = args.target_stride;
    const std::int64_t first_tile = args.first_row / tile_rows, end_tile = (args.first_row + args.n_rows + tile_rows - 1) / tile_rows;
    return launch_gather(p, end_tile - first_tile, launch);
}

}  // namespace skiff::cuda
