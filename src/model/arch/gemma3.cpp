// Gemma 3, its text part (Gemma Team 2025): Gemma 2 with norms on q and k in place of the soft-caps, and its own rope in layers with a window.
#include "model/arch/gemma.h"

namespace skiff {
namespace {

// Two ropes: transformers 5 nests them in rope_parameters, older versions have rope_local_base_freq for the layers with a window.
void read_ropes(HfConfig& config, DecoderFamily& family) {
    const RopeRules rules{family.blocks[0].head_dim, family.max_positions};
    const Json& parameters = config.object("rope_parameters");
    const double global_theta = config.positive_or("rope_theta", 1e6), local_theta = config.positive_or("rope_local_base_freq", 1e4);
    const Json& scaling = config.object("rope_scaling");
    const Json& of_full = parameters.is_null() ? scaling : parameters["full_attention"];
    RopeSettings full =
        read_rope_object(config, of_full, parameters.is_null() ? "rope_scaling" : "rope_parameters: full_attention", global_theta, rules);
    RopeSettings local = read_rope_object(config, parameters["sliding_attention"], "rope_parameters: sliding_attention", local_theta, rules);
    for (const auto& [key, value] : parameters.members())
        config.require(key == "full_attention" || key == "sliding_attention",
                       "key \"rope_parameters\": expected full_attention and sliding_attention, found \"" + key.substr(0, 40) + "\"");
    for (DecoderOptions& block : family.blocks) block.rope = block.window > 0 ? local : full;
}

Result<ModelSpec> build_text(HfConfig& config) {
    config.set_default("vocab_size", 262208);
    config.set_default("num_attention_heads", 8);
    config.set_default("num_key_value_heads", 4);
    config.set_default("max_position_embeddings", 131072);
    DecoderFamily family = read_gemma_family(config);
    for (std::size_t layer = 0; layer < family.blocks.size(); ++layer) {
        const std::string prefix = "model.layers." + std::to_string(layer) + ".self_attn.";
        family.blocks[layer].names.q_norm = prefix + "q_norm";
        family.blocks[layer].names.k_norm = prefix + "k_norm";
    }
    const std::int64_t pattern = config.integer_or("sliding_window_pattern", 6);
    read_layer_types(config, family, config.integer_or("sliding_window", 4096), [&](std::int64_t layer) { return (layer + 1) % pattern != 0; });
    read_ropes(config, family);
    SKIFF_CHECK(config.finish());
    return build_decoder("gemma3", family);
}

}  // namespace

Result<ModelSpec> build_gemma3(HfConfig& config) {
    const Json& text = config.object("text_config");  // a model that also sees pictures; its text part is whole without them
    if (!text.is_object()) return build_text(config);
    HfConfig inner(text, "config.json: text_config");
    return build_text(inner);
}

}  // namespace skiff
