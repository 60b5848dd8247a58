// Phi-3 (Abdin et al. 2024): llama with q|k|v and gate|up in one tensor each, a partly rotating head and LongRoPE.
#include "model/arch/families.h"

namespace skiff {
namespace {

BlockNames phi3_block_names(const std::string& prefix) {
    BlockNames names = llama_block_names(prefix);
    names.q = names.k = names.v = names.gate = names.up = "";
    names.fused_qkv = prefix + "self_attn.qkv_proj";
    names.fused_gate_up = prefix + "mlp.gate_up_proj";
    return names;
}

}  // namespace

Result<ModelSpec> build_phi3(HfConfig& config) {
    config.set_default("max_position_embeddings", 4096);
    config.set_default("original_max_position_embeddings", 4096);
    config.ignore("original_max_position_embeddings");  // read where a rope needs it
    FamilyKeys keys;
    keys.default_eps = 1e-5;
    DecoderFamily family = read_family(config, keys);
    name_blocks(family, "model.layers.", phi3_block_names);
    RopeRules rules{family.blocks[0].head_dim, family.max_positions};
    rules.partial_key = "partial_rotary_factor";
    RopeSettings rope = read_rope(config, rules);
    const std::int64_t window = config.integer_or("sliding_window", 0);
    for (DecoderOptions& block : family.blocks) {
        block.rope = rope;
        block.window = window;
    }
    SKIFF_CHECK(config.finish());
    return build_decoder("phi3", family);
}

}  // namespace skiff
