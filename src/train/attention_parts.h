// What the forms of attention share: where q, k and v lie; and the fused form, which has a file of its own.
#pragma once

#include <array>
#include <vector>

#include "train/operators.h"

namespace skiff::train {

// Where q, k and v are: columns of one tensor, or three tensors.
struct Source {
    int tensor;
    std::int64_t column, n_heads;
};
inline std::array<Source, 3> sources(const AttentionSettings& settings, std::size_t n_tensors) {
    const std::int64_t q = settings.n_heads * settings.head_dim, kv = settings.n_kv_heads * settings.head_dim;
    if (n_tensors == 1) return {Source{0, 0, settings.n_heads}, {0, q, settings.n_kv_heads}, {0, q + kv, settings.n_kv_heads}};
    return {Source{0, 0, settings.n_heads}, {1, 0, settings.n_kv_heads}, {2, 0, settings.n_kv_heads}};
}

// On a CPU, f32 or bf16.
at::Tensor fused_attention(const std::vector<at::Tensor>& qkv, const AttentionSettings& settings);

}  // namespace skiff::train
