// The largest entries of a row as wide as a vocabulary, read once and front to back, without sorting what nobody asked for.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"

namespace skiff {

struct ScoredToken {
    std::int32_t token;
    float score;
};

// The first of the largest. An error when the row holds NaN, or only minus infinity.
Result<std::int32_t> argmax_token(std::span<const float> logits);  // (n_vocab)

// Entries of at least `lowest`, the largest `limit` of them, in falling order; equal ones in the order of their tokens. `found` is overwritten
// and keeps its memory.
void find_largest(std::span<const float> logits, float lowest, std::size_t limit, std::vector<ScoredToken>& found);  // (n_vocab)

}  // namespace skiff
