// Compiled with -O3, so that the loops over blocks become vector code.
#include "runtime/largest.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace skiff {
namespace {

constexpr std::size_t block = 64;

// Eight running maxima, which a compiler keeps in registers. NaN loses every comparison, so the caller looks for it first.
inline float largest_of_block(const float* row) {
    float lanes[8];
    for (int lane = 0; lane < 8; ++lane) lanes[lane] = row[lane];
    for (std::size_t i = 8; i < block; i += 8)
        for (std::size_t lane = 0; lane < 8; ++lane) lanes[lane] = row[i + lane] > lanes[lane] ? row[i + lane] : lanes[lane];
    float largest = lanes[0];
    for (int lane = 1; lane < 8; ++lane) largest = lanes[lane] > largest ? lanes[lane] : largest;
    return largest;
}

inline bool block_has_nan(const float* row) {
    int n = 0;
    for (std::size_t i = 0; i < block; ++i) n += row[i] != row[i] ? 1 : 0;
    return n > 0;
}

bool before(const ScoredToken& a, const ScoredToken& b) { return a.score != b.score ? a.score > b.score : a.token < b.token; }

}  // namespace

Result<std::int32_t> argmax_token(std::span<const float> logits) {
    std::size_t best_block = 0, begin = 0;
    float best = -std::numeric_limits<float>::infinity();
    bool has_nan = false;
    for (; begin + block <= logits.size(); begin += block) {
        const float* row = logits.data() + begin;
        has_nan |= block_has_nan(row);
        const float largest = largest_of_block(row);
        if (largest > best) best = largest, best_block = begin;
    }
    for (std::size_t i = begin; i < logits.size(); ++i) {
        has_nan |= std::isnan(logits[i]);
        if (logits[i] > best) best = logits[i], best_block = i;
    }
    if (has_nan) {
        std::size_t where = 0;
        while (!std::isnan(logits[where])) ++where;
        return runtime_error("the logits hold NaN (token " + std::to_string(where) + "): the weights or the state are damaged");
    }
    if (logits.empty() || std::isinf(best)) return runtime_error("the logits are not finite: the weights or the state are damaged");
    while (logits[best_block] != best) ++best_block;
    return static_cast<std::int32_t>(best_block);
}

void find_largest(std::span<const float> logits, float lowest, std::size_t limit, std::vector<ScoredToken>& found) {
    found.clear();
    if (limit == 0) return;
    // Room for a multiple of what is wanted: when it is full, the largest stay and the smallest of them becomes the threshold, which soon leaves
    // nothing to do for most blocks.
    const std::size_t room = std::max<std::size_t>(256, std::min(limit, logits.size()) * 4);
    bool above = false;  // once `limit` entries are kept, an equal one comes too late
    auto add = [&](std::size_t i) {
        if (!(above ? logits[i] > lowest : logits[i] >= lowest)) return;
        found.push_back({static_cast<std::int32_t>(i), logits[i]});
        if (found.size() < room) return;
        std::nth_element(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(limit - 1), found.end(), before);
        found.resize(limit);
        lowest = found[limit - 1].score;
        above = true;
    };
    std::size_t i = 0;
    for (; i + block <= logits.size(); i += block) {
        if (largest_of_block(logits.data() + i) < lowest) continue;
        for (std::size_t j = i; j < i + block; ++j) add(j);
    }
    for (; i < logits.size(); ++i) add(i);
    if (found.size() > limit) {
        std::nth_element(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(limit - 1), found.end(), before);
        found.resize(limit);
    }
    std::sort(found.begin(), found.end(), before);
}

}  // namespace skiff
