#include "model/layer_selection.h"

#include <charconv>
#include <map>

#include "model/arch/arch.h"
#include "model/axes.h"
#include "model/extra_terms.h"
#include "model/shared_layers.h"

namespace skiff {
namespace {

constexpr const char* layer_count_keys[] = {"num_hidden_layers", "n_layer", "num_layers", "n_layers"};

// The parent's weights under other names.
class RenamedWeights final : public WeightSource {
public:
    RenamedWeights(std::shared_ptr<WeightSource> source, std::map<std::string, std::string> old_names) : source_(std::move(source)), old_names_(std::move(old_names)) {}
    bool contains(const std::string& key) const override {
        auto found = old_names_.find(key);
        return found != old_names_.end() && source_->contains(found->second);
    }
    Result<Weight> load(const std::string& key) const override {
        auto found = old_names_.find(key);
        if (found == old_names_.end()) return not_found("tensor " + key + " is not in the selected layers");
        return source_->load(found->second);
    }
    std::vector<std::string> keys() const override {
        std::vector<std::string> names;
        for (const auto& [key, old] : old_names_)
            if (source_->contains(old)) names.push_back(key);
        return names;
    }
    std::string identity() const override {
        std::string text = source_->identity();
        if (text.empty()) return {};
        for (const auto& [key, old] : old_names_)
            if (key != old) text += " " + key + "=" + old;
        return text;
    }

private:
    std::shared_ptr<WeightSource> source_;
    std::map<std::string, std::string> old_names_;
};

std::vector<std::string> tensor_keys(const Block& block) {
    std::vector<std::string> keys;
    for (Op op : block.ops) for_each_tensor_ref(op, [&](const TensorRef& ref) { keys.push_back(ref.key); });
    return keys;
}

// config.json of the selection: the number of layers, and whatever says something of each.
Result<Json> selected_config(const Checkpoint& parent, const std::vector<std::int64_t>& layers) {
    const std::int64_t n_before = parent.spec.n_layers;
    Json config = parent.config;
    bool counted = false;
    for (const auto& [key, value] : parent.config.members()) {
        for (const char* name : layer_count_keys) {
            if (key != name) continue;
            config.set(key, static_cast<std::int64_t>(layers.size()));
            counted = true;
        }
        if (value.is_array() && static_cast<std::int64_t>(value.size()) == n_before) {
            Json::Array kept;
            for (const std::int64_t layer : layers) kept.push_back(value.items()[static_cast<std::size_t>(layer)]);
            config.set(key, std::move(kept));
        }
        if (key == "per_layer_config" && value.is_object()) {
            Json renamed = Json::object();
            for (std::size_t i = 0; i < layers.size(); ++i)
                if (const Json* own = value.find(std::to_string(layers[i]))) renamed.set(std::to_string(i), *own);
            config.set(key, std::move(renamed));
        }
    }
    if (!counted) return unsupported("the config of " + parent.name + " does not say its number of layers under a known name, so they cannot be selected");
    return config;
}

}  // namespace

Result<std::vector<std::int64_t>> parse_layers(std::string_view text, std::int64_t n_layers) {
    std::vector<std::int64_t> layers;
    const auto wrong = [&](const std::string& why) {
        return usage_error("layers \"" + std::string(text) + "\": " + why + "; expected numbers below " + std::to_string(n_layers) + " with commas (0,2,4), every-other or first-N");
    };
    if (text == "every-other") {
        for (std::int64_t layer = 0; layer < n_layers; layer += 2) layers.push_back(layer);
        return layers;
    }
    const bool first = text.starts_with("first-");
    std::string_view rest = first ? text.substr(6) : text;
    while (true) {
        std::int64_t number = 0;
        const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), number);
        if (error != std::errc()) return wrong("not a number");
        rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
        layers.push_back(number);
        if (rest.empty()) break;
        if (rest[0] != ',' || first) return wrong("not a list");
        rest.remove_prefix(1);
    }
    if (first) {
        const std::int64_t n = layers[0];
        if (n < 1 || n > n_layers) return wrong("there are " + std::to_string(n_layers) + " layers");
        layers.clear();
        for (std::int64_t layer = 0; layer < n; ++layer) layers.push_back(layer);
    }
    for (std::size_t i = 0; i < layers.size(); ++i) {
        if (layers[i] < 0 || layers[i] >= n_layers) return wrong("there are " + std::to_string(n_layers) + " layers");
        if (i > 0 && layers[i] <= layers[i - 1]) return wrong("must ascend");
    }
    return layers;
}

Result<Checkpoint> select_layers(const Checkpoint& parent, const std::vector<std::int64_t>& layers) {
    if (parent.kind == Checkpoint::Kind::gguf) return unsupported("layers are selected from a model folder, not from a GGUF file: the result needs a config.json");
    if (parent.config.contains(shared_layers_key)) {  // layers that stay may have to part
        SKIFF_TRY(const auto copied, without_sharing(parent));
        return select_layers(copied, layers);
    }
    Checkpoint child = parent;
    SKIFF_TRY(child.config, selected_config(parent, layers));
    auto spec = build_spec(child.config);
    if (!spec.ok()) return spec.take_error().with_context("layers of " + parent.name);
    child.spec = std::move(*spec);

    // Blocks of one kind list their tensors in one order.
    std::map<std::string, std::string> old_names;
    const std::size_t n_blocks = child.spec.blocks.size();
    for (std::size_t i = 0; i < n_blocks; ++i) {
        const bool decoder = i > 0 && i + 1 < n_blocks;
        const std::size_t old = decoder ? static_cast<std::size_t>(layers[i - 1]) + 1 : i == 0 ? 0 : parent.spec.blocks.size() - 1;
        const auto ours = tensor_keys(child.spec.blocks[i]), theirs = tensor_keys(parent.spec.blocks[old]);
        if (ours.size() != theirs.size()) return unsupported("block " + std::to_string(old) + " of " + parent.name + " has terms or a kind that its config alone does not give its new place");
        for (std::size_t j = 0; j < ours.size(); ++j) {
            old_names[ours[j]] = theirs[j];
            const auto &a = child.spec.tensors.at(ours[j]), &b = parent.spec.tensors.at(theirs[j]);
            if (child.spec.shape(a) != parent.spec.shape(b)) return unsupported("tensor " + theirs[j] + " has another shape than " + ours[j] + " would have; the blocks of " + parent.name + " differ");
        }
    }
    child.weights = std::make_shared<RenamedWeights>(parent.weights, std::move(old_names));
    child.name = parent.name + "-" + std::to_string(layers.size()) + "-layers";
    return child;
}

}  // namespace skiff
