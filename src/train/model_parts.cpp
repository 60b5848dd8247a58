#include "train/model_parts.h"

#include <algorithm>

#include "model/axes.h"

namespace skiff::train {

std::set<std::string> keys_read_by(const Block& block) {
    std::set<std::string> keys;
    for (Op op : block.ops) for_each_tensor_ref(op, [&](const TensorRef& ref) { keys.insert(ref.key); });
    return keys;
}

std::set<std::string> keys_outside_blocks(const ModelSpec& whole) {
    std::set<std::string> keys;
    for (const auto& [key, declared] : whole.tensors) keys.insert(key);
    for (std::size_t block = 1; block + 1 < whole.blocks.size(); ++block)
        for (const std::string& key : keys_read_by(whole.blocks[block])) keys.erase(key);
    return keys;
}

ModelSpec part_of(const ModelSpec& whole, const std::vector<std::int64_t>& blocks, std::set<std::string> keys) {
    ModelSpec part = whole;
    part.blocks = {whole.blocks.front()};
    for (std::int64_t block : blocks) part.blocks.push_back(whole.blocks[static_cast<std::size_t>(block) + 1]);
    part.blocks.push_back(whole.blocks.back());
    part.n_layers = static_cast<std::int64_t>(blocks.size());
    std::erase_if(part.tensors, [&](const auto& entry) { return keys.count(entry.first) == 0; });
    return part;
}

ModelSpec embedding_part(const ModelSpec& whole) { return part_of(whole, {0}, keys_read_by(whole.blocks.front())); }
ModelSpec head_part(const ModelSpec& whole) { return part_of(whole, {0}, keys_read_by(whole.blocks.back())); }

ModelSpec decoder_part(const ModelSpec& whole, const std::vector<std::int64_t>& blocks) {
    std::set<std::string> keys;
    for (std::int64_t block : blocks) keys.merge(keys_read_by(whole.blocks[static_cast<std::size_t>(block) + 1]));
    return part_of(whole, blocks, std::move(keys));
}

std::vector<std::vector<std::int64_t>> blocks_by_shared_tensors(const ModelSpec& whole) {
    struct Group {
        std::vector<std::int64_t> blocks;
        std::set<std::string> keys;
    };
    std::vector<Group> groups;
    for (std::size_t block = 1; block + 1 < whole.blocks.size(); ++block) {
        Group joined{{}, keys_read_by(whole.blocks[block])};
        const auto shares = [&](const Group& group) { return std::any_of(group.keys.begin(), group.keys.end(), [&](const std::string& key) { return joined.keys.count(key) != 0; }); };
        // Several groups may become one by this block.
        std::vector<Group> others;
        for (Group& group : groups) {
            if (!shares(group)) {
                others.push_back(std::move(group));
                continue;
            }
            joined.blocks.insert(joined.blocks.end(), group.blocks.begin(), group.blocks.end());
            joined.keys.merge(group.keys);
        }
        joined.blocks.push_back(static_cast<std::int64_t>(block) - 1);
        std::sort(joined.blocks.begin(), joined.blocks.end());
        others.push_back(std::move(joined));
        groups = std::move(others);
    }
    std::vector<std::vector<std::int64_t>> result;
    for (Group& group : groups) result.push_back(std::move(group.blocks));
    return result;
}

}  // namespace skiff::train
