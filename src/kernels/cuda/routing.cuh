// The router of a few tokens within a block: what each token chose, and the experts that somebody chose.
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/routing.h"

namespace skiff::cuda {

constexpr int max_active_experts = static_cast<int>(max_gemv_tokens * max_chosen_experts);

struct Routed {
    std::uint32_t chosen[max_gemv_tokens][expert_words];     // of each token
    std::uint32_t by_any[expert_words];
    float shares[max_gemv_tokens][max_chosen_experts];       // the weights of those, by their place
    signed char places[max_active_experts][max_gemv_tokens]; // of an active expert among those of a token; -1: not chosen
    unsigned char active[max_active_experts];                // chosen by a token, ascending
    int n_active;
};

// One token, by a warp. // logits: (n_experts) f32
__device__ __forceinline__ void route_token(const RouteLaunchArgs& route, const float* logits, int token, int lane, Routed& routed) {
    const int n = static_cast<int>(route.n_experts), n_used = static_cast<int>(route.n_used);
    const bool by_sum = route.rule == RouteLaunchArgs::Rule::top_then_softmax || route.divide == RouteLaunchArgs::Divide::by_their_sum;
    std::uint64_t below = ~std::uint64_t{0}, mine = 0;  // mine: what was chosen in round `lane`
    std::uint32_t word = 0;                             // of the set, for the lane of that number
    float highest = 0, total = 0;
    for (int round = 0; round < n_used; ++round) {
        std::uint64_t best = 0;
        for (int expert = lane; expert < n; expert += lanes) {
            const std::uint64_t order = expert_order(logits[expert], expert);
            if (order < below && order > best) best = order;
        }
#pragma unroll
        for (int distance = 16; distance > 0; distance /= 2) {
            const std::uint64_t other = __shfl_xor_sync(0xffffffffu, best, distance);
            if (other > best) best = other;
        }
        below = best;
        const int expert = expert_of(best);
        if (round == 0) highest = logit_of(best);
        if (round == lane) mine = best;
        if (expert / 32 == lane) word |= 1u << expert % 32;
        total += expf(logit_of(best) - highest);
    }
    if (!by_sum) {
        total = 0;
        for (int expert = lane; expert < n; expert += lanes) total += expf(logits[expert] - highest);
        total = warp_sum(total);
    }
    if (lane < expert_words) routed.chosen[token][lane] = word;
    __syncwarp();
    if (lane < n_used) routed.shares[token][place_of_expert(routed.chosen[token], expert_of(mine))] = expf(logit_of(mine) - highest) / total;
}

// All tokens, by all threads of a block of at least max_routed_experts threads. Ends with a barrier.
__device__ __forceinline__ void route_tokens(const RouteLaunchArgs& route, Routed& routed) {
    const int warp = threadIdx.x / lanes, lane = threadIdx.x % lanes, n_tokens = static_cast<int>(route.n_tokens);
    if (warp < n_tokens) route_token(route, route.logits + warp * route.n_experts, warp, lane, routed);
    __syncthreads();
    if (warp == 0 && lane < expert_words) {
        std::uint32_t word = 0;
        for (int token = 0; token < n_tokens; ++token) word |= routed.chosen[token][lane];
        routed.by_any[lane] = word;
    }
    __syncthreads();
    const int expert = static_cast<int>(threadIdx.x);
    if (expert == 0) routed.n_active = place_of_expert(routed.by_any, static_cast<int>(max_routed_experts) - 1) + (has_expert(routed.by_any, static_cast<int>(max_routed_experts) - 1) ? 1 : 0);
    if (expert < route.n_experts && has_expert(routed.by_any, expert)) {
        const int place = place_of_expert(routed.by_any, expert);
        routed.active[place] = static_cast<unsigned char>(expert);
        for (int token = 0; token < n_tokens; ++token)
            routed.places[place][token] = static_cast<signed char>(has_expert(routed.chosen[token], expert) ? place_of_expert(routed.chosen[token], expert) : -1);
    }
    __syncthreads();
}

}  // namespace skiff::cuda
