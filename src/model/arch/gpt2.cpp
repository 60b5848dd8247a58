// GPT-2 (Radford et al. 2019): learned positions, layer norms with biases, matrices stored as (inputs, outputs), q|k|v in one.
#include <cmath>

#include "model/arch/families.h"

namespace skiff {
namespace {

BlockNames gpt2_block_names(const std::string& prefix) {
    BlockNames names;
    names.attn_norm = prefix + "ln_1";
    names.fused_qkv = prefix + "attn.c_attn";
    names.o = prefix + "attn.c_proj";
    names.ff_norm = prefix + "ln_2";
    names.up = prefix + "mlp.c_fc";
    names.down = prefix + "mlp.c_proj";
    return names;
}

}  // namespace

Result<ModelSpec> build_gpt2(HfConfig& config) {
    FamilyKeys keys{"n_embd",
                    "n_layer",
                    "n_head",
                    "n_inner",
                    "",
                    "n_positions",
                    "activation_function",
                    "gelu_new",
                    "layer_norm_epsilon",
                    1e-5,
                    FamilyKeys::Head::tied};
    keys.norm = {NormKind::layer, 1e-5f, 0, NormTensors::weight_and_bias};
    config.set_default("n_inner", 4 * config.integer("n_embd"));
    config.set_default("n_positions", 1024);
    DecoderFamily family = read_family(config, keys);
    name_blocks(family, "transformer.h.", gpt2_block_names);
    family.embed_key = "transformer.wte.weight";
    family.position_key = "transformer.wpe.weight";
    family.final_norm_key = "transformer.ln_f";
    const bool scaled = config.boolean_or("scale_attn_weights", true), by_layer = config.boolean_or("scale_attn_by_inverse_layer_idx", false);
    for (std::size_t layer = 0; layer < family.blocks.size(); ++layer) {
        DecoderOptions& block = family.blocks[layer];
        block.biases = Biases::all;
        block.transposed = true;
        block.feed_forward = FeedForward::plain;
        block.attention_scale = scaled ? 1 / std::sqrt(static_cast<float>(block.head_dim)) : 1;
        if (by_layer) block.attention_scale /= static_cast<float>(layer + 1);
    }
    SKIFF_CHECK(config.finish());
    return build_decoder("gpt2", family);
}

}  // namespace skiff
