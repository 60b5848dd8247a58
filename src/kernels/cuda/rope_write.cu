// q/k norm, rope and the write of the state: a warp for each head of a token. Bound by latency; it moves a few KiB.
#include "kernels/cuda/attention.cuh"

namespace skiff::cuda {
namespace {

constexpr int warps = 4, most_dims = 256, per_lane = most_dims / lanes;

struct RopeWriteParams {
    RopeWriteArgs args;
    PageLayout page;
};

// cos and sin of a float angle of any size, without the slow path that needs a stack: turns in double, then within half a turn.
__device__ __forceinline__ void turn(float angle, float& cosine, float& sine) {
    const double turns = static_cast<double>(angle) * 0.15915494309189533577;
    const auto rest = static_cast<float>(turns - rint(turns));
    sincospif(2.0f * rest, &sine, &cosine);
}

__device__ void write_state(const PageLayout& page, unsigned char* row, unsigned char* scale_place, float (&v)[per_lane], int lane) {
    const int d = page.head_dim;
    if (page.form == StateForm::bf16) {
#pragma unroll
        for (int j = 0; j < per_lane; ++j)
            if (lane + j * lanes < d) reinterpret_cast<unsigned short*>(row)[lane + j * lanes] = static_cast<unsigned short>(float_bf16(v[j]));
    } else if (page.form == StateForm::fp8) {
#pragma unroll
        for (int j = 0; j < per_lane; ++j)
            if (lane + j * lanes < d) row[state_byte8(lane + j * lanes)] = static_cast<unsigned char>(float_e4m3(v[j]));
    } else if (page.form == StateForm::int8) {
        float largest = 0;
#pragma unroll
        for (int j = 0; j < per_lane; ++j)
            if (lane + j * lanes < d) largest = fmaxf(largest, fabsf(v[j]));
        const StoredScale scale = stored_scale(warp_max(largest) / 127.0f);
        if (lane == 0) *reinterpret_cast<unsigned short*>(scale_place) = static_cast<unsigned short>(scale.bits);
#pragma unroll
        for (int j = 0; j < per_lane; ++j)
            if (lane + j * lanes < d) row[state_byte8(lane + j * lanes)] = static_cast<unsigned char>(state_code(v[j], scale.inverse, -127, 127));
    } else {
#pragma unroll
        for (int j = 0; j < per_lane; ++j) {
            if (j * lanes >= d) break;  // groups of 32 dimensions: head_dim is a multiple
            const float highest = warp_max(v[j]), lowest = -warp_max(-v[j]);
            const StoredScale scale = stored_scale((fmaxf(highest, 0.0f) >= -fminf(lowest, 0.0f) ? fmaxf(highest, 0.0f) : fminf(lowest, 0.0f)) / -8.0f);
            if (lane == 0) reinterpret_cast<unsigned short*>(scale_place)[j] = static_cast<unsigned short>(scale.bits);
            const int code = state_code(v[j], scale.inverse, -8, 7) + 8, other = __shfl_down_sync(0xffffffffu, code, 2);
            if (lane % 4 < 2) row[state_nibble4(lane + j * lanes) / 2] = static_cast<unsigned char>(code | other << 4);  // dimensions d and d + 2 share a byte
        }
    }
}

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
#pragma unroll
    for (int j = 0; j < per_lane; ++j) v[j] = lane + j * lanes < d ? x[lane + j * lanes] : 0.0f;

    const float* norm = part == Part::q ? args.q_norm : part == Part::k ? args.k_norm : nullptr;
    if (norm != nullptr) {
        float squares = 0;
#pragma unroll
        for (int j = 0; j < per_lane; ++j) squares += v[j] * v[j];
        const float scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(d) + args.norm_eps);
#pragma unroll
        for (int j = 0; j < per_lane; ++j)
            if (lane + j * lanes < d) v[j] *= scale * norm[lane + j * lanes];
    }
    const std::int32_t position = args.tokens.positions[token];
    float* mine = staged[warp];
    if (args.inv_freq != nullptr && part != Part::v) {
#pragma unroll
        for (int j = 0; j < per_lane; ++j)
            if (lane + j * lanes < d) mine[lane + j * lanes] = v[j];
        __syncwarp();
        const int rotary = static_cast<int>(args.rotary_dim), half = rotary / 2;
#pragma unroll
        for (int j = 0; j < per_lane; ++j) {
            const int i = lane + j * lanes;
            if (i >= rotary || i >= d) continue;
            const bool by_half = args.style == RopeStyle::half;
            const int frequency = by_half ? (i < half ? i : i - half) : i / 2, partner = by_half ? (i < half ? i + half : i - half) : i ^ 1;
            const bool first = by_half ? i < half : i % 2 == 0;
            float cosine, sine;
            turn(static_cast<float>(position) * args.inv_freq[frequency], cosine, sine);
            cosine *= args.magnitude, sine *= args.magnitude;
            v[j] = first ? v[j] * cosine - mine[partner] * sine : v[j] * cosine + mine[partner] * sine;
        }
        __syncwarp();
    }
    float* copy = part == Part::q ? args.q + token * args.q_stride + item * d : part == Part::k && args.k != nullptr ? args.k + token * args.k_stride + item * d : nullptr;
    if (copy != nullptr) {
#pragma unroll
        for (int j = 0; j < per_lane; ++j)
            if (lane + j * lanes < d) copy[lane + j * lanes] = v[j];
    }
    auto* pool = static_cast<unsigned char*>(part == Part::k ? args.state.keys : args.state.values);
    if (part == Part::q || pool == nullptr) return;
    if (p.page.form == StateForm::int4) {
#pragma unroll
        for (int j = 0; j < per_lane; ++j)
            if (lane + j * lanes < d) mine[lane + j * lanes] = v[j];
        rotate(mine, d, lane);
#pragma unroll
        for (int j = 0; j < per_lane; ++j)
            if (lane + j * lanes < d) v[j] = mine[lane + j * lanes];
    }
    const std::int32_t sequence = args.tokens.sequences != nullptr ? args.tokens.sequences[token] : static_cast<std::int32_t>(token);
    const std::int64_t number = args.state.page_table[sequence * args.state.max_pages + position / page_positions], in_page = position % page_positions;
    write_state(p.page, pool + p.page.row(number, item, in_page), pool + p.page.scale(number, item, in_page), v, lane);
}

}  // namespace

int launch_rope_write(const RopeWriteArgs& args, const Launch& launch) {
    if (!state_takes(args.state.keys != nullptr || args.state.values != nullptr ? args.state.form : StateForm::bf16, args.state.head_dim)) return cudaErrorInvalidValue;
    const std::int64_t items = args.n_heads + (args.k_offset >= 0 ? args.state.n_kv_heads : 0) + (args.v_offset >= 0 ? args.state.n_kv_heads : 0);
    return launch_kernel<RopeWriteParams>(rope_write_kernel, dim3(static_cast<unsigned>((items + warps - 1) / warps), static_cast<unsigned>(args.tokens.n_tokens)), dim3(warps * lanes), 0, launch,
                                          {args, page_layout(args.state)});
}

}  // namespace skiff::cuda
