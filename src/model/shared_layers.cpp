#include "model/shared_layers.h"

#include <algorithm>
#include <map>
#include <set>

#include "model/arch/arch.h"
#include "model/axes.h"
#include "model/extra_terms.h"

namespace skiff {
namespace {

std::string text_of(std::span<const std::int64_t> list) {
    std::string text;
    for (const std::int64_t number : list) text += (text.empty() ? "[" : ", ") + std::to_string(number);
    return text + "]";
}

Status check_list(const ModelSpec& spec, std::span<const std::int64_t> weights_of) {
    const std::string what = std::string("config.json: ") + shared_layers_key + " ";
    if (spec.blocks.size() != static_cast<std::size_t>(spec.n_layers) + 2) return unsupported(what + "is for models whose layers are one block each");
    if (static_cast<std::int64_t>(weights_of.size()) != spec.n_layers) return corrupt(what + "has " + std::to_string(weights_of.size()) + " entries for " + std::to_string(spec.n_layers) + " layers");
    for (std::size_t i = 0; i < weights_of.size(); ++i) {
        const bool own = weights_of[i] == static_cast<std::int64_t>(i), as_before = i > 0 && weights_of[i] == weights_of[i - 1];
        if (!own && !as_before) return corrupt(what + text_of(weights_of) + ": layer " + std::to_string(i) + " must use its own weights or those that the layer before it uses");
    }
    return {};
}

// The first part of a dotted name that is a number: its place and length, or npos.
std::pair<std::size_t, std::size_t> layer_number_in(const std::string& key) {
    for (std::size_t begin = 0; begin < key.size();) {
        const std::size_t end = std::min(key.find('.', begin), key.size());
        if (end > begin && end - begin < 10 && std::all_of(key.begin() + static_cast<std::ptrdiff_t>(begin), key.begin() + static_cast<std::ptrdiff_t>(end), [](char c) { return c >= '0' && c <= '9'; })) return {begin, end - begin};
        begin = end + 1;
    }
    return {std::string::npos, 0};
}

// All that a layer's operators refer to.
std::set<std::string> keys_of_block(const Block& block) {
    std::set<std::string> keys;
    for (Op op : block.ops) for_each_tensor_ref(op, [&](const TensorRef& ref) { keys.insert(ref.key); });
    return keys;
}

// The tensors of shared layers under the names that each layer would have.
class CopiedLayers final : public WeightSource {
public:
    CopiedLayers(std::shared_ptr<WeightSource> source, std::vector<std::int64_t> weights_of) : source_(std::move(source)), weights_of_(std::move(weights_of)) {}
    bool contains(const std::string& key) const override { return source_->contains(stored(key)); }
    Result<Weight> load(const std::string& key) const override { return source_->load(stored(key)); }
    std::vector<std::string> keys() const override {
        std::vector<std::string> all;
        for (const std::string& key : source_->keys()) {
            const auto [at, size] = layer_number_in(key);
            all.push_back(key);
            for (std::size_t layer = 0; at != std::string::npos && layer < weights_of_.size(); ++layer)
                if (std::to_string(weights_of_[layer]) == key.substr(at, size) && weights_of_[layer] != static_cast<std::int64_t>(layer)) all.push_back(key_of_layer(key, static_cast<std::int64_t>(layer)));
        }
        return all;
    }
    std::string identity() const override {
        const std::string text = source_->identity();
        return text.empty() ? text : text + " layers " + text_of(weights_of_);
    }

private:
    std::string stored(const std::string& key) const {
        const auto [at, size] = layer_number_in(key);
        const std::size_t layer = at == std::string::npos ? weights_of_.size() : std::stoul(key.substr(at, size));
        return layer < weights_of_.size() ? key_of_layer(key, weights_of_[layer]) : key;
    }
    std::shared_ptr<WeightSource> source_;
    std::vector<std::int64_t> weights_of_;
};

}  // namespace

std::string key_of_layer(const std::string& key, std::int64_t layer) {
    const auto [at, size] = layer_number_in(key);
    return at == std::string::npos ? key : key.substr(0, at) + std::to_string(layer) + key.substr(at + size);
}

Result<std::vector<std::int64_t>> shared_layers(const Json& config) {
    std::vector<std::int64_t> weights_of;
    if (!config.contains(shared_layers_key)) return weights_of;
    if (!config[shared_layers_key].is_array()) return corrupt(std::string("config.json: ") + shared_layers_key + " must be a list with a number for each layer");
    for (const Json& item : config[shared_layers_key].items()) {
        SKIFF_TRY(const auto layer, item.as_int(std::string("config.json: an entry of ") + shared_layers_key));
        weights_of.push_back(layer);
    }
    return weights_of;
}

bool may_share(const ModelSpec& spec, std::int64_t layer, std::int64_t other) {
    const Block &a = spec.blocks[static_cast<std::size_t>(layer) + 1], &b = spec.blocks[static_cast<std::size_t>(other) + 1];
    if (a.ops.size() != b.ops.size()) return false;
    for (std::size_t i = 0; i < a.ops.size(); ++i) {
        if (a.ops[i].detail.index() != b.ops[i].detail.index()) return false;
        std::vector<TensorRef> mine, theirs;
        for (const auto& [op, refs] : {std::pair{a.ops[i], &mine}, std::pair{b.ops[i], &theirs}}) {
            Op copy = op;
            for_each_tensor_ref(copy, [refs = refs](const TensorRef& ref) { refs->push_back(ref); });
        }
        if (mine.size() != theirs.size()) return false;
        for (std::size_t k = 0; k < mine.size(); ++k) {
            if (key_of_layer(mine[k].key, other) != theirs[k].key || !(mine[k].rows == theirs[k].rows) || mine[k].transposed != theirs[k].transposed) return false;
            if (spec.shape(spec.tensors.at(mine[k].key)) != spec.shape(spec.tensors.at(theirs[k].key))) return false;
        }
    }
    return true;
}

Status share_layers(ModelSpec& spec, std::span<const std::int64_t> weights_of) {
    SKIFF_CHECK(check_list(spec, weights_of));
    for (std::size_t layer = 0; layer < weights_of.size(); ++layer)
        if (!may_share(spec, static_cast<std::int64_t>(layer), weights_of[layer]))
            return unsupported("layers " + std::to_string(weights_of[layer]) + " and " + std::to_string(layer) + " differ in their operators or in the shapes of their tensors, so they cannot share them");
    // Axes that belong to a layer become those of the layer whose tensors it uses: what cuts one cuts all that use them.
    std::map<std::string, std::string> axes;
    for (std::size_t layer = 0; layer < weights_of.size(); ++layer) {
        if (weights_of[layer] == static_cast<std::int64_t>(layer)) continue;
        Block& block = spec.blocks[layer + 1];
        for (const std::string& key : keys_of_block(block)) {
            const std::vector<Dimension> mine = spec.tensors.at(key).dimensions, theirs = spec.tensors.at(key_of_layer(key, weights_of[layer])).dimensions;
            for (std::size_t d = 0; d < mine.size() && d < theirs.size(); ++d)
                for (std::size_t p = 0; p < mine[d].size() && p < theirs[d].size(); ++p)
                    if (mine[d][p].axis != theirs[d][p].axis) axes.emplace(mine[d][p].axis, theirs[d][p].axis);
            spec.tensors.erase(key);
        }
        for (Op& op : block.ops) for_each_tensor_ref(op, [&](TensorRef& ref) { ref.key = key_of_layer(ref.key, weights_of[layer]); });
    }
    for (Value& value : spec.values)
        for (AxisPart& part : value.dimension)
            if (const auto found = axes.find(part.axis); found != axes.end()) part.axis = found->second;
    std::erase_if(spec.axes, [&](const Axis& axis) { return axes.count(axis.name) != 0; });
    return {};
}

Result<Checkpoint> without_sharing(const Checkpoint& checkpoint) {
    if (!checkpoint.config.contains(shared_layers_key)) return checkpoint;
    SKIFF_TRY(auto weights_of, shared_layers(checkpoint.config));
    Checkpoint copied = checkpoint;
    copied.config.erase(shared_layers_key);
    SKIFF_TRY(copied.spec, build_spec(copied.config));
    copied.weights = std::make_shared<CopiedLayers>(checkpoint.weights, std::move(weights_of));
    SKIFF_CHECK(attach_extra_terms(copied.spec, *copied.weights));
    return copied;
}

}  // namespace skiff
