#include "compress/search/scheme_units.h"

#include <algorithm>
#include <map>
#include <set>

#include "model/scheme_choice.h"

namespace skiff {
namespace {

// "model.layers.0.mlp.experts.3.w1.weight" with every number but the first replaced: experts look alike, layers do not.
std::string kind_of(const std::string& key) {
    std::string kind;
    int n_numbers = 0;
    for (std::size_t i = 0; i < key.size();) {
        std::size_t end = i;
        while (end < key.size() && key[end] >= '0' && key[end] <= '9') ++end;
        const bool is_number = end > i && (i == 0 || key[i - 1] == '.') && (end == key.size() || key[end] == '.');
        if (is_number && n_numbers++ > 0) kind += '#';
        else kind += key.substr(i, std::max<std::size_t>(1, end - i));
        i = std::max(i + 1, end);
    }
    return kind;
}

// "q_proj" of "model.layers.0.self_attn.q_proj.weight".
std::string short_name(const std::string& key) {
    std::string name = key.ends_with(".weight") ? key.substr(0, key.size() - 7) : key;
    const std::size_t dot = name.rfind('.');
    return dot == std::string::npos ? name : name.substr(dot + 1);
}

std::string name_of(const Block& block, const std::vector<std::string>& keys) {
    std::string name = block.name + ":";
    std::set<std::string> said;
    for (const std::string& key : keys) {
        const std::string part = short_name(key);
        if (said.insert(part).second) name += (said.size() > 1 ? " + " : " ") + part;
    }
    return name;
}

}  // namespace

std::vector<SchemeUnit> scheme_units(const ModelSpec& spec, SchemeTarget::Unit unit) {
    const auto uses = tensor_uses(spec);
    std::vector<SchemeUnit> units;
    std::set<std::string> taken;
    for (std::size_t b = 0; b < spec.blocks.size(); ++b) {
        const std::size_t first = units.size();
        std::map<ValueId, std::size_t> by_input;
        auto add = [&](const std::string& key, ValueId input) {
            const auto use = uses.find(key);
            if (use == uses.end() || use->second == TensorUse::other || use->second == TensorUse::router || use->second == TensorUse::positions) return;
            if (!taken.insert(key).second) return;
            std::size_t place = units.size();
            for (std::size_t u = first; u < units.size() && unit == SchemeTarget::Unit::shared_input; ++u)
                for (const std::string& other : units[u].keys)
                    if (other != key && kind_of(other) == kind_of(key)) place = u;
            if (const auto shared = by_input.find(input); unit == SchemeTarget::Unit::shared_input && input != no_value && shared != by_input.end()) place = shared->second;
            if (place == units.size()) units.push_back({{}, {}, b});
            if (input != no_value) by_input.emplace(input, place);
            units[place].keys.push_back(key);
        };
        for (const Op& op : spec.blocks[b].ops) {
            if (const auto* embed = std::get_if<EmbedOp>(&op.detail)) add(embed->table.key, no_value);
            if (const auto* linear = std::get_if<LinearOp>(&op.detail))
                for (const LinearTerm& term : linear->terms) add(term.weight.key, op.in[0]);
        }
        for (std::size_t u = first; u < units.size(); ++u) units[u].name = name_of(spec.blocks[b], units[u].keys);
    }
    return units;
}

}  // namespace skiff
