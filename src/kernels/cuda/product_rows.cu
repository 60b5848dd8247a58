#include "kernels/cuda/device.cuh"
#include "kernels/cuda/product_rows.h"

namespace skiff::cuda {
namespace {

constexpr int block_threads = 256;

struct PairsParams {
    PairsArgs args;
    OperandTarget operand;
};
__global__ void __launch_bounds__(block_threads) pairs_kernel(const __grid_constant__ PairsParams p) {
    wait_for_predecessor();
    let_successor_start();
    const PairsArgs& args = p.args;
    // Four pairs, which are neighbours in a tile.
    const std::int64_t j = (static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x) * 4, token = blockIdx.y;
    if (j >= args.n_pairs) return;
    const std::int64_t at = j / 8 * 16 + j % 8, stride = (args.n_pairs + 7) / 8 * 16;
    const float4 gates = *reinterpret_cast<const float4*>(args.x + token * stride + at), ups = *reinterpret_cast<const float4*>(args.x + token * stride + at + 8);
    const float gate_of[4] = {gates.x, gates.y, gates.z, gates.w}, up_of[4] = {ups.x, ups.y, ups.z, ups.w};
    float products[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        float gate = gate_of[i], up = up_of[i];
        if (args.token_scales != nullptr) {
            gate *= args.token_scales[token] * args.row_scales[at + i];
            up *= args.token_scales[token] * args.row_scales[at + 8 + i];
        }
        if (args.bias != nullptr) {
            gate += args.bias[at + i];
            up += args.bias[at + 8 + i];
        }
        products[i] = activate(args.activation, gate) * up;
    }
    p.operand.put_four(token, j, products);
}

struct WidenParams {
    WidenArgs args;
    OperandTarget operand;
};
__global__ void __launch_bounds__(block_threads) widen_kernel(const __grid_constant__ WidenParams p) {
    wait_for_predecessor();
    let_successor_start();
    const WidenArgs& args = p.args;
    const std::int64_t pair = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x, token = blockIdx.y, column = 2 * pair;
    if (column >= args.n_columns) return;
    const std::uint32_t both = static_cast<const std::uint32_t*>(args.x)[(token * args.n_columns + column) / 2];
    const float first = bits_float(both << 16), second = bits_float(both & 0xffff0000u);
    if (args.y != nullptr) {
        args.y[token * args.y_stride + column] = first;
        args.y[token * args.y_stride + column + 1] = second;
    }
    if (p.operand.data != nullptr) p.operand.put_pair(token, column, first, second);
}

struct ReadParams {
    const uint4* data;
    std::size_t n;
    float* sink;
};
// Eight loads on the way in every thread; neighbours read neighbours.
__global__ void __launch_bounds__(block_threads) read_kernel(const __grid_constant__ ReadParams p) {
    wait_for_predecessor();
    let_successor_start();
    constexpr int n_loads = 8;
    unsigned seen = 0;
    const std::size_t step = static_cast<std::size_t>(gridDim.x) * block_threads * n_loads;
    for (std::size_t begin = static_cast<std::size_t>(blockIdx.x) * block_threads * n_loads + threadIdx.x; begin < p.n; begin += step) {
        uint4 loaded[n_loads];
#pragma unroll
        for (int i = 0; i < n_loads; ++i) {
            const std::size_t at = begin + static_cast<std::size_t>(i) * block_threads;
            loaded[i] = at < p.n ? __ldcg(p.data + at) : uint4{};
        }
#pragma unroll
        for (int i = 0; i < n_loads; ++i) seen |= loaded[i].x ^ loaded[i].y ^ loaded[i].z ^ loaded[i].w;
    }
    if (seen == 0x5eed1234u) *p.sink = 1;
}

}  // namespace

int launch_pairs(const PairsArgs& args, const Launch& launch) {
    if (args.n_tokens < 1 || args.n_tokens > 65535 || args.n_pairs < 1 || args.operand.data == nullptr) return cudaErrorInvalidValue;
    const dim3 grid(static_cast<unsigned>((args.n_pairs + 4 * block_threads - 1) / (4 * block_threads)), static_cast<unsigned>(args.n_tokens));
    return launch_kernel(pairs_kernel, grid, dim3(block_threads), 0, launch, PairsParams{args, target_of(args.operand)});
}

int launch_widen(const WidenArgs& args, const Launch& launch) {
    if (args.x == nullptr || args.n_tokens < 1 || args.n_tokens > 65535 || args.n_columns < 2 || args.n_columns % 2 != 0 || (args.y != nullptr && args.y_stride < args.n_columns)) return cudaErrorInvalidValue;
    const dim3 grid(static_cast<unsigned>((args.n_columns / 2 + block_threads - 1) / block_threads), static_cast<unsigned>(args.n_tokens));
    return launch_kernel(widen_kernel, grid, dim3(block_threads), 0, launch, WidenParams{args, target_of(args.operand)});
}

int launch_read_all(const void* data, std::size_t size_bytes, float* sink, const Launch& launch) {
    return launch_kernel(read_kernel, dim3(static_cast<unsigned>(launch.n_sms) * 8), dim3(block_threads), 0, launch, ReadParams{static_cast<const uint4*>(data), size_bytes / 16, sink});
}

}  // namespace skiff::cuda
