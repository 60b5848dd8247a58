// Gemma 2 (Gemma Team 2024): norms before and after both halves, soft-capped scores and logits, a window in every other layer.
#include <cmath>

#include "model/arch/gemma.h"

namespace skiff {
namespace {

BlockNames gemma_block_names(const std::string& prefix) {
    BlockNames names = llama_block_names(prefix);
    names.post_attn_norm = prefix + "post_attention_layernorm";
    names.ff_norm = prefix + "pre_feedforward_layernorm";
    names.post_ff_norm = prefix + "post_feedforward_layernorm";
    return names;
}

}  // namespace

DecoderFamily read_gemma_family(HfConfig& config) {
    config.set_default("head_dim", 256);
    config.ignore("hidden_act");  // the code reads hidden_activation
    FamilyKeys keys;
    keys.activation = "hidden_activation";
    keys.default_activation = "gelu_pytorch_tanh";
    keys.head = FamilyKeys::Head::tied;
    keys.norm.weight_offset = 1;
    DecoderFamily family = read_family(config, keys);
    name_blocks(family, "model.layers.", gemma_block_names);
    family.embed_scale = std::sqrt(static_cast<float>(family.d_model));
    const bool attention_bias = config.boolean_or("attention_bias", false);
    const double scalar = config.positive_or("query_pre_attn_scalar", 256);
    const double score_cap = config.has("attn_logit_softcapping") ? config.positive("attn_logit_softcapping") : 0;
    const double logit_cap = config.has("final_logit_softcapping") ? config.positive("final_logit_softcapping") : 0;
    config.ignore("attn_logit_softcapping");
    config.ignore("final_logit_softcapping");
    family.logit_softcap = static_cast<float>(logit_cap);
    for (DecoderOptions& block : family.blocks) {
        block.biases = attention_bias ? Biases::attention : Biases::none;
        block.attention_scale = static_cast<float>(1 / std::sqrt(scalar));
        block.attention_softcap = static_cast<float>(score_cap);
    }
    return family;
}

Result<ModelSpec> build_gemma2(HfConfig& config) {
    config.set_default("max_position_embeddings", 8192);
    if (config.json().find("attn_logit_softcapping") == nullptr) config.set_default("attn_logit_softcapping", 50.0);
    if (config.json().find("final_logit_softcapping") == nullptr) config.set_default("final_logit_softcapping", 30.0);
    DecoderFamily family = read_gemma_family(config);
    RopeSettings rope = read_rope(config, {family.blocks[0].head_dim, family.max_positions});
    for (DecoderOptions& block : family.blocks) block.rope = rope;
    read_layer_types(config, family, config.integer_or("sliding_window", 4096), [](std::int64_t layer) { return layer % 2 == 0; });
    SKIFF_CHECK(config.finish());
    return build_decoder("gemma2", family);
}

}  // namespace skiff
