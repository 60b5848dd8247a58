// What a row of logits says about the token that came: log-likelihood and the model's own first choice.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"

namespace skiff {

struct TokenScore {
    double log_likelihood = 0;  // natural logarithm
    std::int32_t top = -1;      // the first index of the largest logit
};

// One row. `finite` is false where the row holds a NaN or an infinity; the other members are then meaningless.
struct RowSummary {
    double log_sum_exp = 0;
    float max = 0;
    std::int32_t top = -1;
    bool finite = true;
};
RowSummary summarize_row(std::span<const float> logits);  // (n_vocab)
// The same; `exps` gets exp(logit - max) of every entry and is resized as needed.
RowSummary summarize_row(std::span<const float> logits, std::vector<float>& exps);

// Scores the target of each row, the rows shared among the pool's threads. `scores` has one entry per row. An error when logits are not finite:
// it gives the row and the vocabulary entry.
Status score_rows(ThreadPool& pool, std::span<const float> rows, std::span<const std::int32_t> targets, std::span<TokenScore> scores);  // (n_rows, n_vocab)

// The words of that error for row `row`, whose logits are not all finite.
Error not_finite_error(std::span<const float> logits, std::int64_t row);

}  // namespace skiff
