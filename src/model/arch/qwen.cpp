// Qwen2 (Yang et al. 2024): llama with biases on q, k, v and windows in the upper layers; Qwen3 (Yang et al. 2025): norms on q and k instead.
#include "model/arch/families.h"

namespace skiff {
namespace {

void read_qwen_windows(HfConfig& config, DecoderFamily& family) {
    const bool used = config.boolean_or("use_sliding_window", false);
    const std::int64_t given = config.integer_or("sliding_window", 4096), first = config.count_or("max_window_layers", 28);
    read_layer_types(config, family, used ? given : 0, [&](std::int64_t layer) { return used && layer >= first; });
}

}  // namespace

Result<ModelSpec> build_qwen2(HfConfig& config) {
    config.set_default("max_position_embeddings", 32768);
    DecoderFamily family = read_llama_family(config);
    for (DecoderOptions& block : family.blocks) block.biases = Biases::qkv;
    read_qwen_windows(config, family);
    SKIFF_CHECK(config.finish());
    return build_decoder("qwen2", family);
}

Result<ModelSpec> build_qwen3(HfConfig& config) {
    config.set_default("head_dim", 128);
    config.set_default("max_position_embeddings", 32768);
    DecoderFamily family = read_llama_family(config);
    const bool attention_bias = config.boolean_or("attention_bias", false);
    for (std::size_t layer = 0; layer < family.blocks.size(); ++layer) {
        DecoderOptions& block = family.blocks[layer];
        const std::string prefix = "model.layers." + std::to_string(layer) + ".self_attn.";
        block.names.q_norm = prefix + "q_norm";
        block.names.k_norm = prefix + "k_norm";
        block.biases = attention_bias ? Biases::attention : Biases::none;
    }
    read_qwen_windows(config, family);
    SKIFF_CHECK(config.finish());
    return build_decoder("qwen3", family);
}

}  // namespace skiff
