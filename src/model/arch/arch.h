// The architecture table: one row per family, made by a pure function from config.json to a ModelSpec. Names in GGUF: model/gguf_maps.h.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "model/hf_config.h"
#include "model/spec.h"

namespace skiff {

struct Architecture {
    std::string_view name;                           // "llama"
    std::span<const std::string_view> model_types;   // config.json's model_type: "llama"
    Result<ModelSpec> (*build)(HfConfig& config);
    std::string_view hf_class;                       // written to "architectures": "LlamaForCausalLM"
};

std::span<const Architecture> architecture_table();
const Architecture* find_architecture(std::string_view model_type);

// config.json to spec: finds the row, builds, refuses unknown keys.
Result<ModelSpec> build_spec(const Json& config_json);

// ---- shared by the files beside this one
Activation parse_activation(HfConfig& config, std::string_view key, std::string fallback);

}  // namespace skiff
