#include "compress/structure/structure_config.h"

#include <algorithm>

#include "model/arch/arch.h"

namespace skiff {
namespace {

constexpr std::string_view ff_keys[] = {"block_ff_dim", "intermediate_size", "n_inner", "ffn_dim"};
constexpr std::string_view head_keys[] = {"num_attention_heads", "n_head"};
constexpr std::string_view width_keys[] = {"hidden_size", "n_embd"};
constexpr std::string_view layer_keys[] = {"num_hidden_layers", "n_layer"};

struct LayerSizes {
    std::int64_t n_heads = 0, n_kv_heads = 0, d_ff = 0, head_dim = 0, window = 0;
    bool operator==(const LayerSizes&) const = default;
};

// By decoder block. The width of a feed-forward is that of its activation.
std::vector<LayerSizes> layer_sizes(const ModelSpec& spec) {
    std::vector<LayerSizes> layers;
    for (std::size_t i = 1; i + 1 < spec.blocks.size(); ++i) {
        LayerSizes sizes;
        for (const Op& op : spec.blocks[i].ops) {
            if (const auto* attention = std::get_if<AttentionOp>(&op.detail)) {
                sizes.n_heads = attention->n_heads;
                sizes.n_kv_heads = attention->n_kv_heads;
                sizes.head_dim = attention->head_dim;
                sizes.window = attention->window;
            }
            if (std::holds_alternative<ActivationOp>(op.detail)) sizes.d_ff = std::max(sizes.d_ff, spec.width(op.out));
        }
        layers.push_back(sizes);
    }
    return layers;
}

template <std::size_t n>
std::string key_of(const Json& config, const std::string_view (&names)[n]) {
    for (const std::string_view name : names)
        if (config.contains(name)) return std::string(name);
    return {};
}

// Writes one number for all layers, or the first layer's with the others as exceptions.
void set_layers(Json& config, const std::string& key, const std::vector<std::int64_t>& numbers) {
    Json per_layer = Json::object();
    for (const auto& [layer, changes] : config["per_layer_config"].members()) {
        Json left = changes;
        left.erase(key);
        if (left.size() > 0) per_layer.set(layer, left);
    }
    config.set(key, numbers[0]);
    for (std::size_t layer = 1; layer < numbers.size(); ++layer) {
        if (numbers[layer] == numbers[0]) continue;
        Json changes = per_layer[std::to_string(layer)].is_object() ? per_layer[std::to_string(layer)] : Json::object();
        changes.set(key, numbers[layer]);
        per_layer.set(std::to_string(layer), changes);
    }
    config.erase("per_layer_config");
    if (per_layer.size() > 0) config.set("per_layer_config", per_layer);
}

Status check_implies(const Json& config, const ModelSpec& child) {
    auto implied = build_spec(config);
    if (!implied.ok()) return implied.take_error().with_context("the config of the result");
    for (const auto& [key, tensor] : implied->tensors) {
        const auto found = child.tensors.find(key);
        if (found == child.tensors.end() || child.shape(found->second) != implied->shape(tensor))
            return unsupported("config.json of this architecture cannot say the shape of the result: it implies " + shape_text(implied->shape(tensor)) + " for " + key +
                               (found == child.tensors.end() ? ", which there is not" : ", which is " + shape_text(child.shape(found->second))));
    }
    for (std::size_t i = 0; i < child.blocks.size() && i < implied->blocks.size(); ++i)
        for (std::size_t k = 0; k < child.blocks[i].ops.size() && k < implied->blocks[i].ops.size(); ++k) {
            const Op &mine = child.blocks[i].ops[k], &theirs = implied->blocks[i].ops[k];
            if (!std::holds_alternative<LinearOp>(mine.detail) && !(mine.detail == theirs.detail)) return unsupported("config.json of this architecture cannot say the shape of the result: " + mine.name + " would compute otherwise");
        }
    if (layer_sizes(*implied) != layer_sizes(child)) return unsupported("config.json of this architecture cannot say the shape of the result: heads or windows would differ");
    return {};
}

// The part of a config that describes the language model.
Result<Json> edited(const Json& config, const std::function<Status(Json&)>& edit) {
    Json result = config;
    if (config["text_config"].is_object()) {
        Json inner = config["text_config"];
        SKIFF_CHECK(edit(inner));
        result.set("text_config", inner);
        return result;
    }
    SKIFF_CHECK(edit(result));
    return result;
}

}  // namespace

Result<Json> config_after_cut(const Json& config, const ModelSpec& parent, const ModelSpec& child, std::vector<std::string>& remarks) {
    const auto before = layer_sizes(parent), after = layer_sizes(child);
    auto edit = [&](Json& text) -> Status {
        std::vector<std::int64_t> n_heads, n_kv_heads, d_ff;
        // Layers that do not attend say what the first that does says.
        const auto first = std::find_if(after.begin(), after.end(), [](const LayerSizes& layer) { return layer.n_heads > 0; });
        for (const LayerSizes& layer : after) {
            const LayerSizes& attending = layer.n_heads > 0 || first == after.end() ? layer : *first;
            n_heads.push_back(attending.n_heads);
            n_kv_heads.push_back(attending.n_kv_heads);
            d_ff.push_back(layer.d_ff);
        }
        auto differs = [&](auto field) { return std::any_of(after.begin(), after.end(), [&, i = std::size_t{0}](const LayerSizes& layer) mutable { return layer.*field != before[i++].*field; }); };
        const bool heads = differs(&LayerSizes::n_heads), kv_heads = differs(&LayerSizes::n_kv_heads), ff = differs(&LayerSizes::d_ff), width = child.d_model != parent.d_model;
        if (ff) {
            std::string key = key_of(text, ff_keys);
            if (key.empty() && text.contains("n_embd")) key = "n_inner";
            if (key.empty()) return unsupported("config.json has no key for the width of feed-forwards");
            set_layers(text, key, d_ff);
            if (text["model_type"].text() == "lfm2") text.set("block_auto_adjust_ff_dim", false);  // the width is said as it is
        }
        if (heads || kv_heads || width) {
            const std::string key = key_of(text, head_keys);
            if (key.empty()) return unsupported("config.json has no key for the number of heads");
            if (heads) set_layers(text, key, n_heads);
            if (kv_heads && (text.contains("num_key_value_heads") || n_heads != n_kv_heads)) set_layers(text, "num_key_value_heads", n_kv_heads);
            if (first != after.end()) text.set("head_dim", first->head_dim);  // it no longer follows from the other two
            if (key == "n_head" || text.contains("ffn_dim")) remarks.push_back("other programs do not read head_dim in a config of this architecture; they will not load the result");
            // transformers 5 checks this of some families, although head_dim says how wide the heads are.
            const std::string& type = text["model_type"].text();
            const bool is_checked = type == "llama" || type == "gemma2" || type == "gemma3" || type == "gemma3_text";
            if (is_checked && first != after.end() && child.d_model % first->n_heads != 0)
                remarks.push_back("transformers refuses a " + type + " whose hidden size (" + std::to_string(child.d_model) + ") is no multiple of the number of heads (" + std::to_string(first->n_heads) + "); let as many stay as divide it" +
                                  (type == "llama" ? ", or give model_type mistral and sliding_window null there, which computes the same" : ""));
        }
        if (width) {
            const std::string key = key_of(text, width_keys);
            if (key.empty()) return unsupported("config.json has no key for the hidden width");
            text.set(key, child.d_model);
        }
        return {};
    };
    SKIFF_TRY(auto result, edited(config, edit));
    SKIFF_CHECK(check_implies(result, child));
    return result;
}

std::string key_in_layer(const std::string& key, std::int64_t from, std::int64_t to) {
    const std::string number = "." + std::to_string(from) + ".";
    const std::size_t at = ("." + key).find(number);  // "3.mlp" may begin a name
    if (at == std::string::npos) return key;
    return key.substr(0, at) + std::to_string(to) + key.substr(at + number.size() - 2);
}

Result<Json> config_without_layers(const Json& config, const ModelSpec& parent, const std::set<std::int64_t>& dropped) {
    const std::int64_t n_layers = parent.n_layers;
    std::vector<std::int64_t> stay;
    for (std::int64_t layer = 0; layer < n_layers; ++layer)
        if (dropped.count(layer) == 0) stay.push_back(layer);
    auto edit = [&](Json& text) -> Status {
        const std::string key = key_of(text, layer_keys);
        if (key.empty()) return unsupported("config.json has no key for the number of layers");
        text.set(key, static_cast<std::int64_t>(stay.size()));
        // Lists with an entry for each layer, and what depends on the layer's number.
        const Json::Object members = text.members();
        for (const auto& [name, value] : members) {
            if (!value.is_array() || static_cast<std::int64_t>(value.size()) != n_layers || (name != "layer_types" && !value.items()[0].is_integer())) continue;
            if (name == "eos_token_id" || name == "full_attn_idxs") continue;
            Json list = Json::array();
            for (const std::int64_t layer : stay) list.push_back(value.items()[static_cast<std::size_t>(layer)]);
            text.set(name, list);
        }
        const auto sizes = layer_sizes(parent);
        const bool windows = std::any_of(sizes.begin(), sizes.end(), [](const LayerSizes& layer) { return layer.window > 0; });
        const bool alike = std::all_of(sizes.begin(), sizes.end(), [&](const LayerSizes& layer) { return layer.window == sizes[0].window; });
        if (windows && !alike && !text.contains("layer_types")) {
            Json types = Json::array();
            for (const std::int64_t layer : stay) types.push_back(sizes[static_cast<std::size_t>(layer)].window > 0 ? "sliding_attention" : "full_attention");
            text.set("layer_types", types);
        }
        if (text["full_attn_idxs"].is_array()) {
            Json numbers = Json::array();
            for (std::size_t i = 0; i < stay.size(); ++i)
                for (const Json& number : text["full_attn_idxs"].items())
                    if (number.int_or(-1) == stay[i]) numbers.push_back(static_cast<std::int64_t>(i));
            text.set("full_attn_idxs", numbers);
        }
        if (text.contains("per_layer_config")) {
            Json renumbered = Json::object();
            for (std::size_t i = 0; i < stay.size(); ++i)
                if (const Json* changes = text["per_layer_config"].find(std::to_string(stay[i]))) renumbered.set(std::to_string(i), *changes);
            text.set("per_layer_config", renumbered);
        }
        return {};
    };
    SKIFF_TRY(auto result, edited(config, edit));
    auto implied = build_spec(result);
    if (!implied.ok()) return implied.take_error().with_context("the config of the result");
    const auto before = layer_sizes(parent), after = layer_sizes(*implied);
    for (std::size_t i = 0; i < stay.size(); ++i) {
        const auto layer = static_cast<std::size_t>(stay[i]);
        if (after.size() != stay.size() || !(after[i] == before[layer])) return unsupported("config.json of this architecture cannot say which layers stay");
        // The same operators with the same tensors, but for the number.
        const Block &mine = implied->blocks[i + 1], &theirs = parent.blocks[layer + 1];
        if (mine.ops.size() != theirs.ops.size()) return unsupported("layers of this architecture depend on their number");
        for (std::size_t k = 0; k < mine.ops.size(); ++k) {
            const auto* rope = std::get_if<RopeOp>(&mine.ops[k].detail);
            const auto* attention = std::get_if<AttentionOp>(&mine.ops[k].detail);
            const bool same_rope = rope == nullptr || mine.ops[k].detail == theirs.ops[k].detail;
            const bool same_scale = attention == nullptr || attention->scale == std::get<AttentionOp>(theirs.ops[k].detail).scale;
            if (mine.ops[k].detail.index() != theirs.ops[k].detail.index() || !same_rope || !same_scale)
                return unsupported("layer " + std::to_string(layer) + " would compute otherwise as layer " + std::to_string(i) + ": its rope or scale depends on its number");
        }
    }
    return result;
}

}  // namespace skiff
