#include "compress/search/scheme_ladder.h"

#include <algorithm>
#include <set>

#include "compress/method.h"

namespace skiff {
namespace {

template <class Is>
bool has_weight(const Checkpoint& model, Is is) {
    for (const auto& [key, use] : tensor_uses(model.spec)) {
        if (use != TensorUse::linear || !model.weights->contains(key)) continue;
        const auto weight = model.weights->load(key);
        if (weight.ok() && is(*weight)) return true;
    }
    return false;
}

bool has_hashed_weights(const Checkpoint& model) {
    return has_weight(model, [](const Weight& weight) { return weight.hashed() != nullptr; });
}

bool has_pruned_weights(const Checkpoint& model) {
    return has_weight(model, [](const Weight& weight) { return weight.sparse() != nullptr; });
}

}  // namespace

Result<SchemeLadder> SchemeLadder::create(const Checkpoint& parent, const QuantizeStep& step, const std::string& method, ThreadPool& pool, const ProgressSink& progress) {
    SchemeLadder ladder;
    std::vector<std::string> names = step.target->ladder;
    if (names.empty()) names = step.loadable == QuantizeStep::Loadable::elsewhere ? default_public_ladder() : default_ladder();
    std::set<std::string> seen;
    for (const std::string& name : names) {
        Level level;
        level.name = name;
        SKIFF_TRY(level.scheme, parse_scheme(name));
        if (!seen.insert(level.scheme.name()).second) return usage_error("the ladder holds " + name + " twice");
        QuantizeStep mine = step;
        mine.method = method;
        mine.target.reset();
        mine.transforms.clear();  // they look at whole blocks, not at one unit
        mine.schemes = {level.scheme, level.scheme, level.scheme, step.schemes.rules};
        level.step = std::make_unique<RecipeStep>(std::move(mine));
        SKIFF_TRY(level.work, make_step_work(parent, *level.step));
        auto plan = level.work->plan(pool, progress);
        if (!plan.ok()) {
            Error error = plan.take_error();
            if (step.target->ladder.empty() && has_pruned_weights(parent)) error.message += "; of pruned weights take --ladder w2g32r,w3g32r,w4g32r,w5g32r,w6g32r,w8";
            if (step.target->ladder.empty() && has_hashed_weights(parent)) error.message += "; of hashed weights take --ladder w2g32,w3g32,w4g32,w8g32";
            return std::move(error).with_context("with " + name + " of the ladder");
        }
        level.plan = std::move(*plan);
        ladder.levels_.push_back(std::move(level));
    }
    if (ladder.levels_.size() < 2) return usage_error("a ladder needs at least two schemes to choose from");
    std::sort(ladder.levels_.begin(), ladder.levels_.end(), [](const Level& a, const Level& b) { return a.plan.bytes_after < b.plan.bytes_after; });
    for (Level& level : ladder.levels_)
        for (const PlannedTensor& tensor : level.plan.tensors) level.tensors[tensor.key] = &tensor;

    const auto uses = tensor_uses(parent.spec);
    for (SchemeUnit& unit : scheme_units(parent.spec, step.target->unit)) {
        std::erase_if(unit.keys, [&](const std::string& key) {
            if (rule_for(step.schemes, key, uses.at(key)) != nullptr) return true;
            return std::all_of(ladder.levels_.begin(), ladder.levels_.end(), [&](const Level& level) {
                const auto found = level.tensors.find(key);
                return found == level.tensors.end() || !found->second->scheme;  // stays as it is whatever is asked for
            });
        });
        if (!unit.keys.empty()) ladder.units_.push_back(std::move(unit));
    }
    if (ladder.units_.empty()) return usage_error("no tensor is left to choose a scheme for: rules name all of them");
    return ladder;
}

std::uint64_t SchemeLadder::bytes(std::size_t unit, std::size_t level) const {
    std::uint64_t bytes = 0;
    for (const std::string& key : units_[unit].keys) bytes += levels_[level].tensors.at(key)->bytes_after;
    return bytes;
}

std::uint64_t SchemeLadder::n_elements(std::size_t unit) const {
    std::uint64_t n = 0;
    for (const std::string& key : units_[unit].keys) n += levels_[0].tensors.at(key)->n_elements;
    return n;
}

std::uint64_t SchemeLadder::fixed_bytes() const {
    std::uint64_t bytes = levels_[0].plan.bytes_after;
    for (std::size_t unit = 0; unit < units_.size(); ++unit) bytes -= this->bytes(unit, 0);
    return bytes;
}

Result<std::uint64_t> SchemeLadder::file_bytes(std::span<const std::size_t> chosen, std::uint64_t max_shard_bytes) const {
    std::map<std::string, std::size_t> level_of;
    for (std::size_t unit = 0; unit < units_.size(); ++unit)
        for (const std::string& key : units_[unit].keys) level_of[key] = chosen[unit];
    std::vector<TensorDeclaration> declarations;
    for (const PlannedTensor& tensor : levels_[0].plan.tensors) {
        const auto found = level_of.find(tensor.key);
        const PlannedTensor& planned = found == level_of.end() ? tensor : *levels_[found->second].tensors.at(tensor.key);
        declarations.insert(declarations.end(), planned.declarations.begin(), planned.declarations.end());
    }
    SKIFF_TRY(const auto shards, assign_shards("", std::move(declarations), max_shard_bytes));
    std::uint64_t bytes = 0;
    for (const ShardDeclaration& shard : shards) {
        SKIFF_TRY(const auto head, safetensors_head(shard.file_name, shard.tensors));
        bytes += head.file_size_bytes();
    }
    return bytes;
}

Result<Weight> SchemeLadder::make(const std::string& key, std::size_t level, const WeightSource& weights, const InputStatistics* inputs, ThreadPool& pool) const {
    std::vector<std::string> remarks;  // the step's own run says them
    SKIFF_TRY(auto made, levels_[level].work->make(*levels_[level].tensors.at(key), weights, inputs, pool, remarks));
    return std::move(made.effective);
}

}  // namespace skiff
