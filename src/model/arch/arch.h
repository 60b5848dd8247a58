// The architecture table: one row per family, made by a pure function from config.json to a ModelSpec.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "model/hf_config.h"
#include "model/spec.h"

namespace skiff {

// One tensor name in both worlds; "{}" stands for the layer's number. Without ".weight"/".bias", which are the same in both.
struct GgufName {
    std::string_view gguf;  // "blk.{}.attn_q"
    std::string_view hf;    // "model.layers.{}.self_attn.q_proj"
};

// One hyperparameter in both worlds. `gguf` without the architecture's prefix.
struct GgufKey {
    std::string_view gguf;  // "attention.head_count_kv"
    std::string_view hf;    // "num_key_value_heads"
    enum class Type : std::uint8_t { u32, f32 } type;
};

struct Architecture {
    std::string_view name;                           // "llama"
    std::span<const std::string_view> model_types;   // config.json's model_type: "llama"
    Result<ModelSpec> (*build)(HfConfig& config);
    std::string_view hf_class;                       // written to "architectures": "LlamaForCausalLM"
    std::string_view gguf_name;                      // general.architecture; empty: GGUF cannot say this model
    std::span<const GgufName> gguf_names;
    std::span<const GgufKey> gguf_keys;
    enum class GgufRope : std::uint8_t { as_is, permuted } gguf_rope = GgufRope::as_is;  // Q and K rows are stored for interleaved rope
};

std::span<const Architecture> architecture_table();
const Architecture* find_architecture(std::string_view model_type);
const Architecture* find_gguf_architecture(std::string_view gguf_name);

// config.json to spec: finds the row, builds, refuses unknown keys.
Result<ModelSpec> build_spec(const Json& config_json);

// ---- shared by the files beside this one
Activation parse_activation(HfConfig& config, std::string_view key, std::string fallback);

}  // namespace skiff
