#include "model/arch/arch.h"
#include "model/arch/families.h"

namespace skiff {
namespace {

constexpr std::string_view llama_types[] = {"llama"};

const Architecture table[] = {
    {"llama", llama_types, build_llama, "LlamaForCausalLM", "", {}, {}, Architecture::GgufRope::as_is},
};

}  // namespace

std::span<const Architecture> architecture_table() { return table; }

const Architecture* find_architecture(std::string_view model_type) {
    for (const Architecture& row : table)
        for (std::string_view type : row.model_types)
            if (type == model_type) return &row;
    return nullptr;
}

const Architecture* find_gguf_architecture(std::string_view gguf_name) {
    for (const Architecture& row : table)
        if (!row.gguf_name.empty() && row.gguf_name == gguf_name) return &row;
    return nullptr;
}

Result<ModelSpec> build_spec(const Json& config_json) {
    SKIFF_TRY(auto model_type, config_json["model_type"].as_string("config.json: key \"model_type\""));
    const Architecture* row = find_architecture(model_type);
    if (row == nullptr) {
        std::string names;
        for (const Architecture& known : table) names += (names.empty() ? "" : ", ") + std::string(known.name);
        return unsupported("config.json: model_type \"" + model_type + "\" is not implemented; known: " + names);
    }
    HfConfig config(config_json);
    return row->build(config);
}

Activation parse_activation(HfConfig& config, std::string_view key, std::string fallback) {
    std::string name = config.choice(key, std::move(fallback), {"silu", "swish", "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "quick_gelu", "relu"});
    if (name == "gelu") return Activation::gelu_erf;
    if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") return Activation::gelu_tanh;
    if (name == "quick_gelu") return Activation::quick_gelu;
    if (name == "relu") return Activation::relu;
    return Activation::silu;
}

}  // namespace skiff
