// The next token on the device: the largest logit, or one of the largest 64 by chance. Every block finds the top of its share of the vocabulary; the last to arrive merges them,
// so that one launch is enough and four bytes come back. Order among equal logits: the lower id first, in every step.
#include "kernels/cuda/choose.h"
#include "kernels/cuda/device.cuh"

namespace skiff::cuda {
namespace {

constexpr int most_tokens = 1024;
constexpr int threads = 256, shares = 64, most = 64, per_thread = 16;  // a share of up to 4096 logits is kept in registers

struct SampleParams {
    SampleArgs args;
    std::uint64_t* keys = nullptr;     // (n_tokens, shares, most)
    std::int32_t* arrivals = nullptr;  // (n_tokens)
};

// Keys that order as (logit descending, id ascending) by their size. 0 is no logit: NaN, or nothing. The zeros of both signs are equal.
__device__ __forceinline__ std::uint64_t key_of(float logit, std::uint32_t id) {
    if (!(logit == logit)) return 0;
    const std::uint32_t bits = float_bits(logit + 0.0f), ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return static_cast<std::uint64_t>(ordered) << 32 | (0xffffffffu - id);
}
__device__ __forceinline__ float logit_of(std::uint64_t key) {
    const auto ordered = static_cast<std::uint32_t>(key >> 32);
    return bits_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}
__device__ __forceinline__ std::int32_t id_of(std::uint64_t key) { return static_cast<std::int32_t>(0xffffffffu - static_cast<std::uint32_t>(key)); }

// The k largest keys of a block (all different but for 0), unordered, to top[0 .. k); what is missing is 0. Every thread has per_thread of them.
// The k-th largest is found bit by bit: __syncthreads_count style, with counts summed by warp.
__device__ void block_top(const std::uint64_t (&keys)[per_thread], int k, std::uint64_t* top, int* counter) {
    if (k == 1) {
        __shared__ std::uint64_t of_warps[threads / lanes];
        std::uint64_t largest = 0;
#pragma unroll
        for (int i = 0; i < per_thread; ++i) largest = keys[i] > largest ? keys[i] : largest;
#pragma unroll
        for (int distance = 16; distance > 0; distance /= 2) {
            const std::uint64_t other = __shfl_xor_sync(0xffffffffu, static_cast<unsigned long long>(largest), distance);
            largest = other > largest ? other : largest;
        }
        __syncthreads();
        if (threadIdx.x % lanes == 0) of_warps[threadIdx.x / lanes] = largest;
        __syncthreads();
        if (threadIdx.x == 0) {
            for (int warp = 1; warp < threads / lanes; ++warp) largest = of_warps[warp] > largest ? of_warps[warp] : largest;
            top[0] = largest;
        }
        __syncthreads();
        return;
    }
    int own = 0;
#pragma unroll
    for (int i = 0; i < per_thread; ++i) own += keys[i] != 0 ? 1 : 0;
    own = __reduce_add_sync(0xffffffffu, own);
    if (threadIdx.x == 0) *counter = 0;
    __syncthreads();
    if (threadIdx.x % lanes == 0 && own > 0) atomicAdd(counter, own);
    __syncthreads();
    const int n_keys = *counter;
    std::uint64_t threshold = 0;
    for (int bit = n_keys > k ? 63 : -1; bit >= 0; --bit) {
        const std::uint64_t candidate = threshold | 1ull << bit;
        int count = 0;
#pragma unroll
        for (int i = 0; i < per_thread; ++i) count += keys[i] >= candidate ? 1 : 0;
        count = __reduce_add_sync(0xffffffffu, count);
        __syncthreads();  // the counter may still be read for the bit before
        if (threadIdx.x == 0) *counter = 0;
        __syncthreads();
        if (threadIdx.x % lanes == 0 && count > 0) atomicAdd(counter, count);
        __syncthreads();
        const int total = *counter;
        if (total >= k) threshold = candidate;
        if (total == k) break;
    }
    __syncthreads();
    if (threadIdx.x == 0) *counter = 0;
    if (static_cast<int>(threadIdx.x) < k) top[threadIdx.x] = 0;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < per_thread; ++i)
        if (keys[i] >= threshold && keys[i] != 0) {
            const int place = atomicAdd(counter, 1);
            if (place < k) top[place] = keys[i];  // at most k keys but for 0 reach the threshold
        }
    __syncthreads();
}

__global__ void __launch_bounds__(threads, 2) sample_kernel(const __grid_constant__ SampleParams p) {
    __shared__ std::uint64_t top[most], ordered[most];
    __shared__ double weights[most], chances[most];
    __shared__ float scores[most];
    __shared__ int counter, is_last;
    wait_for_predecessor();
    let_successor_start();
    const SampleArgs& args = p.args;
    const int token = static_cast<int>(blockIdx.y), share = static_cast<int>(blockIdx.x), k = args.top_k;
    const float* logits = args.logits + token * args.stride;
    const std::int64_t begin = args.n_vocab * share / shares, end = args.n_vocab * (share + 1) / shares;

    std::uint64_t keys[per_thread];
    std::uint64_t* mine = p.keys + (static_cast<std::int64_t>(token) * shares + share) * most;
    // Shares beyond what the registers hold (vocabularies above 262144) go in pieces; the top so far joins the next piece in the first thread's places.
    for (std::int64_t first = begin; first == begin || first < end;) {
        const bool again = first != begin;
        const std::int64_t places = again ? threads * per_thread - most : threads * per_thread;
#pragma unroll
        for (int i = 0; i < per_thread; ++i) {
            const std::int64_t at = first + threadIdx.x + i * threads, place = threadIdx.x + i * threads;
            keys[i] = place < places && at < end ? key_of(logits[at], static_cast<std::uint32_t>(at)) : 0;
            if (again && place >= places && place - places < k) keys[i] = top[place - places];
        }
        first += places;
        block_top(keys, k, top, &counter);
    }
    if (static_cast<int>(threadIdx.x) < k) mine[threadIdx.x] = top[threadIdx.x];
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        is_last = atomicAdd(p.arrivals + token, 1) + 1 == shares ? 1 : 0;
        if (is_last != 0) p.arrivals[token] = 0;
    }
    __syncthreads();
    if (is_last == 0) return;
    __threadfence();
    const std::uint64_t* all = p.keys + static_cast<std::int64_t>(token) * shares * most;
#pragma unroll
    for (int i = 0; i < per_thread; ++i) {  // shares * most keys in all
        const int place = static_cast<int>(threadIdx.x) + i * threads;
        keys[i] = place % most < k ? __ldcg(reinterpret_cast<const unsigned long long*>(all) + place) : 0;
    }
    block_top(keys, k, top, &counter);
    if (static_cast<int>(threadIdx.x) < most) ordered[threadIdx.x] = 0;
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < k && top[threadIdx.x] != 0) {
        int rank = 0;
        for (int i = 0; i < k; ++i) rank += top[i] > top[threadIdx.x] ? 1 : 0;
        ordered[rank] = top[threadIdx.x];
    }
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < most && args.top_values != nullptr) {
        const std::uint64_t key = static_cast<int>(threadIdx.x) < k ? ordered[threadIdx.x] : 0;
        args.top_values[token * most + threadIdx.x] = key != 0 ? logit_of(key) : -INFINITY;
        if (args.top_ids != nullptr) args.top_ids[token * most + threadIdx.x] = key != 0 ? id_of(key) : -1;
    }
    const bool draws = args.temperature > 0;
    if (draws && static_cast<int>(threadIdx.x) < k && ordered[threadIdx.x] != 0) {  // a thread each: a number of double precision is slow
        const float score = logit_of(ordered[threadIdx.x]), highest = logit_of(ordered[0]);
        scores[threadIdx.x] = score;
        weights[threadIdx.x] = exp(static_cast<double>(score) - static_cast<double>(highest));
        chances[threadIdx.x] = exp((static_cast<double>(score) - static_cast<double>(highest)) / args.temperature);
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
    int chosen = 0, n = 0;
    while (n < k && ordered[n] != 0) ++n;
    const std::int32_t position = args.positions != nullptr ? args.positions[token] : 0;
    const float highest = n > 0 ? logit_of(ordered[0]) : INFINITY;
    const bool has_choice = (n == k || n == args.n_vocab) && highest - highest == 0;
    if (draws && has_choice && n > 1) chosen = choose_token({args.top_p, args.log_min_p}, scores, weights, chances, n, args.uniforms[token * args.n_uniforms + position % args.n_uniforms]);
    const std::int32_t id = n > 0 ? id_of(ordered[chosen]) : 0;
    if (args.ids != nullptr) args.ids[token] = id;
    if (args.history != nullptr && position + 1 < args.history_length) args.history[static_cast<std::int64_t>(position + 1) * args.n_tokens + token] = has_choice ? id : -1;
    if (args.feed == SampleArgs::Feed::advance && args.positions != nullptr) args.positions[token] = position + 1;
}

}  // namespace

// Arrivals come first, where no number of tokens moves them: they are zero before the first launch, and each leaves them so.
std::size_t sample_scratch_bytes(std::int64_t n_tokens) { return most_tokens * sizeof(std::int32_t) + static_cast<std::size_t>(n_tokens) * shares * most * 8; }

int launch_sample(const SampleArgs& args, const Launch& launch) {
    if (args.top_k < 1 || args.top_k > most || args.n_vocab < 1 || args.n_tokens > most_tokens || (args.temperature > 0 && (args.uniforms == nullptr || args.n_uniforms < 1)))
        return cudaErrorInvalidValue;
    SampleParams p;
    p.args = args;
    if (args.temperature <= 0 && args.top_values == nullptr) p.args.top_k = 1;
    p.arrivals = reinterpret_cast<std::int32_t*>(args.scratch);
    p.keys = reinterpret_cast<std::uint64_t*>(p.arrivals + most_tokens);
    return launch_kernel<SampleParams>(sample_kernel, dim3(shares, static_cast<unsigned>(args.n_tokens)), dim3(threads), 0, launch, p);
}

}  // namespace skiff::cuda
