// OPT (Zhang et al. 2022): learned positions from row 2 on, ReLU, norms before the halves or (350M) behind them, and there an embedding
// narrower than the model.
#include "model/arch/families.h"

namespace skiff {
namespace {

BlockNames opt_block_names(const std::string& prefix) {
    BlockNames names;
    names.attn_norm = prefix + "self_attn_layer_norm";
    names.q = prefix + "self_attn.q_proj";
    names.k = prefix + "self_attn.k_proj";
    names.v = prefix + "self_attn.v_proj";
    names.o = prefix + "self_attn.out_proj";
    names.ff_norm = prefix + "final_layer_norm";
    names.up = prefix + "fc1";
    names.down = prefix + "fc2";
    return names;
}

}  // namespace

Result<ModelSpec> build_opt(HfConfig& config) {
    FamilyKeys keys{
        "hidden_size", "num_hidden_layers",   "num_attention_heads", "ffn_dim", "", "max_position_embeddings", "activation_function", "relu", "",
        1e-5,          FamilyKeys::Head::tied};
    const bool affine = config.boolean_or("layer_norm_elementwise_affine", true), biased = config.boolean_or("enable_bias", true);
    keys.norm = {NormKind::layer, 1e-5f, 0, affine ? NormTensors::weight_and_bias : NormTensors::none};
    DecoderFamily family = read_family(config, keys);
    name_blocks(family, "model.decoder.layers.", opt_block_names);
    family.embed_key = "model.decoder.embed_tokens.weight";
    family.position_key = "model.decoder.embed_positions.weight";
    family.position_offset = 2;
    const bool norm_first = config.boolean_or("do_layer_norm_before", true),
               final_norm_removed = config.boolean_or("_remove_final_layer_norm", false);
    family.final_norm_key = norm_first && !final_norm_removed ? "model.decoder.final_layer_norm" : "";
    const std::int64_t embed_width = config.integer_or("word_embed_proj_dim", family.d_model);
    config.require(embed_width <= 1 << 20, "key \"word_embed_proj_dim\" is over 2^20");
    if (embed_width != family.d_model) {
        family.embed_width = embed_width;
        family.project_in_key = "model.decoder.project_in.weight";
        family.project_out_key = "model.decoder.project_out.weight";
    }
    for (DecoderOptions& block : family.blocks) {
        block.biases = biased ? Biases::all : Biases::none;
        block.residual = norm_first ? Residual::sequential : Residual::post_norm;
        block.feed_forward = FeedForward::plain;
    }
    SKIFF_CHECK(config.finish());
    return build_decoder("opt", family);
}

}  // namespace skiff
