// Causal attention from LibTorch's operators, and the choice among the forms.
#include <torch/version.h>

#include "train/attention_parts.h"
#include "train/fused_rows.h"

namespace skiff::train {
namespace {

// Queries, keys and values of composed forms: (n_sequences, n_heads, n_tokens, head_dim) each, keys and values once per query head.
struct Heads {
    at::Tensor queries, keys, values;
    at::Tensor joined(const at::Tensor& out) const { return out.transpose(1, 2).reshape({out.size(0) * out.size(2), out.size(1) * out.size(3)}); }
};
Heads heads_of(const std::vector<at::Tensor>& qkv, const AttentionSettings& settings) {
    const std::int64_t T = settings.n_tokens, n = qkv[0].size(0) / T, group = settings.n_heads / settings.n_kv_heads;
    const auto source = sources(settings, qkv.size());
    auto heads = [&](const Source& from, const Rotation& rotation) {
        const at::Tensor columns = qkv[static_cast<std::size_t>(from.tensor)].narrow(1, from.column, from.n_heads * settings.head_dim).contiguous();
        return rotate(columns, rotation, T, settings.head_dim).view({n, T, from.n_heads, settings.head_dim}).transpose(1, 2);
    };
    return {heads(source[0], settings.q_rotation), heads(source[1], settings.k_rotation).repeat_interleave(group, 1),
            heads(source[2], {}).repeat_interleave(group, 1)};
}
at::Tensor unseen_keys(const AttentionSettings& settings, at::Device device) {
    const at::Tensor position = at::arange(settings.n_tokens, at::TensorOptions(device).dtype(at::kLong));
    const at::Tensor distance = position.unsqueeze(1) - position.unsqueeze(0);
    const at::Tensor later = distance < 0;
    return settings.window > 0 ? later | (distance >= settings.window) : later;
}

// The same from LibTorch's operators, with all scores in memory.
at::Tensor composed_attention(const Heads& heads, const AttentionSettings& settings) {
    at::Tensor scores = widened(at::matmul(heads.queries, heads.keys.transpose(2, 3))) * settings.scale;
    if (settings.softcap > 0) scores = at::tanh(scores / settings.softcap) * settings.softcap;
    scores = scores.masked_fill(unseen_keys(settings, scores.device()), -INFINITY);
    const at::Tensor probabilities = at::softmax(scores, -1).to(heads.values.scalar_type());
    return heads.joined(at::matmul(probabilities, heads.values));
}

// As one operator of LibTorch, which on a GPU keeps no scores. It takes a scale since 2.1.
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 1)
bool has_library_attention(const AttentionSettings& settings) { return settings.softcap == 0; }
at::Tensor library_attention(const Heads& heads, const AttentionSettings& settings) {
    const auto& [q, k, v] = heads;
    if (settings.window == 0 || settings.window >= settings.n_tokens)
        return heads.joined(at::scaled_dot_product_attention(q, k, v, {}, 0.0, true, settings.scale));
    const at::Tensor seen = unseen_keys(settings, q.device()).logical_not();
    return heads.joined(at::scaled_dot_product_attention(q, k, v, seen, 0.0, false, settings.scale));
}
#else
bool has_library_attention(const AttentionSettings&) { return false; }
at::Tensor library_attention(const Heads& heads, const AttentionSettings& settings) { return composed_attention(heads, settings); }
#endif

}  // namespace

at::Tensor attention(const std::vector<at::Tensor>& qkv, const AttentionSettings& settings, Form form) {
    if (form == Form::automatic && can_fuse(qkv[0])) return fused_attention(qkv, settings);
    const Heads heads = heads_of(qkv, settings);
    return form != Form::composed && has_library_attention(settings) ? library_attention(heads, settings) : composed_attention(heads, settings);
}

}  // namespace skiff::train
