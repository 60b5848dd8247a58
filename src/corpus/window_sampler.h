// Which windows of a token file a training step sees.
#pragma once

#include <cstdint>

#include "base/result.h"

namespace skiff {

// A function of (seed, index) alone, so that a resumed run goes on with what the first would have seen. An epoch is all windows of the file once, side
// by side from a random offset below one window, in a random order; the tokens that do not fill a window at either end are left to other epochs.
// Nothing is stored: the order is a keyed permutation of the numbers of the windows, so a file of any size costs the same few words.
class WindowSampler {
public:
    // A window reads window + 1 tokens: its inputs and, one further, its targets. An error if the file has fewer.
    static Result<WindowSampler> create(std::uint64_t n_tokens, std::int64_t window, std::uint64_t seed);
    // The same where it is known that window >= 1 and n_tokens > window.
    WindowSampler(std::uint64_t n_tokens, std::int64_t window, std::uint64_t seed);

    std::uint64_t windows_per_epoch() const { return windows_per_epoch_; }  // the same in every epoch
    std::uint64_t first_token(std::uint64_t index);                         // index counts windows since the beginning of training

private:
    std::uint64_t window_, seed_;
    std::uint64_t windows_per_epoch_ = 1;
    std::uint64_t n_offsets_ = 1;  // the offset of an epoch is below this
};

// A permutation of 0 .. n - 1 that is computed, not stored: a Feistel network over the next even number of bits, walked until it lands below n
// (Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002, method 2). Precondition: index < n.
std::uint64_t permute_index(std::uint64_t index, std::uint64_t n, std::uint64_t key);

}  // namespace skiff
