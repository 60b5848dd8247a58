// The largest logits of a token, collected while the head makes them, so that a row as wide as the vocabulary need not be written and read again.
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
// Falling scores; equal ones in the order of their tokens.
inline bool comes_before(const ScoredToken& a, const ScoredToken& b) { return a.score != b.score ? a.score > b.score : a.token < b.token; }

// The largest of one token's logits that a thread has seen.
class TopList {
public:
    void begin(std::int64_t limit);
    // Logits of first_token and those behind it; tokens rise from call to call.
    void add(std::int32_t first_token, std::span<const float> scores);
    std::span<const ScoredToken> found() const { return found_; }  // in no order; the `limit` largest are among them
    std::int32_t first_nan() const { return first_nan_; }          // -1: none

private:
    void shrink();
    std::size_t limit_ = 0;
    float above_ = 0;  // a score must be larger to matter
    std::int32_t first_nan_ = -1;
    std::vector<ScoredToken> found_;
};

// What a run collects: lists of all threads, for every token whose logits are wanted.
struct TopRequest {
    std::int64_t limit;
    TopList* lists;  // (n_threads, n_selected)
};

// The first `limit` of all lists in the order of comes_before. An error when there was NaN, or only minus infinity, as of a row of logits.
Result<std::vector<ScoredToken>> merge_top(std::span<const TopList* const> lists, std::int64_t limit);

// Loops that both ways of looking at logits share; units that include this are compiled with -O3.
inline constexpr std::size_t logit_block = 64;

// Eight running maxima, which a compiler keeps in registers. NaN loses every comparison, so it is looked for apart.
static inline float largest_of_block(const float* row) {
    float lanes[8];
    for (int lane = 0; lane < 8; ++lane) lanes[lane] = row[lane];
    for (std::size_t i = 8; i < logit_block; i += 8)
        for (std::size_t lane = 0; lane < 8; ++lane) lanes[lane] = row[i + lane] > lanes[lane] ? row[i + lane] : lanes[lane];
    float largest = lanes[0];
    for (int lane = 1; lane < 8; ++lane) largest = lanes[lane] > largest ? lanes[lane] : largest;
    return largest;
}

static inline bool block_has_nan(const float* row) {
    int n = 0;
    for (std::size_t i = 0; i < logit_block; ++i) n += row[i] != row[i] ? 1 : 0;
    return n > 0;
}

Error nan_in_logits(std::int64_t token);
Error no_finite_logits();

}  // namespace skiff
