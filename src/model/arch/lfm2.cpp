// LFM2 (Liquid AI 2025): most blocks mix tokens by a gated short convolution, some by attention with norms on q and k.
#include <cmath>

#include "model/arch/families.h"

namespace skiff {
namespace {

BlockNames lfm2_block_names(const std::string& prefix) {
    BlockNames names;
    names.attn_norm = prefix + "operator_norm";
    names.q = prefix + "self_attn.q_proj";
    names.k = prefix + "self_attn.k_proj";
    names.v = prefix + "self_attn.v_proj";
    names.o = prefix + "self_attn.out_proj";
    names.q_norm = prefix + "self_attn.q_layernorm";
    names.k_norm = prefix + "self_attn.k_layernorm";
    names.conv_in = prefix + "conv.in_proj";
    names.conv = prefix + "conv.conv";
    names.conv_out = prefix + "conv.out_proj";
    names.ff_norm = prefix + "ffn_norm";
    names.gate = prefix + "feed_forward.w1";
    names.up = prefix + "feed_forward.w3";
    names.down = prefix + "feed_forward.w2";
    return names;
}

// Which blocks attend: "layer_types", or the numbers in "full_attn_idxs", or all.
std::vector<bool> attending(HfConfig& config, std::int64_t n_layers) {
    const Json &types = config.object("layer_types"), &numbers = config.object("full_attn_idxs");
    std::vector<bool> attends(static_cast<std::size_t>(n_layers), types.is_null() && numbers.is_null());
    if (!types.is_null()) {
        config.require(types.is_array() && static_cast<std::int64_t>(types.size()) == n_layers, "key \"layer_types\" must be a list with one entry for each of " + std::to_string(n_layers) + " layers");
        for (std::size_t layer = 0; layer < attends.size() && layer < types.size(); ++layer) {
            const std::string& type = types.items()[layer].text();
            config.require(type == "conv" || type == "full_attention", "key \"layer_types\": \"" + type.substr(0, 40) + "\" is not implemented; known: conv, full_attention");
            attends[layer] = type == "full_attention";
        }
        return attends;
    }
    config.require(numbers.is_null() || numbers.is_array(), "key \"full_attn_idxs\" must be a list of layers");
    for (const Json& number : numbers.items()) {
        const std::int64_t layer = number.int_or(-1);
        config.require(layer >= 0 && layer < n_layers, "key \"full_attn_idxs\" names a layer that is not there");
        if (layer >= 0 && layer < n_layers) attends[static_cast<std::size_t>(layer)] = true;
    }
    return attends;
}

// The width of the feed-forward is said before an adjustment: two thirds, times a factor, up to the next multiple.
std::int64_t adjusted(HfConfig& config, std::int64_t d_ff) {
    const double factor = config.positive_or("block_ffn_dim_multiplier", 1.0);
    const std::int64_t multiple = config.integer_or("block_multiple_of", 256);
    if (!config.boolean_or("block_auto_adjust_ff_dim", true)) return d_ff;
    const auto scaled = static_cast<std::int64_t>(factor * static_cast<double>(2 * d_ff / 3));
    return (scaled + multiple - 1) / multiple * multiple;
}

}  // namespace

Result<ModelSpec> build_lfm2(HfConfig& config) {
    for (const char* key : {"block_dim", "block_mlp_init_scale", "block_norm_eps", "block_out_init_scale", "block_use_swiglu", "block_use_xavier_init", "conv_dim", "conv_dim_out", "conv_use_xavier_init", "num_heads", "use_pos_enc"})
        config.ignore(key);  // of the code that it was trained with; transformers does not read them either
    config.set_default("max_position_embeddings", 128000);
    config.set_default("intermediate_size", 12288);
    if (config.has("tie_embedding")) config.set_default("tie_word_embeddings", config.object("tie_embedding"));
    config.ignore("tie_embedding");
    FamilyKeys keys;
    keys.eps = "norm_eps";
    keys.default_eps = 1e-5;
    keys.head = FamilyKeys::Head::tied;
    if (config.has("block_ff_dim")) {
        keys.d_ff = "block_ff_dim";
        config.ignore("intermediate_size");
    }
    DecoderFamily family = read_family(config, keys);
    family.final_norm_key = "model.embedding_norm";
    name_blocks(family, "model.layers.", lfm2_block_names);
    const RopeSettings rope = read_rope(config, {family.blocks.empty() ? 1 : family.blocks[0].head_dim, family.max_positions, 1e6});
    const std::vector<bool> attends = attending(config, family.n_layers);
    const std::int64_t kernel = config.integer_or("conv_L_cache", 3);
    const bool conv_bias = config.boolean_or("conv_bias", false);
    config.require(kernel <= 64, "key \"conv_L_cache\" is over 64");
    for (std::size_t layer = 0; layer < family.blocks.size(); ++layer) {
        DecoderOptions& block = family.blocks[layer];
        block.rope = rope;
        block.d_ff = adjusted(config, block.d_ff);
        block.mixer = attends[layer] ? DecoderOptions::Mixer::attention : DecoderOptions::Mixer::gated_conv;
        block.conv_kernel = kernel;
        block.conv_bias = conv_bias;
    }
    SKIFF_CHECK(config.finish());
    return build_decoder("lfm2", family);
}

}  // namespace skiff
