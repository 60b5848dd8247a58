// The largest entries of a row as wide as a vocabulary, without sorting what nobody asked for: the row is read once, in blocks whose largest entries
// are kept, and afterwards only blocks that can matter are looked into.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "plan/top_logits.h"

namespace skiff {

class RowScan {
public:
    // Reads the row, which has to stay where it is, and returns the first of its largest entries. An error when it holds NaN, or only minus infinity.
    Result<std::int32_t> read(std::span<const float> row);  // (n_vocab)

    // Entries of at least `lowest`, in the order of tokens. `found` is overwritten and keeps its memory, as below.
    void at_least(float lowest, std::vector<ScoredToken>& found) const;
    // The first `limit` of them in the order of comes_before.
    void largest(float lowest, std::size_t limit, std::vector<ScoredToken>& found);

private:
    std::span<const float> row_;
    std::vector<float> block_largest_, sorted_;
};

}  // namespace skiff
