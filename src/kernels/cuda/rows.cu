// What works row by row or number by number: norms, element-wise steps, the router, the causal convolution.
#include "kernels/cuda/norm_rows.cuh"

namespace skiff::cuda {
namespace {

constexpr int block_threads = 256;

// A block for each (token, group), `n` numbers of a thread at a time. Bound by reading x, from the L1 after the first time.
template <int n>
__global__ void __launch_bounds__(norm_threads) norm_kernel(const __grid_constant__ NormParams p) {
    __shared__ float scratch[2 * norm_threads / lanes];
    wait_for_predecessor();
    let_successor_start();
    norm_row<n>(p, blockIdx.x, blockIdx.y, nullptr, scratch);
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

struct ConvParams {
    ConvLaunchArgs args;
    OperandTarget operand;
};

// A thread for each column walks its sequence's tokens in order: the ring is read before it is written.
__global__ void __launch_bounds__(block_threads) conv_kernel(const __grid_constant__ ConvParams p) {
    wait_for_predecessor();
    let_successor_start();
    const ConvLaunchArgs& args = p.args;
    const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x, first = blockIdx.y;
    if (column >= args.n_columns) return;
    const auto sequence_of = [&](std::int64_t token) { return args.tokens.sequences != nullptr ? args.tokens.sequences[token] : static_cast<std::int32_t>(token); };
    const std::int32_t sequence = sequence_of(first);
    if (first > 0 && sequence_of(first - 1) == sequence) return;  // another block has this sequence's first token
    const std::int64_t n_ring = args.n_taps - 1;
    float* ring = args.rings + sequence * n_ring * args.n_columns + column;
    const auto input = [&](std::int64_t token) {
        const float x = args.x[token * args.x_stride + column];
        return args.gate_in != nullptr ? x * args.gate_in[token * args.gate_in_stride + column] : x;
    };
    const std::int32_t first_position = args.tokens.positions[first];
    std::int64_t token = first;
    for (; token < args.tokens.n_tokens && sequence_of(token) == sequence; ++token) {
        const std::int64_t position = first_position + (token - first);
        float y = args.bias != nullptr ? args.bias[column] : 0.0f;
        for (std::int64_t tap = 0; tap < args.n_taps; ++tap) {
            const std::int64_t at = position - n_ring + tap;
            if (at < 0) continue;
            const float x = at >= first_position ? input(first + at - first_position) : ring[at % n_ring * args.n_columns];
            y += args.taps[tap * args.n_columns + column] * x;
        }
        if (args.gate_out != nullptr) y *= args.gate_out[token * args.gate_out_stride + column];
        if (args.y != nullptr) args.y[token * args.n_columns + column] = y;
        if (p.operand.data != nullptr) p.operand.put(token, column, y);
    }
    for (std::int64_t i = token - first > n_ring ? token - n_ring : first; i < token; ++i) ring[(first_position + i - first) % n_ring * args.n_columns] = input(i);
}

unsigned blocks_for(std::int64_t n) { return static_cast<unsigned>((n + block_threads - 1) / block_threads); }

}  // namespace

// The order of the sums follows from the shape. Whole rows take all threads, as behind a product; short groups (heads) no more than they have work for.
int launch_norm(const NormLaunchArgs& args, const Launch& launch) {
    if (args.width <= 0 || args.n_tokens <= 0) return 0;
    const bool fours = norms_in_fours(args);
    const std::int64_t items = fours ? args.width / 4 : args.width, threads = args.n_groups == 1 || items >= norm_threads * 2 ? norm_threads : (items + 63) / 64 * 32;
    const dim3 grid(static_cast<unsigned>(args.n_tokens), static_cast<unsigned>(args.n_groups)), block(static_cast<unsigned>(threads < norm_threads ? threads : norm_threads));
    return launch_kernel<NormParams>(fours ? norm_kernel<4> : norm_kernel<1>, grid, block, 0, launch, norm_params(args));
}

int launch_elements(const ElementLaunchArgs& args, const Launch& launch) {
    return launch_kernel<ElementParams>(element_kernel, dim3(blocks_for(args.n_columns), static_cast<unsigned>(args.n_tokens)), dim3(block_threads), 0, launch, {args, target_of(args.operand)});
}

int launch_select_rows(const float* x, const std::int32_t* index, float* y, std::int64_t n_rows, std::int64_t n_columns, const Launch& launch) {
    return launch_kernel<SelectParams>(select_kernel, dim3(blocks_for(n_columns), static_cast<unsigned>(n_rows)), dim3(block_threads), 0, launch, {x, index, y, n_columns});
}

int launch_route(const RouteLaunchArgs& args, const Launch& launch) { return launch_kernel<RouteLaunchArgs>(route_kernel, dim3(static_cast<unsigned>(args.n_tokens)), dim3(block_threads), 0, launch, args); }

int launch_causal_conv(const ConvLaunchArgs& args, const Launch& launch) {
    return launch_kernel<ConvParams>(conv_kernel, dim3(blocks_for(args.n_columns), static_cast<unsigned>(args.tokens.n_tokens)), dim3(block_threads), 0, launch, {args, target_of(args.operand)});
}

const char* launch_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace skiff::cuda
