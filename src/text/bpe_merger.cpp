#include "text/bpe_merger.h"

#include <algorithm>

namespace skiff {
namespace {

constexpr std::size_t scan_limit = 32;  // up to here a scan per merge beats a heap
constexpr std::uint32_t none = 0xFFFFFFFF;

struct Candidate {
    std::uint64_t order;  // rank, then position: the smallest goes first
    std::uint32_t merge;  // index in the table
    friend bool operator<(const Candidate& a, const Candidate& b) { return a.order > b.order; }
};

}  // namespace

void MergeTable::apply(std::vector<std::int32_t>& symbols) const {
    if (symbols.size() < 2) return;
    if (symbols.size() <= scan_limit) {
        apply_by_scan(symbols);
    } else {
        apply_by_heap(symbols);
    }
}

void MergeTable::apply_by_scan(std::vector<std::int32_t>& symbols) const {
    const Merge* pair[scan_limit];
    std::size_t n = symbols.size();
    for (std::size_t i = 0; i + 1 < n; ++i) pair[i] = find(symbols[i], symbols[i + 1]);
    for (;;) {
        std::size_t best = n;
        for (std::size_t i = 0; i + 1 < n; ++i) {
            if (pair[i] && (best == n || pair[i]->rank < pair[best]->rank)) best = i;
        }
        if (best == n) break;
        symbols[best] = pair[best]->joined;
        for (std::size_t i = best + 1; i + 1 < n; ++i) {
            symbols[i] = symbols[i + 1];
            pair[i] = i + 2 < n ? pair[i + 1] : nullptr;
        }
        --n;
        if (best > 0) pair[best - 1] = find(symbols[best - 1], symbols[best]);
        if (best + 1 < n) pair[best] = find(symbols[best], symbols[best + 1]);
    }
    symbols.resize(n);
}

void MergeTable::apply_by_heap(std::vector<std::int32_t>& symbols) const {
    const auto n = static_cast<std::uint32_t>(symbols.size());
    std::vector<std::uint32_t> previous(n), next(n);
    std::vector<Candidate> heap;
    auto consider = [&](std::uint32_t at, std::uint32_t after) {
        const Merge* merge = find(symbols[at], symbols[after]);
        if (!merge) return false;
        heap.push_back({(std::uint64_t{merge->rank} << 32) | at, static_cast<std::uint32_t>(index_of(merge))});
        return true;
    };
    for (std::uint32_t i = 0; i < n; ++i) {
        previous[i] = i == 0 ? none : i - 1;
        next[i] = i + 1 == n ? none : i + 1;
        if (i + 1 < n) consider(i, i + 1);
    }
    std::make_heap(heap.begin(), heap.end());
    constexpr std::int32_t gone = INT32_MIN;
    while (!heap.empty()) {
        std::pop_heap(heap.begin(), heap.end());
        const Candidate candidate = heap.back();
        heap.pop_back();
        const Merge& merge = merges_[candidate.merge];
        const auto at = static_cast<std::uint32_t>(candidate.order);
        const std::uint32_t after = next[at];
        // An entry is stale when one of its two symbols has changed since.
        if (symbols[at] != merge.left || after == none || symbols[after] != merge.right) continue;
        symbols[at] = merge.joined;
        symbols[after] = gone;
        next[at] = next[after];
        if (next[at] != none) previous[next[at]] = at;
        if (previous[at] != none && consider(previous[at], at)) std::push_heap(heap.begin(), heap.end());
        if (next[at] != none && consider(at, next[at])) std::push_heap(heap.begin(), heap.end());
    }
    symbols.erase(std::remove(symbols.begin(), symbols.end(), gone), symbols.end());
}

}  // namespace skiff
