// What the decoder-only families have in common: an embedding, blocks, a final norm, a head. An architecture states its differences.
#pragma once

#include <string>
#include <vector>

#include "model/arch/arch.h"
#include "model/spec_builder.h"

namespace skiff {

struct DecoderFamily {
    std::int64_t d_model = 0, n_layers = 0, n_vocab = 0, max_positions = 0;
    DecoderOptions block;                 // what all blocks share; blocks[i] is what counts
    std::vector<DecoderOptions> blocks;
    bool tied = false;
    float embed_scale = 1, logit_softcap = 0;
    std::string embed_key = "model.embed_tokens.weight", final_norm_key = "model.norm", head_key = "lm_head.weight", head_bias_key;
};

// Reads the keys that llama, mistral, qwen and gemma share. Errors stay in `config`.
DecoderFamily read_llama_family(HfConfig& config);
BlockNames llama_block_names(const std::string& prefix);  // "model.layers.3."
ModelSpec build_decoder(const std::string& architecture, const DecoderFamily& family);

Result<ModelSpec> build_llama(HfConfig& config);

}  // namespace skiff
