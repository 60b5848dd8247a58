#include "model/gguf_metadata.h"

#include <algorithm>
#include <cmath>

#include "model/arch/families.h"
#include "model/gguf_config.h"

namespace skiff {
namespace {

// The facts of one decoder block that GGUF has words for.
struct BlockFacts {
    AttentionOp attention;
    RopeOp rope;  // without frequencies where the model has none
    std::int64_t d_ff = 0, n_experts = 0, n_used = 0;
};

template <class T>
const T* first_of(const Block& block) {
    for (const Op& op : block.ops)
        if (const T* detail = std::get_if<T>(&op.detail)) return detail;
    return nullptr;
}

Result<BlockFacts> facts_of(const ModelSpec& spec, const Block& block) {
    BlockFacts facts;
    const auto* attention = first_of<AttentionOp>(block);
    if (attention == nullptr) return unsupported(block.name + " has no attention");
    facts.attention = *attention;
    if (const auto* rope = first_of<RopeOp>(block)) facts.rope = *rope;
    if (const Axis* experts = spec.find_axis(block.name + ".expert")) facts.n_experts = experts->size;
    if (const auto* route = first_of<RouteOp>(block)) facts.n_used = route->n_used;
    const Axis* ff = spec.find_axis(block.name + (facts.n_experts > 0 ? ".expert0.ff" : ".ff"));
    if (ff == nullptr) return unsupported(block.name + " has no feed-forward");
    facts.d_ff = ff->size;
    return facts;
}

// By what plain frequencies were divided: `written` (a list of the config, or null) or six digits of it where they agree up to rounding.
std::vector<float> divisors_of(const std::vector<float>& plain, const std::vector<float>& stretched, const Json& written) {
    std::vector<float> divisors;
    for (std::size_t i = 0; i < stretched.size(); ++i) {
        const double exact = static_cast<double>(plain[i]) / stretched[i];
        char text[32];
        std::snprintf(text, sizeof text, "%.6g", exact);
        const float candidate = i < written.items().size() ? static_cast<float>(written.items()[i].number_or(0)) : std::strtof(text, nullptr);
        divisors.push_back(std::abs(exact - candidate) <= 3e-7 * exact ? candidate : static_cast<float>(exact));
    }
    return divisors;
}

class Describer {
public:
    Describer(const ModelSpec& spec, const Json& config) : spec_(spec), config_(config["text_config"].is_object() ? config["text_config"] : config) {}
    Result<GgufDescription> describe();

private:
    void add(std::string_view name, GgufValue value) { out_.metadata.set(prefix_ + std::string(name), std::move(value)); }
    void add_count(std::string_view name, std::int64_t value) { add(name, static_cast<std::uint32_t>(value)); }
    void add_number(std::string_view name, double value) { add(name, static_cast<float>(value)); }
    template <class Get>
    void add_counts(std::string_view name, Get get) {  // one number, or one for each block where they differ
        std::vector<std::int32_t> values;
        for (const BlockFacts& block : blocks_) values.push_back(static_cast<std::int32_t>(get(block)));
        if (std::all_of(values.begin(), values.end(), [&](std::int32_t value) { return value == values[0]; })) add_count(name, values[0]);
        else add(name, GgufArray(std::move(values)));
    }
    bool is(std::string_view gguf_name) const { return out_.map->gguf_name == gguf_name; }
    bool is_gemma() const { return is("gemma2") || is("gemma3"); }
    void add_sizes();
    void add_windows();
    Status add_ropes();
    Status add_rope_scaling(const RopeOp& rope, double theta);
    double theta_of(std::string_view kind, std::string_view old_key, double fallback) const;
    Status read_back() const;

