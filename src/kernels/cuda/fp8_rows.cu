#include "kernels/cuda/fp8_rows.h"

#include "kernels/cuda/device.cuh"

namespace skiff::cuda {
namespace {

constexpr int block_threads = 256;

// A block for each token; eight numbers a thread and turn.
__global__ void __launch_bounds__(block_threads) quantize_rows_kernel(const __grid_constant__ QuantizeRowsArgs args) {
    __shared__ float largest_of[block_threads / lanes];
    wait_for_predecessor();
    let_successor_start();
    const std::int64_t token = blockIdx.x;
    const auto* x = reinterpret_cast<const uint4*>(static_cast<const unsigned short*>(args.x) + token * args.n_columns);
    const int n = static_cast<int>(args.n_columns / 8), n_stored = static_cast<int>(fp8_columns(args.n_columns) / 8);
    float largest = 0;
    const auto larger = [&](std::uint32_t pair) { largest = fmaxf(largest, fmaxf(fabsf(bits_float(pair << 16)), fabsf(bits_float(pair & 0xffff0000u)))); };
    for (int i = threadIdx.x; i < n; i += block_threads) {
        const uint4 eight = x[i];
        larger(eight.x), larger(eight.y), larger(eight.z), larger(eight.w);
    }
    largest = warp_max(largest);
    if (threadIdx.x % lanes == 0) largest_of[threadIdx.x / lanes] = largest;
    __syncthreads();
    for (int warp = 0; warp < block_threads / lanes; ++warp) largest = fmaxf(largest, largest_of[warp]);
    const float scale = largest / largest_e4m3, inverse = largest > 0 ? largest_e4m3 / largest : 0.0f;
    if (threadIdx.x == 0) args.scales[token] = scale;
    const auto codes = [&](std::uint32_t pair) { return float_e4m3(bits_float(pair << 16) * inverse) | float_e4m3(bits_float(pair & 0xffff0000u) * inverse) << 8; };
    auto* target = reinterpret_cast<uint2*>(static_cast<unsigned char*>(args.codes) + token * fp8_columns(args.n_columns));
    for (int i = threadIdx.x; i < n_stored; i += block_threads) {
        uint2 stored = make_uint2(0, 0);
        if (i < n) {
            const uint4 eight = x[i];
            stored = make_uint2(codes(eight.x) | codes(eight.y) << 16, codes(eight.z) | codes(eight.w) << 16);
        }
        target[i] = stored;
    }
}

// A block has a tile and four units of it, a warp one of them; they become rows in shared memory.
constexpr int rows_warps = 4, rows_columns = rows_warps * 64, rows_stride = rows_columns + 16;
__global__ void __launch_bounds__(rows_warps* lanes) fp8_rows_kernel(const __grid_constant__ Fp8RowsArgs args) {
    static_assert(unit_columns(CodeForm::e4m3) == 64 && unit_pieces(CodeForm::e4m3) == 2);
    __shared__ uint4 staged[tile_rows * rows_stride / 16];
    wait_for_predecessor();
    let_successor_start();
    auto* rows = reinterpret_cast<unsigned char*>(staged);
    const GpuWeight& weight = args.weight;
    const int warp = threadIdx.x / lanes, lane = threadIdx.x % lanes, u = static_cast<int>(blockIdx.y) * rows_warps + warp;
    const std::int64_t tile = args.first_row / tile_rows + blockIdx.x;
    std::uint32_t words[8] = {};
    if (u < weight.n_units) {
        const auto* source = static_cast<const uint4*>(weight.codes) + (tile * weight.n_units + u) * (2 * lanes) + lane;
#pragma unroll
        for (int piece = 0; piece < 2; ++piece) {
            const uint4 four = source[piece * lanes];
            words[piece * 4] = four.x, words[piece * 4 + 1] = four.y, words[piece * 4 + 2] = four.z, words[piece * 4 + 3] = four.w;
        }
    }
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
        for (int e = 0; e < 8; e += 2) {
            const BytePlace place = byte_place(step, e);  // the next element's byte is two behind
            const std::uint32_t pair = permute_bytes(words[place.word], 0, place.byte == 0 ? 0x4420u : 0x4431u);
            *reinterpret_cast<unsigned short*>(rows + element_row(lane, e) * rows_stride + warp * 64 + element_column(lane, step, e)) = static_cast<unsigned short>(pair);
        }
    __syncthreads();
    const std::int64_t width = fp8_columns(weight.n_columns);
    for (int i = threadIdx.x; i < tile_rows * rows_columns / 16; i += rows_warps * lanes) {
        const std::int64_t row = tile * tile_rows + i / (rows_columns / 16) - args.first_row, column = static_cast<std::int64_t>(blockIdx.y) * rows_columns + i % (rows_columns / 16) * 16;
        if (row < 0 || row >= args.n_rows || column >= width) continue;
        *reinterpret_cast<uint4*>(static_cast<unsigned char*>(args.target) + row * width + column) = staged[i / (rows_columns / 16) * (rows_stride / 16) + i % (rows_columns / 16)];
    }
}

__global__ void __launch_bounds__(block_threads) fp8_result_kernel(const __grid_constant__ Fp8ResultArgs args) {
    wait_for_predecessor();
    let_successor_start();
    const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x, token = blockIdx.y;
    if (row >= args.n_rows) return;
    float value = args.x[token * args.x_stride + row] * args.token_scales[token] * args.row_scales[row] * args.factor;
    if (args.bias != nullptr) value += args.bias[row];
    if (args.softcap > 0) value = args.softcap * tanhf(value / args.softcap);
    float* y = args.y + token * args.y_stride + row;
    *y = args.write == Fp8ResultArgs::Write::add ? *y + value : value;
}

}  // namespace

int launch_quantize_rows(const QuantizeRowsArgs& args, const Launch& launch) {
    if (args.n_tokens < 1 || args.n_columns < 8 || args.n_columns % 8 != 0) return cudaErrorInvalidValue;
    return launch_kernel(quantize_rows_kernel, dim3(static_cast<unsigned>(args.n_tokens)), dim3(block_threads), 0, launch, args);
}

int launch_fp8_rows(const Fp8RowsArgs& args, const Launch& launch) {
    const std::int64_t first_tile = args.first_row / tile_rows, end_tile = (args.first_row + args.n_rows + tile_rows - 1) / tile_rows;
    if (!takes_fp8(args.weight) || args.first_row < 0 || args.n_rows < 1 || end_tile > args.weight.n_tiles) return cudaErrorInvalidValue;
    const dim3 grid(static_cast<unsigned>(end_tile - first_tile), static_cast<unsigned>((fp8_columns(args.weight.n_columns) + rows_columns - 1) / rows_columns));
    return launch_kernel(fp8_rows_kernel, grid, dim3(rows_warps * lanes), 0, launch, args);
}

int launch_fp8_result(const Fp8ResultArgs& args, const Launch& launch) {
    if (args.n_tokens < 1 || args.n_tokens > 65535 || args.n_rows < 1) return cudaErrorInvalidValue;
    const dim3 grid(static_cast<unsigned>((args.n_rows + block_threads - 1) / block_threads), static_cast<unsigned>(args.n_tokens));
    return launch_kernel(fp8_result_kernel, grid, dim3(block_threads), 0, launch, args);
}

}  // namespace skiff::cuda
