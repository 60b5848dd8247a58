// Merging neighbouring symbols by rank: the inner loop of every byte-pair encoding.
#pragma once

#include <cstdint>
#include <vector>

#include "text/flat_map.h"

namespace skiff {

struct Merge {
    std::int32_t left = 0, right = 0, joined = 0;
    std::uint32_t rank = 0;
};

class MergeTable {
public:
    void reserve(std::size_t n) {
        merges_.reserve(n);
        index_.reserve(n);
    }
    // The first merge of a pair stays; false if the pair was there.
    bool add(const Merge& merge) {
        if (!index_.insert(key(merge.left, merge.right), static_cast<std::uint32_t>(merges_.size()))) return false;
        merges_.push_back(merge);
        return true;
    }
    const Merge* find(std::int32_t left, std::int32_t right) const {
        if (left < 0 || right < 0) return nullptr;
        const std::uint32_t at = index_.find(key(left, right));
        return at == FlatMap::absent ? nullptr : &merges_[at];
    }
    std::size_t index_of(const Merge* merge) const { return static_cast<std::size_t>(merge - merges_.data()); }
    const Merge& at(std::size_t index) const { return merges_[index]; }

    // Merges `symbols` in place until no merge applies. Symbols below 0 never merge. Short inputs by scanning, long ones with a heap.
    void apply(std::vector<std::int32_t>& symbols) const;

private:
    static std::uint64_t key(std::int32_t left, std::int32_t right) {
        return (std::uint64_t{static_cast<std::uint32_t>(left)} << 32) | static_cast<std::uint32_t>(right);
    }
    void apply_by_scan(std::vector<std::int32_t>& symbols) const;
    void apply_by_heap(std::vector<std::int32_t>& symbols) const;
    std::vector<Merge> merges_;
    FlatMap index_;
};

}  // namespace skiff
