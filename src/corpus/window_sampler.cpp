#include "corpus/window_sampler.h"

#include <algorithm>
#include <bit>
#include <string>

#include "base/rng.h"

namespace skiff {
namespace {

// One well mixed word from several.
std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
    std::uint64_t state = a;
    state = splitmix64(state) ^ b;
    return splitmix64(state);
}

constexpr int n_rounds = 6;

}  // namespace

std::uint64_t permute_index(std::uint64_t index, std::uint64_t n, std::uint64_t key) {
    const int half_bits = std::max(1, (static_cast<int>(std::bit_width(n - 1)) + 1) / 2);  // 32 at most
    const std::uint64_t mask = (std::uint64_t{1} << half_bits) - 1;
    // The walk stays within one cycle of a permutation and its start is below n, so it comes back below n; 4 steps on average at most.
    do {
        std::uint64_t left = index >> half_bits, right = index & mask;
        for (int round = 0; round < n_rounds; ++round) {
            const std::uint64_t next = left ^ (mix(key + static_cast<std::uint64_t>(round), right) & mask);
            left = right;
            right = next;
        }
        index = left << half_bits | right;
    } while (index >= n);
    return index;
}

Result<WindowSampler> WindowSampler::create(std::uint64_t n_tokens, std::int64_t window, std::uint64_t seed) {
    if (window < 1) return usage_error("a window of " + std::to_string(window) + " tokens; at least 1 is needed");
    if (n_tokens <= static_cast<std::uint64_t>(window)) {
        return usage_error("a window of " + std::to_string(window) + " tokens reads " + std::to_string(window) + " + 1, but the text has only " +
                           std::to_string(n_tokens) + "; choose a shorter window or a longer text");
    }
    return WindowSampler(n_tokens, window, seed);
}

WindowSampler::WindowSampler(std::uint64_t n_tokens, std::int64_t window, std::uint64_t seed) : window_(static_cast<std::uint64_t>(window)), seed_(seed) {
    const std::uint64_t n_targets = n_tokens - 1;
    // So many windows fit from every offset below one window; a text of less than two windows has one window and fewer offsets.
    windows_per_epoch_ = std::max<std::uint64_t>(1, (n_targets - (window_ - 1)) / window_);
    n_offsets_ = std::min(window_, n_targets - windows_per_epoch_ * window_ + 1);
}

std::uint64_t WindowSampler::first_token(std::uint64_t index) {
    const std::uint64_t epoch = index / windows_per_epoch_;
    const std::uint64_t key = mix(seed_, epoch);
    const std::uint64_t offset = Rng(key).below(n_offsets_);
    return offset + permute_index(index % windows_per_epoch_, windows_per_epoch_, key) * window_;
}

}  // namespace skiff
