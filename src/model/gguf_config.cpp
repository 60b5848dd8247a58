#include "model/gguf_config.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

namespace skiff {
namespace {

// Keys that say nothing about the forward pass, or nothing that other keys and tensors do not say.
constexpr std::string_view harmless_keys[] = {"vocab_size", "tensor_data_layout", "rope.scaling.finetuned", "rope.scaling.original_context_length",
                                              "attention.causal"};

// The double that a config.json would have: 1e-05 for the float nearest to it.
double shortest(float value) {
    char text[32];
    const auto end = std::to_chars(text, text + sizeof text, value).ptr;
    double number = value;
    std::from_chars(text, end, number);
    return number;
}

class ConfigReader {
public:
    ConfigReader(const GgufMetadata& metadata, std::span<const GgufTensor> tensors) : metadata_(metadata), tensors_(tensors) {}
    Result<GgufConfig> read();

private:
    std::string key(std::string_view name) {
        seen_.insert(std::string(name));
        return arch_ + "." + std::string(name);
    }
    bool has(std::string_view name) { return metadata_.contains(key(name)); }
    const GgufTensor* tensor(std::string_view name) const {
        const auto found = std::find_if(tensors_.begin(), tensors_.end(), [&](const GgufTensor& one) { return one.name == name; });
        return found == tensors_.end() ? nullptr : &*found;
    }
    Status choose_row();
    Status read_keys();
    Status read_key(const GgufKey& row);
    Status read_head_dim();
    Status read_vocabulary();
    Status read_windows();
    Status read_layer_windows(std::int64_t window);
    Status read_rope();
    Status read_rope_scaling(Json& scaling);
    Status read_rope_divisors(const GgufTensor& divisors, double theta, Json& scaling);
    Result<Json> list(const GgufTensor& tensor, std::int64_t n) const;
    void read_attention_scale();
    Status check_rest() const;
    Result<double> number(std::string_view name, double fallback);

