// q/k norm, rope and the write of the state: a warp for each head of a token. Bound by latency; it moves a few KiB.
#include "kernels/cuda/rope.cuh"

namespace skiff::cuda {
namespace {

constexpr int warps = 4, most_dims = 256, per_lane = most_dims / lanes;

struct RopeWriteParams {
    RopeWriteArgs args;
    PageLayout page;
};

__global__ void __launch_bounds__(warps* lanes) rope_write_kernel(const __grid_constant__ RopeWriteParams p) {
    __shared__ float staged[warps][most_dims];
    wait_for_predecessor();
    let_successor_start();
    const RopeWriteArgs& args = p.args;
    const int warp = threadIdx.x / lanes, lane = threadIdx.x % lanes, d = p.page.head_dim;
    const std::int64_t token = blockIdx.y, n_kv = args.state.n_kv_heads;
    std::int64_t item = static_cast<std::int64_t>(blockIdx.x) * warps + warp;
    enum class Part : int { q, k, v } part = Part::q;
    const std::int64_t n_k = args.k_offset >= 0 ? n_kv : 0, n_v = args.v_offset >= 0 ? n_kv : 0;
    if (item >= args.n_heads) item -= args.n_heads, part = Part::k;
    if (part == Part::k && item >= n_k) item -= n_k, part = Part::v;
    if (part == Part::v && item >= n_v) return;  // whole warps
    const std::int64_t begin = part == Part::q ? args.q_offset : part == Part::k ? args.k_offset : args.v_offset;
    const float* x = args.qkv + token * args.qkv_stride + begin + item * d;
    float v[per_lane];
    read_head(x, d, lane, v);
    const float* norm = part == Part::q ? args.q_norm : part == Part::k ? args.k_norm : nullptr;
    if (norm != nullptr) norm_head(norm, args.norm_eps, d, lane, v);
    const std::int32_t position = args.tokens.positions[token];
    float* mine = staged[warp];
    if (args.inv_freq != nullptr && part != Part::v) turn_head(args, [&](int dim) { return turn_of(args, position, dim); }, mine, d, lane, v);
    float* copy = part == Part::q ? args.q + token * args.q_stride + item * d : part == Part::k && args.k != nullptr ? args.k + token * args.k_stride + item * d : nullptr;
    if (copy != nullptr) {
#pragma unroll
        for (int j = 0; j < per_lane; ++j)
            if (lane + j * lanes < d) copy[lane + j * lanes] = v[j];
    }
    auto* pool = static_cast<unsigned char*>(part == Part::k ? args.state.keys : args.state.values);
    if (part == Part::q || pool == nullptr) return;
    const std::int32_t sequence = args.tokens.sequences != nullptr ? args.tokens.sequences[token] : static_cast<std::int32_t>(token);
    const std::int64_t number = args.state.page_table[sequence * args.state.max_pages + position / page_positions], in_page = position % page_positions;
    write_state(p.page, pool + p.page.row(number, item, in_page), reinterpret_cast<unsigned short*>(pool + p.page.scale(number, item, in_page)), mine, lane, v);
}

}  // namespace

int launch_rope_write(const RopeWriteArgs& args, const Launch& launch) {
    if (!state_takes(args.state.keys != nullptr || args.state.values != nullptr ? args.state.form : StateForm::bf16, args.state.head_dim)) return cudaErrorInvalidValue;
    const std::int64_t items = args.n_heads + (args.k_offset >= 0 ? args.state.n_kv_heads : 0) + (args.v_offset >= 0 ? args.state.n_kv_heads : 0);
    return launch_kernel<RopeWriteParams>(rope_write_kernel, dim3(static_cast<unsigned>((items + warps - 1) / warps), static_cast<unsigned>(args.tokens.n_tokens)), dim3(warps * lanes), 0, launch,
                                          {args, page_layout(args.state)});
}

}  // namespace skiff::cuda
