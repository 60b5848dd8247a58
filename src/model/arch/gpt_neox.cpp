// GPT-NeoX and Pythia (Black et al. 2022): attention and feed-forward side by side, partly rotating heads, (q, k, v) stored head by head.
#include "model/arch/families.h"

namespace skiff {
namespace {

BlockNames neox_block_names(const std::string& prefix) {
    BlockNames names;
    names.attn_norm = prefix + "input_layernorm";
    names.fused_qkv = prefix + "attention.query_key_value";
    names.o = prefix + "attention.dense";
    names.ff_norm = prefix + "post_attention_layernorm";
    names.up = prefix + "mlp.dense_h_to_4h";
    names.down = prefix + "mlp.dense_4h_to_h";
    return names;
}

}  // namespace

Result<ModelSpec> build_gpt_neox(HfConfig& config) {
    FamilyKeys keys;
    keys.n_kv_heads = "";
    keys.default_activation = "gelu";
    keys.eps = "layer_norm_eps";
    keys.default_eps = 1e-5;
    keys.norm = {NormKind::layer, 1e-5f, 0, NormTensors::weight_and_bias};
    DecoderFamily family = read_family(config, keys);
    name_blocks(family, "gpt_neox.layers.", neox_block_names);
    family.embed_key = "gpt_neox.embed_in.weight";
    family.final_norm_key = "gpt_neox.final_layer_norm";
    family.head_key = "embed_out.weight";
    RopeRules rules{family.blocks[0].head_dim, family.max_positions};
    rules.theta_key = "rotary_emb_base";
    rules.partial_key = "rotary_pct";
    rules.default_partial = 0.25;
    RopeSettings rope = read_rope(config, rules);
    const bool parallel = config.boolean_or("use_parallel_residual", true), attention_bias = config.boolean_or("attention_bias", true);
    for (DecoderOptions& block : family.blocks) {
        block.rope = rope;
        block.residual = parallel ? Residual::parallel : Residual::sequential;
        block.biases = attention_bias ? Biases::attention : Biases::none;
        block.mlp_bias = true;
        block.fused_rows = FusedRows::per_head;
        block.feed_forward = FeedForward::plain;
    }
    SKIFF_CHECK(config.finish());
    return build_decoder("gpt_neox", family);
}

}  // namespace skiff
