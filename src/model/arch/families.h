// What the decoder-only families have in common: an embedding, blocks, a final norm, a head. An architecture states its differences.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "model/arch/arch.h"
#include "model/spec_builder.h"

namespace skiff {

struct DecoderFamily {
    std::int64_t d_model = 0, n_layers = 0, n_vocab = 0, max_positions = 0;
    NormStyle final_norm;
    std::vector<DecoderOptions> blocks;
    bool tied = false;
    float embed_scale = 1, logit_softcap = 0;
    std::string embed_key = "model.embed_tokens.weight", final_norm_key = "model.norm", head_key = "lm_head.weight";  // no final norm: empty
    std::string position_key;          // learned positions, or empty
    std::int64_t position_offset = 0;  // position p is row p + offset of that table
    std::int64_t embed_width = 0;      // 0: d_model; else two matrices lead from this width to d_model and back
    std::string project_in_key, project_out_key;
};

// The keys under which a family's config.json says its sizes, and what it takes where the file says nothing.
struct FamilyKeys {
    std::string_view d_model = "hidden_size", n_layers = "num_hidden_layers", n_heads = "num_attention_heads", d_ff = "intermediate_size";
    std::string_view n_kv_heads = "num_key_value_heads";  // empty: as many as heads
    std::string_view max_positions = "max_position_embeddings";
    std::string_view activation = "hidden_act", default_activation = "silu";
    std::string_view eps = "rms_norm_eps";  // empty: the default holds
    double default_eps = 1e-6;
    enum class Head : std::uint8_t { own, tied } head = Head::own;  // when tie_word_embeddings is absent
    NormStyle norm;
};

// Sizes, heads, norms, activation, tied or not; one DecoderOptions for each block, still without names and rope. Errors stay in `config`.
DecoderFamily read_family(HfConfig& config, const FamilyKeys& keys);
// That with llama's names and rope: what llama, mistral, qwen and gemma share.
DecoderFamily read_llama_family(HfConfig& config, const FamilyKeys& keys = {}, double rope_theta = 10000);

BlockNames llama_block_names(const std::string& prefix);  // "model.layers.3."
void name_blocks(DecoderFamily& family, const std::string& prefix, BlockNames (*names)(const std::string&));  // "model.layers."

// "layer_types", or `is_sliding` for each block where the key is absent; sliding blocks get `window` (which must then be above 0).
void read_layer_types(HfConfig& config, DecoderFamily& family, std::int64_t window, const std::function<bool(std::int64_t)>& is_sliding);

// ---- rope: plain frequencies, and the scaling rules default, linear, llama3 and longrope
struct RopeRules {
    std::int64_t head_dim = 0, max_positions = 0;
    double default_theta = 10000;
    std::string_view theta_key = "rope_theta";
    std::string_view partial_key;  // "partial_rotary_factor"; empty: whole heads rotate
    double default_partial = 1;
};
std::vector<float> plain_inv_freq(double theta, std::int64_t rotary_dim);
RopeSettings read_rope(HfConfig& config, const RopeRules& rules);  // from rope_parameters (transformers 5), or rope_scaling and theta_key
// One set of them: the object's keys count, theta where it has none.
RopeSettings read_rope_object(HfConfig& config, const Json& object, const std::string& where, double theta, const RopeRules& rules);

ModelSpec build_decoder(const std::string& architecture, const DecoderFamily& family);

Result<ModelSpec> build_llama(HfConfig& config);
Result<ModelSpec> build_mistral(HfConfig& config);
Result<ModelSpec> build_mixtral(HfConfig& config);
Result<ModelSpec> build_qwen2(HfConfig& config);
Result<ModelSpec> build_qwen3(HfConfig& config);
Result<ModelSpec> build_gemma2(HfConfig& config);
Result<ModelSpec> build_gemma3(HfConfig& config);
Result<ModelSpec> build_phi3(HfConfig& config);
Result<ModelSpec> build_gpt2(HfConfig& config);
Result<ModelSpec> build_gpt_neox(HfConfig& config);
Result<ModelSpec> build_opt(HfConfig& config);
Result<ModelSpec> build_lfm2(HfConfig& config);

}  // namespace skiff
