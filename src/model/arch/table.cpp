#include "model/arch/arch.h"
#include "model/arch/families.h"
#include "model/shared_layers.h"

namespace skiff {
namespace {

constexpr std::string_view llama_types[] = {"llama"};
constexpr std::string_view mistral_types[] = {"mistral"};
constexpr std::string_view mixtral_types[] = {"mixtral"};
constexpr std::string_view qwen2_types[] = {"qwen2"};
constexpr std::string_view qwen3_types[] = {"qwen3"};
constexpr std::string_view gemma2_types[] = {"gemma2"};
constexpr std::string_view gemma3_types[] = {"gemma3_text", "gemma3"};
constexpr std::string_view phi3_types[] = {"phi3"};
constexpr std::string_view gpt2_types[] = {"gpt2"};
constexpr std::string_view gpt_neox_types[] = {"gpt_neox"};
constexpr std::string_view opt_types[] = {"opt"};
constexpr std::string_view lfm2_types[] = {"lfm2"};

const Architecture table[] = {
    {"llama", llama_types, build_llama, "LlamaForCausalLM"},
    {"mistral", mistral_types, build_mistral, "MistralForCausalLM"},
    {"mixtral", mixtral_types, build_mixtral, "MixtralForCausalLM"},
    {"qwen2", qwen2_types, build_qwen2, "Qwen2ForCausalLM"},
    {"qwen3", qwen3_types, build_qwen3, "Qwen3ForCausalLM"},
    {"gemma2", gemma2_types, build_gemma2, "Gemma2ForCausalLM"},
    {"gemma3", gemma3_types, build_gemma3, "Gemma3ForCausalLM"},
    {"phi3", phi3_types, build_phi3, "Phi3ForCausalLM"},
    {"gpt2", gpt2_types, build_gpt2, "GPT2LMHeadModel"},
    {"gpt_neox", gpt_neox_types, build_gpt_neox, "GPTNeoXForCausalLM"},
    {"opt", opt_types, build_opt, "OPTForCausalLM"},
    {"lfm2", lfm2_types, build_lfm2, "Lfm2ForCausalLM"},
};

}  // namespace

std::span<const Architecture> architecture_table() { return table; }

const Architecture* find_architecture(std::string_view model_type) {
    for (const Architecture& row : table)
        for (std::string_view type : row.model_types)
            if (type == model_type) return &row;
    return nullptr;
}

Result<ModelSpec> build_spec(const Json& config_json) {
    SKIFF_TRY(auto model_type, config_json["model_type"].as_string("config.json: key \"model_type\""));
    const Architecture* row = find_architecture(model_type);
    if (row == nullptr) {
        std::string names;
        for (const Architecture& known : table) names += (names.empty() ? "" : ", ") + std::string(known.name);
        if (model_type == "skiff-net") return unsupported("this is a network of convolutions: skiff classify asks it; inspect, bench, prune, factorize, quantize and train-net take it, too");
        return unsupported("config.json: model_type \"" + model_type.substr(0, 40) + "\" is not implemented; known: " + names);
    }
    if (!config_json.contains(shared_layers_key)) {
        HfConfig config(config_json);
        return row->build(config);
    }
    SKIFF_TRY(const auto weights_of, shared_layers(config_json));
    Json of_family = config_json;  // which knows nothing of that key
    of_family.erase(shared_layers_key);
    HfConfig config(std::move(of_family));
    SKIFF_TRY(auto spec, row->build(config));
    SKIFF_CHECK(share_layers(spec, weights_of));
    return spec;
}

Activation parse_activation(HfConfig& config, std::string_view key, std::string fallback) {
    std::string name = config.choice(
        key, std::move(fallback), {"silu", "swish", "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "quick_gelu", "relu", "sigmoid", "tanh"});
    if (name == "gelu") return Activation::gelu_erf;
    if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") return Activation::gelu_tanh;
    if (name == "quick_gelu") return Activation::quick_gelu;
    if (name == "relu") return Activation::relu;
    if (name == "sigmoid") return Activation::sigmoid;
    if (name == "tanh") return Activation::tanh;
    return Activation::silu;
}

}  // namespace skiff
