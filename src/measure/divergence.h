// How far a child's next-token distributions are from its parent's.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"

namespace skiff {

// One position. p is the parent's distribution, q the child's.
struct TokenDivergence {
    double kl = 0;                    // KL(p || q) in nats
    double parent_log_likelihood = 0; // of the token that came
    double child_log_likelihood = 0;
    float largest_change = 0;         // max over the vocabulary of |p - q|
    std::int32_t parent_top = -1, child_top = -1;
};

// Compares the rows pairwise, shared among the pool's threads. Errors as score_rows().
Status compare_rows(ThreadPool& pool, std::span<const float> parent_rows, std::span<const float> child_rows, std::span<const std::int32_t> targets,
                    std::span<TokenDivergence> result);  // both (n_rows, n_vocab)

}  // namespace skiff
