// A trie over byte strings, for longest and all-prefix matches at a place in a text.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "text/flat_map.h"

namespace skiff {

class ByteTrie {
public:
    static constexpr std::uint32_t root = 0;

    // Keeps the first value of a key. Empty keys are ignored.
    void insert(std::string_view key, std::uint32_t value) {
        if (key.empty()) return;
        std::uint32_t node = root;
        for (char c : key) {
            const auto next = static_cast<std::uint32_t>(values_.size());
            if (edges_.insert(edge(node, c), next)) {
                values_.push_back(FlatMap::absent);
                node = next;
            } else {
                node = edges_.find(edge(node, c));
            }
        }
        if (values_[node] == FlatMap::absent) values_[node] = value;
        starts_[static_cast<unsigned char>(key[0])] = true;
    }
    bool empty() const { return values_.size() == 1; }
    bool may_start(char c) const { return starts_[static_cast<unsigned char>(c)]; }

    // The child of `node` by `c`, FlatMap::absent if there is none.
    std::uint32_t step(std::uint32_t node, char c) const { return edges_.find(edge(node, c)); }
    std::uint32_t value(std::uint32_t node) const { return values_[node]; }  // FlatMap::absent: no key ends here

    // The node that a key leads to, FlatMap::absent if no key has this prefix.
    std::uint32_t walk(std::string_view prefix) const {
        std::uint32_t node = root;
        for (char c : prefix) {
            node = step(node, c);
            if (node == FlatMap::absent) break;
        }
        return node;
    }

    struct Match {
        std::size_t n_bytes = 0;  // 0: none
        std::uint32_t value = FlatMap::absent;
    };
    Match longest(std::string_view text, std::uint32_t from = root) const {
        Match best;
        if (from == root && (text.empty() || !may_start(text[0]))) return best;
        std::uint32_t node = from;
        for (std::size_t i = 0; i < text.size(); ++i) {
            node = step(node, text[i]);
            if (node == FlatMap::absent) break;
            if (values_[node] != FlatMap::absent) best = {i + 1, values_[node]};
        }
        return best;
    }

private:
    static std::uint64_t edge(std::uint32_t node, char c) { return (std::uint64_t{node} << 8) | static_cast<unsigned char>(c); }
    FlatMap edges_;
    std::vector<std::uint32_t> values_ = {FlatMap::absent};
    std::vector<bool> starts_ = std::vector<bool>(256);
};

}  // namespace skiff
