// y += S x where a row of S has a few numbers only: outliers that were kept aside. A warp takes a row, its lanes the row's entries; what they read of x comes from the cache. Half a percent
// of a matrix is 0.16 bits for each of its weights, so that this is a launch and little else.
#include "kernels/cuda/linear.cuh"

namespace skiff::cuda {
namespace {

constexpr int sparse_threads = 256, sparse_warps = sparse_threads / lanes, rows_per_warp = 4, sparse_tokens = 8;

struct SparseParams {
    SparseRowsArgs args;
    std::int64_t n_slabs = 0;
};

__device__ __forceinline__ float operand_number(const SparseParams& p, std::int64_t token, int column) {
    const auto* data = static_cast<const unsigned char*>(p.args.x);
    const auto half_at = [&](std::int64_t byte) { return bf16_float(*reinterpret_cast<const unsigned short*>(data + byte)); };
    if (p.args.form == OperandForm::split) {
        const std::int64_t byte = fragment_byte(token >> 2, 2 * static_cast<int>(token & 3), column, p.n_slabs);
        return half_at(byte) + half_at(byte + 64);
    }
    if (p.args.form == OperandForm::fragments) return half_at(fragment_byte(token >> 3, static_cast<int>(token & 7), column, p.n_slabs));
    return half_at((token * p.args.n_columns + column) * 2);
}

__global__ void __launch_bounds__(sparse_threads, 2) sparse_rows_kernel(const __grid_constant__ SparseParams p) {
    __shared__ float scales[sparse_tokens];
    const SparseRowsArgs& args = p.args;
    const int warp = static_cast<int>(threadIdx.x) / lanes, lane = static_cast<int>(threadIdx.x) % lanes;
    const std::int64_t first_token = static_cast<std::int64_t>(blockIdx.y) * sparse_tokens, first_row = (static_cast<std::int64_t>(blockIdx.x) * sparse_warps + warp) * rows_per_warp;
    const int n_tokens = static_cast<int>(args.n_tokens - first_token < sparse_tokens ? args.n_tokens - first_token : sparse_tokens);
    wait_for_predecessor();
    let_successor_start();
    const float scale = warp < n_tokens ? pending_scale(args.rms, static_cast<int>(first_token) + warp, lane) : 0.0f;  // as many warps as tokens
    if (lane == 0) scales[warp] = scale;
    __syncthreads();
    for (std::int64_t row = first_row; row < first_row + rows_per_warp && row < args.n_rows; ++row) {
        float sums[sparse_tokens] = {};
        const int end = args.begins[row + 1];
        for (int i = args.begins[row] + lane; i < end; i += lanes) {
            const std::uint32_t entry = args.entries[i];
            const int column = static_cast<int>(entry & 0xffffu);
            const float value = args.values == Float16Form::f16 ? f16_float(entry >> 16) : bits_float(entry & 0xffff0000u);
#pragma unroll
            for (int token = 0; token < sparse_tokens; ++token)
                if (token < n_tokens) sums[token] = fmaf(value, operand_number(p, first_token + token, column), sums[token]);
        }
        float mine = 0;
#pragma unroll
        for (int token = 0; token < sparse_tokens; ++token) {
            const float sum = warp_sum(sums[token]);
            if (lane == token) mine = sum * scales[token];
        }
        if (lane < n_tokens) {
            float* y = args.y + (first_token + lane) * args.y_stride + row;
            *y = args.write == SparseRowsArgs::Write::add ? *y + mine : mine;
        }
    }
}
static_assert(sparse_warps == sparse_tokens);

}  // namespace

int launch_sparse_rows(const SparseRowsArgs& args, const Launch& launch) {
    if (args.n_tokens < 1 || args.n_rows < 1 || args.n_columns > 65536) return cudaErrorInvalidValue;
    const SparseParams params = {args, operand_columns(args.n_columns) / slab_columns};
    constexpr std::int64_t rows = sparse_warps * rows_per_warp;
    const dim3 grid(static_cast<unsigned>((args.n_rows + rows - 1) / rows), static_cast<unsigned>((args.n_tokens + sparse_tokens - 1) / sparse_tokens));
    return launch_kernel<SparseParams>(sparse_rows_kernel, grid, dim3(sparse_threads), 0, launch, params);
}

}  // namespace skiff::cuda
