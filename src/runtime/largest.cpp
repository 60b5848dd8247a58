// Compiled with -O3, so that the loops over blocks become vector code.
#include "runtime/largest.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace skiff {
namespace {

constexpr std::size_t block = logit_block;
constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

}  // namespace

Result<std::int32_t> RowScan::read(std::span<const float> row) {
    row_ = row;
    block_largest_.resize((row.size() + block - 1) / block);
    bool has_nan = false;
    std::size_t i = 0, b = 0;
    for (; i + block <= row.size(); i += block, ++b) {
        has_nan |= block_has_nan(row.data() + i);
        block_largest_[b] = largest_of_block(row.data() + i);
    }
    if (i < row.size()) {
        block_largest_[b] = minus_infinity;
        for (; i < row.size(); ++i) {
            has_nan |= std::isnan(row[i]);
            block_largest_[b] = std::max(block_largest_[b], row[i]);
        }
    }
    if (has_nan) {
        const auto where = std::find_if(row.begin(), row.end(), [](float value) { return std::isnan(value); }) - row.begin();
        return nan_in_logits(where);
    }
    const auto best = std::max_element(block_largest_.begin(), block_largest_.end());  // the first of the largest
    if (best == block_largest_.end() || std::isinf(*best)) return no_finite_logits();
    auto token = static_cast<std::size_t>(best - block_largest_.begin()) * block;
    while (row[token] != *best) ++token;
    return static_cast<std::int32_t>(token);
}

void RowScan::at_least(float lowest, std::vector<ScoredToken>& found) const {
    found.clear();
    for (std::size_t b = 0; b < block_largest_.size(); ++b) {
        if (block_largest_[b] < lowest) continue;
        for (std::size_t i = b * block; i < std::min((b + 1) * block, row_.size()); ++i)
            if (row_[i] >= lowest) found.push_back({static_cast<std::int32_t>(i), row_[i]});
    }
}

void RowScan::largest(float lowest, std::size_t limit, std::vector<ScoredToken>& found) {
    // `limit` blocks have a largest entry of at least the limit-th of these, so as many entries are that large.
    if (limit > 0 && limit <= block_largest_.size()) {
        sorted_.assign(block_largest_.begin(), block_largest_.end());
        std::nth_element(sorted_.begin(), sorted_.begin() + static_cast<std::ptrdiff_t>(limit - 1), sorted_.end(), std::greater<>());
        lowest = std::max(lowest, sorted_[limit - 1]);
    }
    at_least(lowest, found);
    if (found.size() > limit) {
        std::nth_element(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(limit), found.end(), comes_before);
        found.resize(limit);
    }
    std::sort(found.begin(), found.end(), comes_before);
}

}  // namespace skiff
