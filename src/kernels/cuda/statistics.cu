// Sums over the tokens of a run: by column, and over pairs of columns.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/statistics.h"

namespace skiff::cuda {
namespace {

constexpr int sum_threads = 64;

__global__ void __launch_bounds__(sum_threads) column_sums_kernel(const __grid_constant__ ColumnSumsArgs args) {
    wait_for_predecessor();
    let_successor_start();
    const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * sum_threads + threadIdx.x;
    if (column >= args.n_columns) return;
    double sum = args.sums[column], absolute = args.sums[args.n_columns + column], square = args.sums[2 * args.n_columns + column];
    float largest = args.largest[column];
    const float* x = args.x + column;
#pragma unroll 8
    for (std::int64_t token = 0; token < args.n_tokens; ++token) {
        const float value = x[token * args.x_stride], magnitude = fabsf(value);
        sum += static_cast<double>(value);
        absolute += static_cast<double>(magnitude);
        square += static_cast<double>(value) * static_cast<double>(value);  // exact before it is added
        largest = magnitude > largest ? magnitude : largest;
    }
    args.sums[column] = sum, args.sums[args.n_columns + column] = absolute, args.sums[2 * args.n_columns + column] = square;
    args.largest[column] = largest;
}

// A block has 64 rows and 64 columns of the result, a warp 32 of each. Tokens come 32 at a time: each thread reads one of the block's 128 columns of x, splits the numbers into two parts and
// leaves them in shared memory as pairs of neighbouring tokens, which is how a tensor core reads either factor. The next 32 are on their way meanwhile.
constexpr int gram_threads = 128, gram_tile = 64, depth = 32, pairs = depth / 2;
constexpr int pair_stride = 2 * gram_tile + 8;  // words; eight more, so that a fragment's four pairs lie in other banks

struct GramTile {
    std::uint32_t high[pairs][pair_stride], low[pairs][pair_stride];
};

__device__ __forceinline__ void read_column(const GramArgs& args, std::int64_t column, std::int64_t first, float (&values)[depth]) {
#pragma unroll
    for (int i = 0; i < depth; ++i) values[i] = column < args.n_columns && first + i < args.n_tokens ? args.x[(first + i) * args.x_stride + column] : 0.0f;
}

__global__ void __launch_bounds__(gram_threads, 4) gram_kernel(const __grid_constant__ GramArgs args) {
    __shared__ GramTile tile;
    wait_for_predecessor();
    let_successor_start();
    if (blockIdx.x < blockIdx.y) return;  // below the diagonal
    const int thread = static_cast<int>(threadIdx.x), lane = thread % lanes, g = lane / 4, t = lane % 4, warp = thread / lanes;
    const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.y) * gram_tile, first_column = static_cast<std::int64_t>(blockIdx.x) * gram_tile;
    const std::int64_t mine = thread < gram_tile ? first_row + thread : first_column + thread - gram_tile;
    const int rows = warp / 2 * 32, columns = gram_tile + warp % 2 * 32;  // of this warp in the tile
    float sums[2][4][4] = {};
    float values[depth];
    read_column(args, mine, 0, values);
    for (std::int64_t first = 0; first < args.n_tokens; first += depth) {
#pragma unroll
        for (int pair = 0; pair < pairs; ++pair) {
            const std::uint32_t a = split_bf16(values[2 * pair]), b = split_bf16(values[2 * pair + 1]);
            tile.high[pair][thread] = (a & 0xffffu) | b << 16;
            tile.low[pair][thread] = a >> 16 | (b & 0xffff0000u);
        }
        __syncthreads();
        if (first + depth < args.n_tokens) read_column(args, mine, first + depth, values);
#pragma unroll 1
        for (int step = 0; step < pairs; step += 8) {
            std::uint32_t a[2][2][4], b[4][2][2];  // tile, part, words
#pragma unroll
            for (int m = 0; m < 2; ++m)
#pragma unroll
                for (int word = 0; word < 4; ++word) {
                    const int pair = step + t + 4 * (word / 2), at = rows + 16 * m + g + 8 * (word % 2);
                    a[m][0][word] = tile.high[pair][at];
                    a[m][1][word] = tile.low[pair][at];
                }
#pragma unroll
            for (int n = 0; n < 4; ++n)
#pragma unroll
                for (int word = 0; word < 2; ++word) {
                    const int pair = step + t + 4 * word, at = columns + 8 * n + g;
                    b[n][0][word] = tile.high[pair][at];
                    b[n][1][word] = tile.low[pair][at];
                }
#pragma unroll
            for (int m = 0; m < 2; ++m)
#pragma unroll
                for (int n = 0; n < 4; ++n) {
                    multiply_add(sums[m][n], a[m][1], b[n][0][0], b[n][0][1]);
                    multiply_add(sums[m][n], a[m][0], b[n][1][0], b[n][1][1]);
                    multiply_add(sums[m][n], a[m][0], b[n][0][0], b[n][0][1]);
                }
        }
        __syncthreads();
    }
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int n = 0; n < 4; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const std::int64_t row = first_row + rows + 16 * m + g + 8 * (i / 2), column = first_column + columns - gram_tile + 8 * n + 2 * t + i % 2;
                if (row < args.n_columns && column < args.n_columns) args.gram[row * args.n_columns + column] += sums[m][n][i];
            }
}

}  // namespace

int launch_column_sums(const ColumnSumsArgs& args, const Launch& launch) {
    if (args.n_columns < 1 || args.n_tokens < 0 || args.sums == nullptr || args.largest == nullptr) return cudaErrorInvalidValue;
    return launch_kernel<ColumnSumsArgs>(column_sums_kernel, dim3(static_cast<unsigned>((args.n_columns + sum_threads - 1) / sum_threads)), dim3(sum_threads), 0, launch, args);
}

int launch_gram(const GramArgs& args, const Launch& launch) {
    if (args.n_columns < 1 || args.n_tokens < 0 || args.gram == nullptr) return cudaErrorInvalidValue;
    const auto tiles = static_cast<unsigned>((args.n_columns + gram_tile - 1) / gram_tile);
    return launch_kernel<GramArgs>(gram_kernel, dim3(tiles, tiles), dim3(gram_threads), 0, launch, args);
}

}  // namespace skiff::cuda
