#include "model/hf_config.h"

#include <cmath>

namespace skiff {
namespace {

// Keys of real configs that say nothing about the forward pass of a decoder in evaluation.
constexpr std::string_view harmless_keys[] = {
    "_name_or_path",
    "architectures",
    "model_type",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "unk_token_id",
    "sep_token_id",
    "decoder_start_token_id",
    "initializer_range",
    "initializer_factor",
    "attention_dropout",
    "attn_pdrop",
    "embd_pdrop",
    "resid_pdrop",
    "hidden_dropout",
    "classifier_dropout",
    "classifier_dropout_prob",
    "dropout",
    "activation_dropout",
    "layerdrop",
    "pretraining_tp",
    "task_specific_params",
    "auto_map",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "torchscript",
    "finetuning_task",
    "tokenizer_class",
    "prefix",
    "keys_to_ignore_at_inference",
    "use_bfloat16",
    "unsloth_version",
    "unsloth_fixed",
    "summary_type",
    "summary_use_proj",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "gradient_checkpointing",
    "_attn_implementation",
    "attn_implementation",
    "_flash_attn_2_enabled",
    "quantization_config",
    "skiff_manifest",
    "chunk_size_feed_forward",
    "is_decoder",
    "cache_implementation",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "begin_suppress_tokens",
    "suppress_tokens",
    "max_length",
    "min_length",
    "do_sample",
    "early_stopping",
    "num_beams",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "num_return_sequences",
    "output_scores",
    "return_dict_in_generate",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "diversity_penalty",
    "num_beam_groups",
    "encoder_no_repeat_ngram_size",
    "cross_attention_hidden_size",
    "tf_legacy_loss",
    "language",
    "license",
    "n_ctx",
    "reorder_and_upcast_attn",
    "tie_encoder_decoder",
    "_remove_final_layer_norm_note",
    "attention_probs_dropout_prob",
    "hidden_dropout_prob",
    "router_aux_loss_coef",
    "output_router_logits",
    "router_jitter_noise",
    "vocab_size_multiple",
    "_commit_hash",
    "model_max_length",
    "use_sdpa",
    "mlp_dropout",
    "init_std",
    "output_projection",
    "is_llama_config",
    "transformers.js_config",
    "_attn_implementation_autoset",
    "_sliding_window_pattern",
};

bool is_harmless(std::string_view key) {
    for (std::string_view harmless : harmless_keys)
        if (key == harmless) return true;
    return false;
}

}  // namespace

void HfConfig::fail(Error error) {
    if (status_.ok()) status_ = std::move(error).with_context(where_);
}

void HfConfig::check(Status status) {
    if (!status.ok() && status_.ok()) status_ = status.take_error();
}

void HfConfig::set_default(std::string_view key, Json value) {
    if (!has(key)) json_.set(std::string(key), std::move(value));
}

const Json* HfConfig::read(std::string_view key) {
    seen_.insert(std::string(key));
    const Json* value = json_.find(key);
    return value != nullptr && !value->is_null() ? value : nullptr;
}

bool HfConfig::has(std::string_view key) const {
    const Json* value = json_.find(key);
    return value != nullptr && !value->is_null();
}

std::int64_t HfConfig::range(std::string_view key, const Json& value, std::int64_t least) {
    auto number = value.as_int(key);
    if (!number.ok()) {
        fail(number.take_error());
        return 1;
    }
    constexpr std::int64_t limit = std::int64_t{1} << 31;
    if (*number < least || *number > limit) {
        fail(corrupt("key \"" + std::string(key) + "\" = " + std::to_string(*number) + ": expected " + std::to_string(least) + " to 2^31"));
        return 1;
    }
    return *number;
}

std::int64_t HfConfig::integer(std::string_view key) {
    const Json* value = read(key);
    if (value != nullptr) return range(key, *value, 1);
    fail(corrupt("key \"" + std::string(key) + "\" is missing"));
    return 1;
}

std::int64_t HfConfig::integer_or(std::string_view key, std::int64_t fallback) {
    const Json* value = read(key);
    return value == nullptr ? fallback : range(key, *value, 1);
}

std::int64_t HfConfig::count_or(std::string_view key, std::int64_t fallback) {
    const Json* value = read(key);
    return value == nullptr ? fallback : range(key, *value, 0);
}

double HfConfig::number(std::string_view key) {
    if (!has(key)) fail(corrupt("key \"" + std::string(key) + "\" is missing"));
    return number_or(key, 0);
}

double HfConfig::number_or(std::string_view key, double fallback) {
    const Json* value = read(key);
    if (value == nullptr) return fallback;
    auto number = value->as_double(key);
    if (!number.ok()) {
        fail(number.take_error());
        return fallback;
    }
    return *number;
}

double HfConfig::positive(std::string_view key) {
    if (!has(key)) fail(corrupt("key \"" + std::string(key) + "\" is missing"));
    return positive_or(key, 1);
}

double HfConfig::positive_or(std::string_view key, double fallback) {
    const double value = number_or(key, fallback);
    if (std::isfinite(value) && value > 0) return value;
    fail(corrupt("key \"" + std::string(key) + "\" must be finite and positive, found " + json_[key].dump().substr(0, 40)));
    return 1;
}

std::vector<double> HfConfig::positive_list(std::string_view key, std::int64_t n) {
    const Json& list = object(key);
    std::vector<double> numbers(static_cast<std::size_t>(n), 1.0);
    if (!list.is_array() || static_cast<std::int64_t>(list.size()) != n) {
        fail(corrupt("key \"" + std::string(key) + "\": expected a list of " + std::to_string(n) + " numbers, found " +
                     (list.is_array() ? std::to_string(list.size()) : std::string(list.type_name()))));
        return numbers;
    }
    for (std::size_t i = 0; i < numbers.size(); ++i) {
        const double value = list.items()[i].number_or(0);
        if (std::isfinite(value) && value > 0) numbers[i] = value;
        else
            fail(corrupt("key \"" + std::string(key) + "\": entry " + std::to_string(i) + " must be finite and positive, found " +
                         list.items()[i].dump().substr(0, 40)));
    }
    return numbers;
}

bool HfConfig::boolean_or(std::string_view key, bool fallback) {
    const Json* value = read(key);
    if (value == nullptr) return fallback;
    auto flag = value->as_bool(key);
    if (!flag.ok()) {
        fail(flag.take_error());
        return fallback;
    }
    return *flag;
}

std::string HfConfig::text_or(std::string_view key, std::string fallback) {
    const Json* value = read(key);
    if (value == nullptr) return fallback;
    auto text = value->as_string(key);
    if (!text.ok()) {
        fail(text.take_error());
        return fallback;
    }
    return *text;
}

std::vector<std::int64_t> HfConfig::per_layer(std::string_view key, std::int64_t n_layers) {
    if (!has(key)) fail(corrupt("key \"" + std::string(key) + "\" is missing"));
    return per_layer_or(key, n_layers, std::vector<std::int64_t>(static_cast<std::size_t>(n_layers), 1));
}

std::vector<std::int64_t> HfConfig::per_layer_or(std::string_view key, std::int64_t n_layers, std::vector<std::int64_t> fallback) {
    n_layers_ = n_layers;
    const Json* value = read(key);
    std::vector<std::int64_t> numbers = std::move(fallback);
    if (value != nullptr && !value->is_array()) {
        numbers.assign(static_cast<std::size_t>(n_layers), integer(key));
    } else if (value != nullptr) {
        if (static_cast<std::int64_t>(value->size()) == n_layers) {
            for (std::size_t i = 0; i < value->size(); ++i) numbers[i] = range(key, value->items()[i], 1);
        } else {
            fail(corrupt("key \"" + std::string(key) + "\" has " + std::to_string(value->size()) + " entries, expected one for each of " +
                         std::to_string(n_layers) + " layers"));
        }
    }
    override_layers(key, numbers);
    return numbers;
}

void HfConfig::override_layers(std::string_view key, std::vector<std::int64_t>& numbers) {
    per_layer_keys_.insert(std::string(key));
    if (static_cast<std::int64_t>(json_["per_layer_config"].size()) > n_layers_) return;  // check_overrides says so
    for (std::size_t layer = 0; layer < numbers.size(); ++layer)
        if (const Json* value = object("per_layer_config")[std::to_string(layer)].find(key)) numbers[layer] = range(key, *value, 1);
}

void HfConfig::check_overrides() {
    const Json& overrides = json_["per_layer_config"];
    if (n_layers_ < 0 || overrides.is_null()) return;
    require(overrides.is_object(), "key \"per_layer_config\" must be an object, found " + std::string(overrides.type_name()));
    if (static_cast<std::int64_t>(overrides.size()) > n_layers_) {
        fail(corrupt("key \"per_layer_config\" names more layers than the model's " + std::to_string(n_layers_)));
        return;
    }
    for (const auto& [layer, changes] : overrides.members()) {
        bool known = false;
        if (layer.size() <= 4)
            for (std::int64_t i = 0; i < n_layers_ && !known; ++i) known = layer == std::to_string(i);
        require(known, "key \"per_layer_config\": there is no layer \"" + layer.substr(0, 40) + "\", the model has " + std::to_string(n_layers_));
        require(changes.is_object(),
                "key \"per_layer_config\": layer " + layer.substr(0, 40) + " must be an object, found " + std::string(changes.type_name()));
        for (const auto& [key, value] : changes.members())
            if (per_layer_keys_.count(key) == 0)
                fail(unsupported("key \"per_layer_config\": \"" + key + "\" cannot differ between the layers of this architecture"));
    }
}

const Json& HfConfig::object(std::string_view key) {
    static const Json null_value;
    const Json* value = read(key);
    return value != nullptr ? *value : null_value;
}

std::string HfConfig::choice(std::string_view key, std::string fallback, std::initializer_list<std::string_view> choices) {
    std::string value = text_or(key, std::move(fallback));
    std::string names;
    for (std::string_view choice : choices) {
        if (value == choice) return value;
        names += (names.empty() ? "" : ", ") + std::string(choice);
    }
    fail(unsupported("key \"" + std::string(key) + "\" = \"" + value.substr(0, 40) + "\" is not implemented; known: " + names));
    return std::string(*choices.begin());
}

void HfConfig::require(bool condition, const std::string& message) {
    if (!condition) fail(corrupt(message));
}

Status HfConfig::finish() {
    check_overrides();
    if (!status_.ok()) return status_.error();
    for (const auto& [key, value] : json_.members()) {
        const bool neutral =
            value.is_null() || (value.is_bool() && !value.bool_or(true)) || ((value.is_array() || value.is_object()) && value.size() == 0);
        if (seen_.count(key) || is_harmless(key) || neutral) continue;
        Error error = unsupported("key \"" + key + "\" = " + value.dump().substr(0, 80) +
                                  " is not known for this architecture and may change the result; remove the key if you are sure that it does not");
        return std::move(error).with_context(where_);
    }
    return {};
}

}  // namespace skiff
