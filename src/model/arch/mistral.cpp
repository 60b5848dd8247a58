// Mistral (Jiang et al. 2023): llama whose tokens see the last `sliding_window` positions, and Mixtral (Jiang et al. 2024): Mistral with
// experts in place of the feed-forward.
#include "model/arch/families.h"

namespace skiff {
namespace {

// An absent window is the class's own; null is none.
DecoderFamily read_mistral_family(HfConfig& config, const FamilyKeys& keys, double rope_theta) {
    config.set_default("num_key_value_heads", 8);
    config.set_default("max_position_embeddings", 131072);
    DecoderFamily family = read_llama_family(config, keys, rope_theta);
    const std::int64_t window = config.integer_or("sliding_window", 0);
    for (DecoderOptions& block : family.blocks) block.window = window;
    return family;
}

BlockNames mixtral_block_names(const std::string& prefix) {
    BlockNames names = llama_block_names(prefix);
    names.router = prefix + "block_sparse_moe.gate";
    names.gate = prefix + "block_sparse_moe.experts.{}.w1";
    names.up = prefix + "block_sparse_moe.experts.{}.w3";
    names.down = prefix + "block_sparse_moe.experts.{}.w2";
    return names;
}

}  // namespace

Result<ModelSpec> build_mistral(HfConfig& config) {
    if (config.json().find("sliding_window") == nullptr) config.set_default("sliding_window", 4096);
    DecoderFamily family = read_mistral_family(config, {}, 10000);
    SKIFF_CHECK(config.finish());
    return build_decoder("mistral", family);
}

Result<ModelSpec> build_mixtral(HfConfig& config) {
    FamilyKeys keys;
    keys.default_eps = 1e-5;
    DecoderFamily family = read_mistral_family(config, keys, 1e6);
    name_blocks(family, "model.layers.", mixtral_block_names);
    Experts experts;
    experts.n = config.integer_or("num_local_experts", 8);
    experts.route.n_used = config.integer_or("num_experts_per_tok", 2);
    experts.route.rule = RouteOp::Rule::top_then_softmax;  // the same as softmax over all, then the chosen divided by their sum
    config.require(experts.n * family.n_layers <= 1 << 13, "\"num_local_experts\" times \"num_hidden_layers\" is over 8192");
    config.require(experts.route.n_used <= experts.n, "key \"num_experts_per_tok\" is over \"num_local_experts\"");
    for (DecoderOptions& block : family.blocks) block.experts = experts;
    SKIFF_CHECK(config.finish());
    return build_decoder("mixtral", family);
}

}  // namespace skiff