    const GgufMetadata& metadata_;
    std::span<const GgufTensor> tensors_;
    std::string arch_;
    std::set<std::string, std::less<>> seen_;
    const GgufMap* map_ = nullptr;
    Json config_ = Json::object();
    std::int64_t width_ = 0, n_blocks_ = 0, n_heads_ = 0, head_dim_ = 0, rotary_dim_ = 0;
};

Result<double> ConfigReader::number(std::string_view name, double fallback) {
    const GgufValue* value = metadata_.find(key(name));
    if (value != nullptr && std::holds_alternative<float>(*value)) return shortest(std::get<float>(*value));
    return metadata_.number_or(key(name), fallback);
}

// llama, mistral and mixtral have one name in GGUF: their keys tell them apart.
Status ConfigReader::choose_row() {
    SKIFF_TRY(arch_, metadata_.text("general.architecture"));
    map_ = find_gguf_map_by_gguf_name(arch_);
    if (map_ == nullptr)
        return unsupported("general.architecture \"" + arch_.substr(0, 40) + "\" is not implemented; known: " + gguf_architecture_names());
    if (arch_ != "llama") return {};
    SKIFF_TRY(const auto n_experts, metadata_.integer_or(key("expert_count"), 0));
    SKIFF_TRY(const auto window, metadata_.integer_or(key("attention.sliding_window"), 0));
    map_ = find_gguf_map(n_experts > 0 ? "mixtral" : window > 0 ? "mistral" : "llama");
    return {};
}

Status ConfigReader::read_key(const GgufKey& row) {
    const std::string name = key(row.gguf);
    if (!metadata_.contains(name)) {
        if (row.need == GgufKey::Need::optional) return {};
        return corrupt("metadata key \"" + name + "\" is missing");
    }
    if (row.kind == GgufKey::Kind::flag) {
        SKIFF_TRY(const auto flag, metadata_.boolean(name));
        config_.set(std::string(row.hf), flag);
    } else if (row.kind == GgufKey::Kind::number) {
        SKIFF_TRY(const auto value, number(row.gguf, 0));
        config_.set(std::string(row.hf), value);
    } else if (row.kind == GgufKey::Kind::count) {
        SKIFF_TRY(const auto value, metadata_.integer(name));
        if (value != 0 || row.need == GgufKey::Need::required) config_.set(std::string(row.hf), value);
    } else {
        SKIFF_TRY(const auto values, metadata_.integers(name));
        if (values.empty() || values.size() > 1024)
            return corrupt("metadata key \"" + name + "\" has " + std::to_string(values.size()) + " entries, expected one for each block");
        const bool alike = std::all_of(values.begin(), values.end(), [&](std::int64_t value) { return value == values[0]; });
        const bool one_each = static_cast<std::int64_t>(values.size()) == n_blocks_;
        if (values.size() == 1 || (alike && one_each)) config_.set(std::string(row.hf), values[0]);
        else config_.set(std::string(row.hf), Json(Json::Array(values.begin(), values.end())));
    }
    return {};
}

Status ConfigReader::read_keys() {
    SKIFF_TRY(n_blocks_, metadata_.integer(key("block_count")));
    SKIFF_TRY(width_, metadata_.integer(key("embedding_length")));
    SKIFF_TRY(const auto heads, metadata_.integers(key("attention.head_count")));
    n_heads_ = heads.empty() ? 0 : heads[0];
    for (const auto& [name, value] : {std::pair{"block_count", n_blocks_}, {"embedding_length", width_}, {"attention.head_count", n_heads_}})
        if (value < 1 || value > 1 << 24) return corrupt("metadata key \"" + key(name) + "\" = " + std::to_string(value) + ": expected 1 to 2^24");
    for (const GgufKey& row : map_->keys) SKIFF_CHECK(read_key(row));
    SKIFF_CHECK(read_key(map_->eps));
    // Absent, key/value heads are as many as heads; in a config.json some families have another default.
    const bool grouped = std::any_of(map_->keys.begin(), map_->keys.end(), [](const GgufKey& row) { return row.hf == "num_key_value_heads"; });
    if (grouped && arch_ != "gptneox" && !config_.contains("num_key_value_heads")) config_.set("num_key_value_heads", config_["num_attention_heads"]);
    return {};
}

Status ConfigReader::read_head_dim() {
    SKIFF_TRY(head_dim_, metadata_.integer_or(key("attention.key_length"), std::max<std::int64_t>(1, width_ / n_heads_)));
    SKIFF_TRY(const auto value_dim, metadata_.integer_or(key("attention.value_length"), head_dim_));
    if (value_dim != head_dim_)
        return unsupported("attention.value_length (" + std::to_string(value_dim) + ") other than attention.key_length (" +
                           std::to_string(head_dim_) + ") is not implemented");
    if (head_dim_ < 1 || head_dim_ > 4096) return corrupt("attention.key_length " + std::to_string(head_dim_) + ": expected 1 to 4096");
    if (map_->head_dim == GgufMap::HeadDim::own || head_dim_ * n_heads_ != width_ || config_["num_attention_heads"].is_array())
        config_.set("head_dim", head_dim_);
    return {};
}

Status ConfigReader::read_vocabulary() {
    const GgufTensor* embedding = tensor("token_embd.weight");
    if (embedding == nullptr || embedding->shape.size() != 2) return corrupt("tensor token_embd.weight is missing or not a matrix");
    config_.set("vocab_size", embedding->shape[0]);
    config_.set("tie_word_embeddings", tensor("output.weight") == nullptr);
    const bool attention_bias = tensor("blk.0.attn_output.bias") != nullptr;
    if (arch_ == "llama" || arch_ == "qwen3") config_.set("attention_bias", attention_bias);
    if (map_->architecture == "llama") config_.set("mlp_bias", tensor("blk.0.ffn_down.bias") != nullptr);
    if (arch_ == "gptneox") config_.set("attention_bias", attention_bias);
    if (map_->architecture == "mistral" || map_->architecture == "mixtral") config_.erase("attention_bias");
    for (const auto& [from, to] : {std::pair{"tokenizer.ggml.bos_token_id", "bos_token_id"}, {"tokenizer.ggml.eos_token_id", "eos_token_id"}}) {
        SKIFF_TRY(const auto id, metadata_.integer_or(from, -1));
        if (id >= 0 && id < embedding->shape[0]) config_.set(to, id);
    }
    return {};
}

// Which blocks have a window: the array of our own files (GGUF's key for it, one flag a block), a period, or the family's rule.
Status ConfigReader::read_layer_windows(std::int64_t window) {
    const bool gemma = arch_ == "gemma2" || arch_ == "gemma3";
    std::int64_t period = arch_ == "gemma2" ? 2 : arch_ == "gemma3" ? 6 : 1;
    std::vector<std::int64_t> flags;
    if (const GgufValue* value = metadata_.find(key("attention.sliding_window_pattern")); value != nullptr) {
        const auto* array = std::get_if<GgufArray>(value);
        if (const auto* bools = array == nullptr ? nullptr : std::get_if<GgufBools>(array); bools != nullptr) {
            flags.assign(bools->values.begin(), bools->values.end());
        } else {
            SKIFF_TRY(period, metadata_.integer(key("attention.sliding_window_pattern")));
        }
        if (!flags.empty() && static_cast<std::int64_t>(flags.size()) != n_blocks_)
            return corrupt("attention.sliding_window_pattern has " + std::to_string(flags.size()) + " entries, expected one for each block");
    }
    if (period < 1 || period > 1024) return corrupt("attention.sliding_window_pattern " + std::to_string(period) + ": expected 1 to 1024");
    if (flags.empty() && !gemma) return {};
    Json types = Json::array();
    for (std::int64_t block = 0; block < std::min<std::int64_t>(n_blocks_, 1024); ++block) {
        const bool sliding = flags.empty() ? (block + 1) % period != 0 : flags[static_cast<std::size_t>(block)] != 0;
        types.push_back(sliding && window > 0 ? "sliding_attention" : "full_attention");
    }
    config_.set("layer_types", types);
    if (!gemma && window > 0) config_.set("use_sliding_window", true);
    return {};
}

Status ConfigReader::read_windows() {
    const std::int64_t fallback = arch_ == "gemma2" ? 4096 : 0;
    SKIFF_TRY(const auto window, metadata_.integer_or(key("attention.sliding_window"), fallback));
    if (window < 0 || window > std::int64_t{1} << 31) return corrupt("attention.sliding_window " + std::to_string(window) + ": expected 0 to 2^31");
    if (window > 0) config_.set("sliding_window", window);
    if (arch_ == "llama" || arch_ == "phi3") return {};
    return read_layer_windows(window);
}

// Gemma's score scale is 1/sqrt(key_length), but its 27B models take the width of a head as the embedding is divided.
void ConfigReader::read_attention_scale() {
    const bool largest = (arch_ == "gemma2" && n_blocks_ == 46) || (arch_ == "gemma3" && n_blocks_ == 62);
    if (arch_ == "gemma2" || arch_ == "gemma3") config_.set("query_pre_attn_scalar", largest ? width_ / n_heads_ : head_dim_);
}

Result<Json> ConfigReader::list(const GgufTensor& tensor, std::int64_t n) const {
    const bool fits = tensor.type != nullptr && tensor.type->dtype == DType::f32 && tensor.shape == Shape{n};
    if (!fits)
        return corrupt("tensor " + tensor.name + " of shape " + shape_text(tensor.shape) + ": expected " + std::to_string(n) +
                       " numbers of type F32");
    std::vector<float> values;
    to_floats({DType::f32, tensor.shape, tensor.data}, values);
    Json numbers = Json::array();
    for (const float value : values) {
        if (!std::isfinite(value) || value <= 0) return corrupt("tensor " + tensor.name + " has a number that is not finite and positive");
        numbers.push_back(shortest(value));
    }
    return numbers;
}

// Llama 3.1's stretched frequencies come as a list of divisors. Where they are those of a known rule the config says the rule; any other
// list is what LongRoPE calls factors, the same for short and long texts.
Status ConfigReader::read_rope_divisors(const GgufTensor& divisors, double theta, Json& scaling) {
    SKIFF_TRY(const auto numbers, list(divisors, rotary_dim_ / 2));
    constexpr double original = 8192, low = 1, high = 4;
    const double factor = std::round(numbers.items().back().number_or(1));
    bool is_llama3 = factor > 1;
    for (std::int64_t i = 0; i < rotary_dim_ / 2 && is_llama3; ++i) {
        const double wavelength = 2 * M_PI * std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(rotary_dim_));
        const double smooth = std::clamp((original / wavelength - low) / (high - low), 0.0, 1.0);
        const double expected = 1 / ((1 - smooth) / factor + smooth);
        is_llama3 = std::abs(numbers.items()[static_cast<std::size_t>(i)].number_or(0) - expected) <= 1e-4 * expected;
    }
    if (is_llama3) {
        scaling = Json::object({{"rope_type", "llama3"},
                                {"factor", factor},
                                {"low_freq_factor", low},
                                {"high_freq_factor", high},
                                {"original_max_position_embeddings", static_cast<std::int64_t>(original)}});
    } else {
        scaling = Json::object({{"rope_type", "longrope"},
                                {"short_factor", numbers},
                                {"long_factor", numbers},
                                {"attention_factor", 1.0},
                                {"original_max_position_embeddings", config_["max_position_embeddings"]}});
    }
    return {};
}

Status ConfigReader::read_rope_scaling(Json& scaling) {
    SKIFF_TRY(const auto type, metadata_.text_or(key("rope.scaling.type"), "none"));
    SKIFF_TRY(const auto old_factor, number("rope.scale_linear", 1));
    SKIFF_TRY(const auto factor, number("rope.scaling.factor", old_factor));
    SKIFF_TRY(const auto magnitude, number("rope.scaling.attn_factor", 0));
    const GgufTensor* of_long = tensor("rope_factors_long.weight");
    const GgufTensor* of_short = tensor("rope_factors_short.weight");
    if (of_long != nullptr && of_short != nullptr) {
        SKIFF_TRY(const auto long_factor, list(*of_long, rotary_dim_ / 2));
        SKIFF_TRY(const auto short_factor, list(*of_short, rotary_dim_ / 2));
        SKIFF_TRY(const auto original, metadata_.integer(key("rope.scaling.original_context_length")));
        scaling = Json::object({{"rope_type", "longrope"},
                                {"short_factor", short_factor},
                                {"long_factor", long_factor},
                                {"original_max_position_embeddings", original}});
        config_.set("original_max_position_embeddings", original);
        if (magnitude > 0) scaling.set("attention_factor", magnitude);
        return {};
    }
    if (magnitude != 0 && magnitude != 1)
        return unsupported("metadata key \"" + key("rope.scaling.attn_factor") + "\" without rope factors is not implemented");
    if (type == "linear" || (type == "none" && old_factor != 1)) scaling = Json::object({{"rope_type", "linear"}, {"factor", factor}});
    else if (type != "none")
        return unsupported("metadata key \"" + key("rope.scaling.type") + "\" = \"" + type.substr(0, 40) +
                           "\" is not implemented; known: none, linear, longrope");
    return {};
}

Status ConfigReader::read_rope() {
    if (arch_ == "gpt2") return {};
    SKIFF_TRY(const auto theta, number("rope.freq_base", 10000));
    SKIFF_TRY(rotary_dim_, metadata_.integer_or(key("rope.dimension_count"), head_dim_));
    if (rotary_dim_ < 2 || rotary_dim_ > head_dim_ || rotary_dim_ % 2 != 0)
        return corrupt("metadata key \"" + key("rope.dimension_count") + "\" = " + std::to_string(rotary_dim_) + ": expected an even number up to " +
                       std::to_string(head_dim_));
    if (map_->partial_rotary_key.empty() && rotary_dim_ != head_dim_)
        return unsupported("metadata key \"" + key("rope.dimension_count") + "\" = " + std::to_string(rotary_dim_) + " with heads of " +
                           std::to_string(head_dim_) + ": heads that rotate in part are not known for " + arch_);
    if (!map_->partial_rotary_key.empty()) {
        double partial = static_cast<double>(rotary_dim_) / static_cast<double>(head_dim_);
        while (static_cast<std::int64_t>(static_cast<double>(head_dim_) * partial) < rotary_dim_) partial = std::nextafter(partial, 2.0);
        if (partial < 1 || arch_ == "gptneox") config_.set(std::string(map_->partial_rotary_key), partial);
    }
    Json scaling;
    if (const GgufTensor* divisors = tensor("rope_freqs.weight"); divisors != nullptr && arch_ == "llama") {
        SKIFF_CHECK(read_rope_divisors(*divisors, theta, scaling));
        seen_.insert({"rope.scaling.type", "rope.scaling.factor"});
    } else {
        SKIFF_CHECK(read_rope_scaling(scaling));
    }
    config_.set(arch_ == "gptneox" ? "rotary_emb_base" : "rope_theta", theta);
    if (!scaling.is_null()) config_.set("rope_scaling", scaling);
    if (arch_ == "gemma3") {
        SKIFF_TRY(const auto local, number("rope.freq_base_swa", 10000));
        config_.set("rope_local_base_freq", local);
    }
    return {};
}

// A key of the architecture that nobody read could change the result. Zero, false and empty say that a feature is not used.
Status ConfigReader::check_rest() const {
    for (const auto& [name, value] : metadata_.entries()) {
        const std::string prefix = arch_ + ".";
        if (name.compare(0, prefix.size(), prefix) != 0) continue;
        const std::string rest = name.substr(prefix.size());
        const bool harmless = std::find(std::begin(harmless_keys), std::end(harmless_keys), rest) != std::end(harmless_keys);
        if (harmless || seen_.count(rest) > 0) continue;
        const auto as_number = metadata_.number(name);
        const auto as_flag = metadata_.boolean(name);
        if ((as_number.ok() && *as_number == 0) || (as_flag.ok() && !*as_flag)) continue;
        return unsupported("metadata key \"" + name.substr(0, 80) + "\" is not known for this architecture and may change the result");
    }
    return {};
}

Result<GgufConfig> ConfigReader::read() {
    SKIFF_CHECK(choose_row());
    config_.set("architectures", Json::array());
    config_.set("model_type", map_->model_type);
    SKIFF_CHECK(read_keys());
    SKIFF_CHECK(read_head_dim());
    SKIFF_CHECK(read_vocabulary());
    SKIFF_CHECK(read_windows());
    SKIFF_CHECK(read_rope());
    read_attention_scale();
    SKIFF_CHECK(check_rest());
    return GgufConfig{std::move(config_), map_};
}

}  // namespace

Result<GgufConfig> read_gguf_config(const GgufMetadata& metadata, std::span<const GgufTensor> tensors) {
    return ConfigReader(metadata, tensors).read();
}

Result<GgufConfig> read_gguf_config(const GgufFile& file) { return read_gguf_config(file.metadata(), file.tensors()); }

}  // namespace skiff
