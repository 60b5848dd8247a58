// Attention over paged keys and values as a graph of cuDNN's: the pattern that its flash attention engines know (the documentation's "SDPA": two products around a softmax of
// which no score is stored).
#pragma once

#include <compare>

#include "backend/cuda/cudnn/graph.h"

namespace skiff::cuda::cudnn {

struct AttentionShape {
    std::int64_t n_heads = 0, n_kv_heads = 0, head_dim = 0;
    std::int64_t n_rows = 0;        // of q in memory; how many of them are tokens is read when it runs
    std::int64_t n_pages = 0;       // of the sequence, at most
    std::int64_t n_pool_pages = 0;  // of all sequences
    std::int64_t page_positions = 0, page_stride = 0;  // elements from one page of the pool to the next
    float scale = 1, softcap = 0;
    std::int64_t window = 0;        // 0 = all earlier positions
    auto operator<=>(const AttentionShape&) const = default;
};
struct AttentionGraph {
    Graph graph;
    int q = 0, keys = 0, values = 0;      // (1, n_heads, n_rows, head_dim) of rows of all heads; pools: (n_pool_pages, n_kv_heads, page_positions, head_dim) // bf16
    int key_pages = 0, value_pages = 0;   // (1, 1, n_pages, 1) i32
    int n_tokens = 0, n_positions = 0;    // (1) i32: of q, which are the last ones; of keys and values
    int y = 0;                            // as q // bf16
    int stats = 0;                        // (1, n_heads, n_rows, 1) f32: the logarithm of each row's sum. Nobody reads it, but without it version 9.14 writes it to no memory of ours
};
std::size_t attention_stats_bytes(const AttentionShape& shape);
AttentionGraph attention_graph(const Library& library, const AttentionShape& shape);

}  // namespace skiff::cuda::cudnn