    const ModelSpec& spec_;
    const Json& config_;
    std::string prefix_;
    std::vector<BlockFacts> blocks_;
    GgufDescription out_;
};

void Describer::add_sizes() {
    const BlockFacts& first = blocks_[0];
    add_count("block_count", spec_.n_layers);
    add_count("context_length", spec_.max_positions);
    add_count("embedding_length", spec_.d_model);
    add_counts("feed_forward_length", [](const BlockFacts& block) { return block.d_ff; });
    add_counts("attention.head_count", [](const BlockFacts& block) { return block.attention.n_heads; });
    if (!is("gpt2") && !is("gptneox")) add_counts("attention.head_count_kv", [](const BlockFacts& block) { return block.attention.n_kv_heads; });
    const bool own_head_dim = out_.map->head_dim == GgufMap::HeadDim::own || first.attention.head_dim * first.attention.n_heads != spec_.d_model ||
                              config_.contains("head_dim");
    if (own_head_dim) {
        add_count("attention.key_length", first.attention.head_dim);
        add_count("attention.value_length", first.attention.head_dim);
    }
    if (const auto* norm = first_of<NormOp>(spec_.blocks[1])) add_number(out_.map->eps.gguf, norm->eps);
    if (is("llama")) add_count("vocab_size", spec_.n_vocab);
    if (first.n_experts > 0) {
        add_count("expert_count", first.n_experts);
        add_count("expert_used_count", first.n_used);
    }
    if (first.attention.softcap > 0) add_number("attn_logit_softcapping", first.attention.softcap);
    if (const auto* softcap = first_of<SoftcapOp>(spec_.blocks.back())) add_number("final_logit_softcapping", softcap->cap);
    if (is("gptneox")) add("use_parallel_residual", config_["use_parallel_residual"].bool_or(true));
}

void Describer::add_windows() {
    std::int64_t window = 0;
    std::vector<std::uint8_t> sliding;
    for (const BlockFacts& block : blocks_) {
        window = std::max(window, block.attention.window);
        sliding.push_back(block.attention.window > 0);
    }
    const bool all = std::find(sliding.begin(), sliding.end(), 0) == sliding.end();
    if (window > 0 || is("phi3")) add_count("attention.sliding_window", window);
    if (window == 0) return;
    const std::int64_t period = is("gemma2") ? 2 : 6;
    bool as_family = is_gemma() || all;
    for (std::size_t i = 0; i < sliding.size() && is_gemma(); ++i)
        as_family = as_family && sliding[i] == ((static_cast<std::int64_t>(i) + 1) % period != 0);
    if (!as_family || (all && !is("llama") && !is("phi3") && !is_gemma())) add("attention.sliding_window_pattern", GgufArray(GgufBools{sliding}));
    if (!is_gemma() || !as_family)
        out_.notes.push_back("llama.cpp does not know this model's sliding window (" + std::to_string(window) +
                             "): there, longer texts will give other results");
}

// The base of the rope under each of the names that configs have for it.
double Describer::theta_of(std::string_view kind, std::string_view old_key, double fallback) const {
    const Json& parameters = config_["rope_parameters"];
    const Json& of_kind = parameters[kind].is_object() ? parameters[kind] : parameters;
    if (of_kind["rope_theta"].is_number()) return of_kind["rope_theta"].number_or(fallback);
    if (config_["rope_scaling"]["rope_theta"].is_number() && old_key == "rope_theta")
        return config_["rope_scaling"]["rope_theta"].number_or(fallback);
    return config_[old_key].number_or(fallback);
}

Status Describer::add_rope_scaling(const RopeOp& rope, double theta) {
    const std::vector<float> plain = plain_inv_freq(theta, static_cast<std::int64_t>(rope.inv_freq.size()) * 2);
    const Json& scaling = config_["rope_parameters"].is_object() ? config_["rope_parameters"] : config_["rope_scaling"];
    const std::vector<float> divisors = divisors_of(plain, rope.inv_freq, scaling["short_factor"]);
    const std::vector<float> of_long = divisors_of(plain, rope.long_inv_freq, scaling["long_factor"]);
    const auto near_first = [&](float value) { return std::abs(value - divisors[0]) <= 1e-5f * divisors[0]; };
    const bool uniform = std::all_of(divisors.begin(), divisors.end(), near_first);
    if (!of_long.empty() && is("phi3")) {
        add_number("rope.scaling.attn_factor", rope.magnitude);
        out_.ropes = {{"rope_factors_long.weight", of_long}, {"rope_factors_short.weight", divisors}};
    } else if (uniform && of_long.empty()) {
        if (std::abs(divisors[0] - 1) <= 1e-5f) return {};
        add("rope.scaling.type", std::string("linear"));
        add_number("rope.scaling.factor", divisors[0]);
    } else if (is("llama")) {
        out_.ropes = {{"rope_freqs.weight", divisors}};
    } else {
        return unsupported("GGUF has no words for this model's rope scaling in architecture " + std::string(out_.map->gguf_name));
    }
    return {};
}

Status Describer::add_ropes() {
    const BlockFacts* global = &blocks_[0];
    for (const BlockFacts& block : blocks_)
        if (block.attention.window == 0) global = &block;
    if (global->rope.inv_freq.empty()) return {};
    const auto rotary_dim = static_cast<std::int64_t>(global->rope.inv_freq.size()) * 2;
    if (is("llama") || is("phi3") || is("gptneox")) add_count("rope.dimension_count", rotary_dim);
    const double family = is("gemma3") || out_.map->architecture == "mixtral" ? 1e6 : 10000;
    const double theta = is("gptneox") ? theta_of("", "rotary_emb_base", 10000) : theta_of("full_attention", "rope_theta", family);
    add_number("rope.freq_base", theta);
    if (is("gemma3")) add_number("rope.freq_base_swa", theta_of("sliding_attention", "rope_local_base_freq", 10000));
    if (is("phi3"))
        add_count("rope.scaling.original_context_length", global->rope.long_above > 0 ? global->rope.long_above
                                                                                      : config_["original_max_position_embeddings"].int_or(
                                                                                            std::min<std::int64_t>(spec_.max_positions, 4096)));
    return add_rope_scaling(global->rope, theta);
}

// The file's own words, read as if it came from somewhere else: they must give the model that is being written.
Status Describer::read_back() const {
    std::vector<GgufTensor> tensors;
    for (const auto& [key, tensor] : spec_.tensors) {
        const auto place = gguf_place_of(*out_.map, key);
        if (!place) return unsupported("tensor " + key + " has no name in GGUF's " + std::string(out_.map->gguf_name));
        tensors.push_back({place->name, nullptr, spec_.shape(tensor), {}});
    }
    for (const GgufRopeTensor& rope : out_.ropes)
        tensors.push_back(
            {rope.name, gguf_type_by_name("F32"), {static_cast<std::int64_t>(rope.values.size())}, std::as_bytes(std::span(rope.values))});
    SKIFF_TRY(const auto read, read_gguf_config(out_.metadata, tensors));
    SKIFF_TRY(const auto spec, build_spec(read.config));
    return check_same_computation(spec_, spec);
}

Result<GgufDescription> Describer::describe() {
    out_.map = find_gguf_map(spec_.architecture);
    if (out_.map == nullptr) return unsupported("GGUF has no architecture for " + spec_.architecture + "; it has " + gguf_architecture_names());
    prefix_ = std::string(out_.map->gguf_name) + ".";
    for (std::size_t i = 1; i + 1 < spec_.blocks.size(); ++i) {
        SKIFF_TRY(auto facts, facts_of(spec_, spec_.blocks[i]));
        blocks_.push_back(std::move(facts));
    }
    if (blocks_.empty()) return unsupported("the model has no blocks");
    out_.metadata.set("general.architecture", std::string(out_.map->gguf_name));
    add_sizes();
    add_windows();
    SKIFF_CHECK(add_ropes());
    SKIFF_CHECK(read_back());
    return std::move(out_);
}

}  // namespace

Result<GgufDescription> describe_as_gguf(const ModelSpec& spec, const Json& config) {
    auto description = Describer(spec, config).describe();
    if (!description.ok()) return description.take_error().with_context("GGUF cannot express this model");
    return description;
}

}  // namespace skiff
