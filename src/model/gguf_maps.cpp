#include "model/gguf_maps.h"

#include <charconv>
#include <vector>

namespace skiff {
namespace {

using enum GgufChange;
using Kind = GgufKey::Kind;
using Need = GgufKey::Need;

constexpr GgufName llama_names[] = {
    {"model.embed_tokens", "token_embd"},
    {"model.norm", "output_norm"},
    {"lm_head", "output"},
    {"model.layers.{}.input_layernorm", "blk.{}.attn_norm"},
    {"model.layers.{}.self_attn.q_proj", "blk.{}.attn_q", permuted_heads},
    {"model.layers.{}.self_attn.k_proj", "blk.{}.attn_k", permuted_heads},
    {"model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"},
    {"model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"},
    {"model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"},
    {"model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"},
    {"model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"},
    {"model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"},
    {"model.layers.{}.block_sparse_moe.gate", "blk.{}.ffn_gate_inp"},
    {"model.layers.{}.block_sparse_moe.experts.{}.w1", "blk.{}.ffn_gate_exps"},
    {"model.layers.{}.block_sparse_moe.experts.{}.w3", "blk.{}.ffn_up_exps"},
    {"model.layers.{}.block_sparse_moe.experts.{}.w2", "blk.{}.ffn_down_exps"},
};

constexpr GgufName qwen_names[] = {
    {"model.embed_tokens", "token_embd"},
    {"model.norm", "output_norm"},
    {"lm_head", "output"},
    {"model.layers.{}.input_layernorm", "blk.{}.attn_norm"},
    {"model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"},
    {"model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"},
    {"model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"},
    {"model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"},
    {"model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"},
    {"model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"},
    {"model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"},
    {"model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"},
    {"model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"},
    {"model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"},
};

constexpr GgufName gemma_names[] = {
    {"model.embed_tokens", "token_embd"},
    {"model.norm", "output_norm", plus_one},
    {"lm_head", "output"},
    {"model.layers.{}.input_layernorm", "blk.{}.attn_norm", plus_one},
    {"model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"},
    {"model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"},
    {"model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"},
    {"model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"},
    {"model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm", plus_one},
    {"model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm", plus_one},
    {"model.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm", plus_one},
    {"model.layers.{}.pre_feedforward_layernorm", "blk.{}.ffn_norm", plus_one},
    {"model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"},
    {"model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"},
    {"model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"},
    {"model.layers.{}.post_feedforward_layernorm", "blk.{}.post_ffw_norm", plus_one},
};

constexpr GgufName phi3_names[] = {
    {"model.embed_tokens", "token_embd"},
    {"model.norm", "output_norm"},
    {"lm_head", "output"},
    {"model.layers.{}.input_layernorm", "blk.{}.attn_norm"},
    {"model.layers.{}.self_attn.qkv_proj", "blk.{}.attn_qkv"},
    {"model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"},
    {"model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"},
    {"model.layers.{}.mlp.gate_up_proj", "blk.{}.ffn_up"},
    {"model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"},
};

constexpr GgufName gpt2_names[] = {
    {"transformer.wte", "token_embd"},
    {"transformer.wpe", "position_embd"},
    {"transformer.ln_f", "output_norm"},
    {"lm_head", "output"},
    {"transformer.h.{}.ln_1", "blk.{}.attn_norm"},
    {"transformer.h.{}.attn.c_attn", "blk.{}.attn_qkv", transposed},
    {"transformer.h.{}.attn.c_proj", "blk.{}.attn_output", transposed},
    {"transformer.h.{}.ln_2", "blk.{}.ffn_norm"},
    {"transformer.h.{}.mlp.c_fc", "blk.{}.ffn_up", transposed},
    {"transformer.h.{}.mlp.c_proj", "blk.{}.ffn_down", transposed},
};

constexpr GgufName neox_names[] = {
    {"gpt_neox.embed_in", "token_embd"},
    {"gpt_neox.final_layer_norm", "output_norm"},
    {"embed_out", "output"},
    {"gpt_neox.layers.{}.input_layernorm", "blk.{}.attn_norm"},
    {"gpt_neox.layers.{}.attention.query_key_value", "blk.{}.attn_qkv", regrouped_heads},
    {"gpt_neox.layers.{}.attention.dense", "blk.{}.attn_output"},
    {"gpt_neox.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"},
    {"gpt_neox.layers.{}.mlp.dense_h_to_4h", "blk.{}.ffn_up"},
    {"gpt_neox.layers.{}.mlp.dense_4h_to_h", "blk.{}.ffn_down"},
};

// Without the rope keys, which need more than a new name (gguf_config.cpp). A key that a family does not know is refused by its config reader.
constexpr GgufKey decoder_keys[] = {
    {"context_length", "max_position_embeddings", Kind::count, Need::required},
    {"embedding_length", "hidden_size", Kind::count, Need::required},
    {"block_count", "num_hidden_layers", Kind::count, Need::required},
    {"feed_forward_length", "intermediate_size", Kind::counts, Need::required},
    {"attention.head_count", "num_attention_heads", Kind::counts, Need::required},
    {"attention.head_count_kv", "num_key_value_heads", Kind::counts, Need::optional},
    {"attn_logit_softcapping", "attn_logit_softcapping", Kind::number, Need::optional},
    {"final_logit_softcapping", "final_logit_softcapping", Kind::number, Need::optional},
    {"expert_count", "num_local_experts", Kind::count, Need::optional},
    {"expert_used_count", "num_experts_per_tok", Kind::count, Need::optional},
    {"use_parallel_residual", "use_parallel_residual", Kind::flag, Need::optional},
};
constexpr GgufKey gpt2_keys[] = {
    {"context_length", "n_positions", Kind::count, Need::required},   {"embedding_length", "n_embd", Kind::count, Need::required},
    {"block_count", "n_layer", Kind::count, Need::required},          {"feed_forward_length", "n_inner", Kind::counts, Need::required},
    {"attention.head_count", "n_head", Kind::counts, Need::required},
};
constexpr GgufKey rms_eps = {"attention.layer_norm_rms_epsilon", "rms_norm_eps", Kind::number, Need::required};
constexpr GgufKey neox_eps = {"attention.layer_norm_epsilon", "layer_norm_eps", Kind::number, Need::required};
constexpr GgufKey gpt2_eps = {"attention.layer_norm_epsilon", "layer_norm_epsilon", Kind::number, Need::required};

using HeadDim = GgufMap::HeadDim;
const GgufMap table[] = {
    {"llama", "llama", "llama", llama_names, decoder_keys, rms_eps, "", HeadDim::by_width},
    {"mistral", "mistral", "llama", llama_names, decoder_keys, rms_eps, "", HeadDim::by_width},
    {"mixtral", "mixtral", "llama", llama_names, decoder_keys, rms_eps, "", HeadDim::by_width},
    {"qwen2", "qwen2", "qwen2", qwen_names, decoder_keys, rms_eps, "", HeadDim::by_width},
    {"qwen3", "qwen3", "qwen3", qwen_names, decoder_keys, rms_eps, "", HeadDim::own},
    {"gemma2", "gemma2", "gemma2", gemma_names, decoder_keys, rms_eps, "", HeadDim::own},
    {"gemma3", "gemma3_text", "gemma3", gemma_names, decoder_keys, rms_eps, "", HeadDim::own},
    {"phi3", "phi3", "phi3", phi3_names, decoder_keys, rms_eps, "partial_rotary_factor", HeadDim::by_width},
    {"gpt2", "gpt2", "gpt2", gpt2_names, gpt2_keys, gpt2_eps, "", HeadDim::by_width},
    {"gpt_neox", "gpt_neox", "gptneox", neox_names, decoder_keys, neox_eps, "rotary_pct", HeadDim::by_width},
};

// The numbers that "{}" stand for, or nothing when the text is not of this form.
std::optional<std::vector<std::int64_t>> match(std::string_view pattern, std::string_view text) {
    std::vector<std::int64_t> numbers;
    while (true) {
        const std::size_t hole = pattern.find("{}");
        if (hole == std::string_view::npos) return pattern == text ? std::optional(numbers) : std::nullopt;
        if (text.size() < hole || text.substr(0, hole) != pattern.substr(0, hole)) return std::nullopt;
        text.remove_prefix(hole);
        pattern.remove_prefix(hole + 2);
        std::uint32_t number = 0;
        const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
        const bool canonical = parsed.ec == std::errc() && (text[0] != '0' || parsed.ptr == text.data() + 1);
        if (!canonical) return std::nullopt;
        text.remove_prefix(static_cast<std::size_t>(parsed.ptr - text.data()));
        numbers.push_back(number);
    }
}

}  // namespace

std::span<const GgufMap> gguf_map_table() { return table; }

const GgufMap* find_gguf_map(std::string_view architecture) {
    for (const GgufMap& row : table)
        if (row.architecture == architecture) return &row;
    return nullptr;
}

const GgufMap* find_gguf_map_by_gguf_name(std::string_view gguf_name) {
    for (const GgufMap& row : table)
        if (row.gguf_name == gguf_name) return &row;
    return nullptr;
}

std::string gguf_architecture_names() {
    std::string names;
    for (const GgufMap& row : table)
        if (&row == find_gguf_map_by_gguf_name(row.gguf_name)) names += (names.empty() ? "" : ", ") + std::string(row.gguf_name);
    return names;
}

std::optional<GgufPlace> gguf_place_of(const GgufMap& map, std::string_view key) {
    const std::size_t dot = key.rfind('.');
    if (dot == std::string_view::npos) return std::nullopt;
    const std::string_view suffix = key.substr(dot);
    if (suffix != ".weight" && suffix != ".bias") return std::nullopt;
    for (const GgufName& name : map.names) {
        const auto numbers = match(name.hf, key.substr(0, dot));
        if (!numbers) continue;
        GgufPlace place;
        place.name = std::string(name.gguf);
        if (const std::size_t hole = place.name.find("{}"); hole != std::string::npos) place.name.replace(hole, 2, std::to_string((*numbers)[0]));
        place.name += suffix;
        if (numbers->size() > 1) place.expert = (*numbers)[1];
        const bool of_heads = name.change == permuted_heads || name.change == regrouped_heads;
        if (suffix == ".weight" || of_heads) place.change = name.change;
        return place;
    }
    return std::nullopt;
}

std::int64_t gguf_row_of(GgufChange change, std::int64_t row, std::int64_t n_rows, std::int64_t head_dim) {
    if (change == permuted_heads) {
        const std::int64_t half = head_dim / 2, within = row % head_dim;
        return row - within + 2 * (within % half) + within / half;
    }
    if (change == regrouped_heads) {
        const std::int64_t n_heads = n_rows / (3 * head_dim), head = row / (3 * head_dim), part = row / head_dim % 3;
        return (part * n_heads + head) * head_dim + row % head_dim;
    }
    return row;
}

std::int64_t row_of_gguf(GgufChange change, std::int64_t gguf_row, std::int64_t n_rows, std::int64_t head_dim) {
    if (change == permuted_heads) {
        const std::int64_t half = head_dim / 2, within = gguf_row % head_dim;
        return gguf_row - within + within % 2 * half + within / 2;
    }
    if (change == regrouped_heads) {
        const std::int64_t n_heads = n_rows / (3 * head_dim), part = gguf_row / (n_heads * head_dim), head = gguf_row / head_dim % n_heads;
        return (head * 3 + part) * head_dim + gguf_row % head_dim;
    }
    return gguf_row;
}

}  // namespace skiff
