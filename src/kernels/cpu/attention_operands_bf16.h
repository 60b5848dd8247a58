// What queries and weights are while they are multiplied with a state of bf16 by vdpbf16ps: bf16 too, pairs of neighbours in the memory of a row of f32, from
// its beginning on. One instruction does the work of two multiply-adds of f32 and of the two that take a pair of the state apart. Rounding an operand to 8 bits
// errs as much as rounding the other, in the state, did; sums, and the total of the weights, are f32.
#pragma once

#include "kernels/cpu/attention_products.h"

namespace skiff {
namespace {

inline bool has_codes(StateScheme) { return false; }

// Operands i .. i + 15 of a row; what was in the row from i on must have been read before.
inline void put_operands(float* row, std::int64_t i, Lanes x) {
    const __m256bh rounded = _mm512_cvtneps_pbh(x);
    __builtin_memcpy(reinterpret_cast<std::byte*>(row) + 2 * i, &rounded, sizeof rounded);
}

template <int Q, int V>
void pair_product(const FloatProduct& p, std::int64_t panel) {
    __m512 sum[Q][V];
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) {
        SKIFF_UNROLL
        for (int v = 0; v < V; ++v) sum[k][v] = _mm512_setzero_ps();
    }
    const std::byte* step = p.panels + panel * p.panel_bytes + p.first_step * 64;
    const auto* x = reinterpret_cast<const std::byte*>(p.x + p.first_step);
    for (std::int64_t i = 0; i < p.n_steps; ++i, step += 64, x += 4) {
        __m512i row[V];
        SKIFF_UNROLL
        for (int v = 0; v < V; ++v) {
            row[v] = read(step + v * p.panel_bytes);
            fetch_ahead(step + v * p.panel_bytes, p.ahead);
        }
        SKIFF_UNROLL
        for (int k = 0; k < Q; ++k) {
            const __m512i pair = four(x + k * p.x_stride * 4);
            SKIFF_UNROLL
            for (int v = 0; v < V; ++v) sum[k][v] = _mm512_dpbf16_ps(sum[k][v], (__m512bh)row[v], (__m512bh)pair);
        }
    }
    SKIFF_UNROLL
    for (int k = 0; k < Q; ++k) {
        SKIFF_UNROLL
        for (int v = 0; v < V; ++v) _mm512_storeu_ps(p.out + k * p.out_stride + (panel + v) * state_lanes, sum[k][v]);
    }
}
template <int Q>
void pair_panels(const FloatProduct& p) {
    constexpr int V = Q <= 5 ? 4 : 2;
    std::int64_t panel = 0;
    for (; panel + V <= p.n_panels; panel += V) pair_product<Q, V>(p, panel);
    for (; panel < p.n_panels; ++panel) pair_product<Q, 1>(p, panel);
}

void multiply_stored(StateScheme, const FloatProduct& product, std::int64_t n) {
#define SKIFF_RUN(q) pair_panels<q>(product)
    SKIFF_QUERIES(n, SKIFF_RUN)
#undef SKIFF_RUN
}

}  // namespace
}  // namespace skiff
