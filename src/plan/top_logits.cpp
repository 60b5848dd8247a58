// Compiled with -O3, so that the loops over blocks become vector code.
#include "plan/top_logits.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace skiff {

Error nan_in_logits(std::int64_t token) { return runtime_error("the logits hold NaN (token " + std::to_string(token) + "): the weights or the state are damaged"); }
Error no_finite_logits() { return runtime_error("the logits are not finite: the weights or the state are damaged"); }

void TopList::begin(std::int64_t limit) {
    limit_ = static_cast<std::size_t>(limit);
    above_ = -std::numeric_limits<float>::infinity();
    first_nan_ = -1;
    found_.clear();
    found_.reserve(2 * limit_ + logit_block);
}

// Equal scores keep their first tokens, since later ones never come before them; so what is as large as the last of the list may go.
void TopList::shrink() {
    std::nth_element(found_.begin(), found_.begin() + static_cast<std::ptrdiff_t>(limit_ - 1), found_.end(), comes_before);
    found_.resize(limit_);
    above_ = found_[limit_ - 1].score;
}

void TopList::add(std::int32_t first_token, std::span<const float> scores) {
    const auto look = [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i)
            if (scores[i] > above_) found_.push_back({first_token + static_cast<std::int32_t>(i), scores[i]});
        if (found_.size() >= 2 * limit_) shrink();
    };
    const auto note_nan = [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end && first_nan_ < 0; ++i)
            if (std::isnan(scores[i])) first_nan_ = first_token + static_cast<std::int32_t>(i);
    };
    std::size_t i = 0;
    for (; i + logit_block <= scores.size(); i += logit_block) {
        const float* block = scores.data() + i;
        if (block_has_nan(block)) note_nan(i, i + logit_block);
        if (largest_of_block(block) > above_) look(i, i + logit_block);
    }
    note_nan(i, scores.size());
    look(i, scores.size());
}

Result<std::vector<ScoredToken>> merge_top(std::span<const TopList* const> lists, std::int64_t limit) {
    std::vector<ScoredToken> all;
    std::int32_t nan = -1;
    for (const TopList* list : lists) {
        if (list->first_nan() >= 0 && (nan < 0 || list->first_nan() < nan)) nan = list->first_nan();
        all.insert(all.end(), list->found().begin(), list->found().end());
    }
    if (nan >= 0) return nan_in_logits(nan);
    std::sort(all.begin(), all.end(), comes_before);
    if (all.size() > static_cast<std::size_t>(limit)) all.resize(static_cast<std::size_t>(limit));
    if (all.empty() || std::isinf(all[0].score)) return no_finite_logits();
    return all;
}

}  // namespace skiff
