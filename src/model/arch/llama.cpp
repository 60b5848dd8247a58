// Llama 1 to 3 (Touvron et al. 2023, Dubey et al. 2024), and the names and rope that its relatives share.
#include "model/arch/families.h"

namespace skiff {

BlockNames llama_block_names(const std::string& prefix) {
    BlockNames names;
    names.attn_norm = prefix + "input_layernorm";
    names.q = prefix + "self_attn.q_proj";
    names.k = prefix + "self_attn.k_proj";
    names.v = prefix + "self_attn.v_proj";
    names.o = prefix + "self_attn.o_proj";
    names.ff_norm = prefix + "post_attention_layernorm";
    names.gate = prefix + "mlp.gate_proj";
    names.up = prefix + "mlp.up_proj";
    names.down = prefix + "mlp.down_proj";
    return names;
}

DecoderFamily read_llama_family(HfConfig& config, const FamilyKeys& keys, double rope_theta) {
    DecoderFamily family = read_family(config, keys);
    name_blocks(family, "model.layers.", llama_block_names);
    RopeSettings rope = read_rope(config, {family.blocks[0].head_dim, family.max_positions, rope_theta});
    for (DecoderOptions& block : family.blocks) block.rope = rope;
    return family;
}

Result<ModelSpec> build_llama(HfConfig& config) {
    if (config.has("max_sequence_length")) {  // the first Llama checkpoints' name for it
        config.set_default("max_position_embeddings", config.object("max_sequence_length"));
        config.ignore("max_sequence_length");
    }
    DecoderFamily family = read_llama_family(config);
    const bool attention_bias = config.boolean_or("attention_bias", false), mlp_bias = config.boolean_or("mlp_bias", false);
    for (DecoderOptions& block : family.blocks) {
        block.biases = attention_bias ? Biases::attention : Biases::none;
        block.mlp_bias = mlp_bias;
    }
    SKIFF_CHECK(config.finish());
    return build_decoder("llama", family);
}

}  // namespace skiff
