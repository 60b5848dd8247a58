// What works row by row or number by number: norms, element-wise steps, the router, the causal convolution.
#include "kernels/cuda/device.cuh"

namespace skiff::cuda {
namespace {

constexpr int block_threads = 256;

// The sum over a block, the same for every thread; warps in order.
__device__ float block_sum(float x, float* scratch) {  // scratch: (8)
    x = warp_sum(x);
    const int n_warps = static_cast<int>(blockDim.x) / lanes;
    __syncthreads();  // the scratch may still be read for the sum before
    if (threadIdx.x % lanes == 0) scratch[threadIdx.x / lanes] = x;
    __syncthreads();
    float total = 0;
    for (int warp = 0; warp < n_warps; ++warp) total += scratch[warp];
    return total;
}

struct NormParams {
    NormLaunchArgs args;
    OperandTarget operand;
};

template <int n>
__device__ __forceinline__ void load_numbers(const float* from, float (&v)[n]) {
    if constexpr (n == 4) {
        const float4 four = *reinterpret_cast<const float4*>(from);
        v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
    } else {
#pragma unroll
        for (int i = 0; i < n; ++i) v[i] = from[i];
    }
}
template <int n>
__device__ __forceinline__ void store_numbers(float* to, const float (&v)[n]) {
    if constexpr (n == 4) {
        *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
    } else {
#pragma unroll
        for (int i = 0; i < n; ++i) to[i] = v[i];
    }
}

// A block for each (token, group), `n` numbers of a thread at a time. Bound by reading x, from the L1 after the first time.
template <int n>
__global__ void __launch_bounds__(block_threads) norm_kernel(const __grid_constant__ NormParams p) {
    __shared__ float scratch[block_threads / lanes];
    wait_for_predecessor();
    let_successor_start();
    const NormLaunchArgs& args = p.args;
    const std::int64_t token = blockIdx.x, group = blockIdx.y, offset = token * args.x_stride + group * args.width;
    const int width = static_cast<int>(args.width), first = static_cast<int>(threadIdx.x) * n, step = static_cast<int>(blockDim.x) * n;
    // Each thread comes back to its own numbers only, so x, sum and y may be one.
    const auto values = [&](int at, float (&v)[n]) {
        load_numbers<n>((args.residual != nullptr && args.sum != nullptr ? args.sum : args.x) + offset + at, v);
        if (args.residual == nullptr || args.sum != nullptr) return;
        float more[n];
        load_numbers<n>(args.residual + offset + at, more);
#pragma unroll
        for (int i = 0; i < n; ++i) v[i] += more[i];
    };
    float total = 0;
    for (int at = first; at < width; at += step) {
        float v[n];
        load_numbers<n>(args.x + offset + at, v);
        if (args.residual != nullptr) {
            float more[n];
            load_numbers<n>(args.residual + offset + at, more);
#pragma unroll
            for (int i = 0; i < n; ++i) v[i] += more[i];
        }
        if (args.sum != nullptr) store_numbers<n>(args.sum + offset + at, v);
#pragma unroll
        for (int i = 0; i < n; ++i) total += args.kind == NormKind::layer ? v[i] : v[i] * v[i];
    }
    total = block_sum(total, scratch);
    float mean = 0;
    if (args.kind == NormKind::layer) {
        mean = total / static_cast<float>(width);
        float squares = 0;
        for (int at = first; at < width; at += step) {
            float v[n];
            values(at, v);
#pragma unroll
            for (int i = 0; i < n; ++i) squares += (v[i] - mean) * (v[i] - mean);
        }
        total = block_sum(squares, scratch);
    }
    const float scale = 1.0f / sqrtf(total / static_cast<float>(width) + args.eps);
    for (int at = first; at < width; at += step) {
        float v[n];
        values(at, v);
#pragma unroll
        for (int i = 0; i < n; ++i) {
            v[i] = (v[i] - mean) * scale;
            if (args.weight != nullptr) v[i] *= args.weight[at + i];
            if (args.bias != nullptr) v[i] += args.bias[at + i];
        }
        if (args.y != nullptr) store_numbers<n>(args.y + token * args.y_stride + group * width + at, v);
        if (p.operand.data == nullptr) continue;
        if constexpr (n == 4) p.operand.put_four(token, group * width + at, v);
        else p.operand.put(token, group * width + at, v[0]);
    }
}

struct ElementParams {
    ElementLaunchArgs args;
    OperandTarget operand;
};

__global__ void __launch_bounds__(block_threads) element_kernel(const __grid_constant__ ElementParams p) {
    wait_for_predecessor();
    let_successor_start();
    const ElementLaunchArgs& args = p.args;
    const std::int64_t token = blockIdx.y, column = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
    if (column >= args.n_columns) return;
    const float* a = args.a + token * args.a_stride;
    const float* b = args.b != nullptr ? args.b + (args.kind == ElementKind::column_scale ? 0 : token * args.b_stride) : nullptr;
    float y = args.kind == ElementKind::permute ? a[args.order[column]] : a[column];
    switch (args.kind) {
        case ElementKind::activation: y = activate(args.activation, y); break;
        case ElementKind::activate_mul: y = activate(args.activation, y) * b[column]; break;
        case ElementKind::multiply:
        case ElementKind::column_scale: y *= b[column]; break;
        case ElementKind::add: y += b[column]; break;
        case ElementKind::scale: y *= args.factor; break;
        case ElementKind::softcap: y = args.factor * tanhf(y / args.factor); break;
        case ElementKind::gate: y *= b[0]; break;
        case ElementKind::add_gated: y = args.y[token * args.y_stride + column] + y * b[0]; break;
        case ElementKind::permute: break;
    }
    if (args.y != nullptr) args.y[token * args.y_stride + column] = y;
    if (p.operand.data != nullptr) p.operand.put(token, column, y);
}

struct SelectParams {
    const float* x;
    const std::int32_t* index;
    float* y;
    std::int64_t n_columns;
};
__global__ void __launch_bounds__(block_threads) select_kernel(const __grid_constant__ SelectParams p) {
    wait_for_predecessor();
    let_successor_start();
    const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
    if (column < p.n_columns) p.y[blockIdx.y * p.n_columns + column] = p.x[p.index[blockIdx.y] * p.n_columns + column];
}

// A block for each token; every expert's rank by counting (few experts). Ties: the lower number first.
__global__ void __launch_bounds__(block_threads) route_kernel(const __grid_constant__ RouteLaunchArgs args) {
    __shared__ float scratch[block_threads / lanes];
    wait_for_predecessor();
    let_successor_start();
    const float* logits = args.logits + blockIdx.x * args.n_experts;
    float* y = args.y + blockIdx.x * args.n_experts;
    const int n = static_cast<int>(args.n_experts);
    float highest = -INFINITY;
    for (int i = 0; i < n; ++i) highest = fmaxf(highest, logits[i]);
    const bool top_first = args.rule == RouteLaunchArgs::Rule::top_then_softmax, by_sum = top_first || args.divide == RouteLaunchArgs::Divide::by_their_sum;
    const auto is_used = [&](int expert) {
        int rank = 0;
        for (int i = 0; i < n; ++i) rank += logits[i] > logits[expert] || (logits[i] == logits[expert] && i < expert) ? 1 : 0;
        return rank < args.n_used;
    };
    float part = 0;
    for (int i = threadIdx.x; i < n; i += block_threads) part += !by_sum || is_used(i) ? expf(logits[i] - highest) : 0.0f;
    const float total = block_sum(part, scratch);
    for (int i = threadIdx.x; i < n; i += block_threads) y[i] = is_used(i) ? expf(logits[i] - highest) / total : 0.0f;
}

// A thread for each column walks its sequence's tokens in order: the ring is read before it is written.
__global__ void __launch_bounds__(block_threads) conv_kernel(const __grid_constant__ ConvLaunchArgs args) {
    wait_for_predecessor();
    let_successor_start();
    const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x, first = blockIdx.y;
    if (column >= args.n_columns) return;
    const auto sequence_of = [&](std::int64_t token) { return args.tokens.sequences != nullptr ? args.tokens.sequences[token] : static_cast<std::int32_t>(token); };
    const std::int32_t sequence = sequence_of(first);
    if (first > 0 && sequence_of(first - 1) == sequence) return;  // another block has this sequence's first token
    const std::int64_t n_ring = args.n_taps - 1;
    float* ring = args.rings + sequence * n_ring * args.n_columns + column;
    const std::int32_t first_position = args.tokens.positions[first];
    std::int64_t token = first;
    for (; token < args.tokens.n_tokens && sequence_of(token) == sequence; ++token) {
        const std::int64_t position = first_position + (token - first);
        float y = args.bias != nullptr ? args.bias[column] : 0.0f;
        for (std::int64_t tap = 0; tap < args.n_taps; ++tap) {
            const std::int64_t at = position - n_ring + tap;
            if (at < 0) continue;
            const float x = at >= first_position ? args.x[(first + at - first_position) * args.n_columns + column] : ring[at % n_ring * args.n_columns];
            y += args.taps[tap * args.n_columns + column] * x;
        }
        args.y[token * args.n_columns + column] = y;
    }
    for (std::int64_t i = token - first > n_ring ? token - n_ring : first; i < token; ++i) ring[(first_position + i - first) % n_ring * args.n_columns] = args.x[i * args.n_columns + column];
}

unsigned blocks_for(std::int64_t n) { return static_cast<unsigned>((n + block_threads - 1) / block_threads); }

}  // namespace

// The order of the sums follows from the shape: four at a time where widths, strides and addresses allow it.
int launch_norm(const NormLaunchArgs& args, const Launch& launch) {
    if (args.width <= 0 || args.n_tokens <= 0) return 0;
    const auto aligned = [](const void* address) { return reinterpret_cast<std::uintptr_t>(address) % 16 == 0; };
    const bool fours = args.width % 4 == 0 && args.x_stride % 4 == 0 && (args.y == nullptr || args.y_stride % 4 == 0) && aligned(args.x) && aligned(args.residual) && aligned(args.sum) && aligned(args.y);
    const std::int64_t items = fours ? args.width / 4 : args.width, threads = items >= block_threads * 2 ? block_threads : (items + 63) / 64 * 32;
    const dim3 grid(static_cast<unsigned>(args.n_tokens), static_cast<unsigned>(args.n_groups)), block(static_cast<unsigned>(threads < block_threads ? threads : block_threads));
    return launch_kernel<NormParams>(fours ? norm_kernel<4> : norm_kernel<1>, grid, block, 0, launch, {args, target_of(args.operand)});
}

int launch_elements(const ElementLaunchArgs& args, const Launch& launch) {
    return launch_kernel<ElementParams>(element_kernel, dim3(blocks_for(args.n_columns), static_cast<unsigned>(args.n_tokens)), dim3(block_threads), 0, launch, {args, target_of(args.operand)});
}

int launch_select_rows(const float* x, const std::int32_t* index, float* y, std::int64_t n_rows, std::int64_t n_columns, const Launch& launch) {
    return launch_kernel<SelectParams>(select_kernel, dim3(blocks_for(n_columns), static_cast<unsigned>(n_rows)), dim3(block_threads), 0, launch, {x, index, y, n_columns});
}

int launch_route(const RouteLaunchArgs& args, const Launch& launch) { return launch_kernel<RouteLaunchArgs>(route_kernel, dim3(static_cast<unsigned>(args.n_tokens)), dim3(block_threads), 0, launch, args); }

int launch_causal_conv(const ConvLaunchArgs& args, const Launch& launch) {
    return launch_kernel<ConvLaunchArgs>(conv_kernel, dim3(blocks_for(args.n_columns), static_cast<unsigned>(args.tokens.n_tokens)), dim3(block_threads), 0, launch, args);
}

const char* launch_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace skiff::cuda
