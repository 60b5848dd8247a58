// Runs a session over the windows of a text: log-likelihoods alone, or beside a parent. Logits are looked at chunk by chunk and never kept.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/progress.h"
#include "base/result.h"
#include "measure/divergence.h"
#include "measure/likelihood.h"
#include "measure/parent_logits.h"
#include "measure/text_windows.h"
#include "plan/session.h"

namespace skiff {

struct MeasureOptions {
    std::int64_t chunk_tokens = 256;  // fed at a time; the head's buffer is this many rows of logits
    ProgressSink progress;            // in tokens fed
    // Sees the logits of each scored row in order, before they are scored. // (n_rows, n_vocab) f32
    std::function<Status(std::span<const float> rows)> keep_logits;
};

// As many tokens at a time as keep the logits under 64 MiB: 16 to 256.
std::int64_t chunk_for_vocabulary(std::int64_t n_vocab);

// Scores of all positions that the windows score, in order. The session needs room for one window; its sequence 0 is used.
Result<std::vector<TokenScore>> score_text(Session& session, const TextWindows& windows, const MeasureOptions& options);

// The same beside a parent, which sees the same windows.
Result<std::vector<TokenDivergence>> compare_text(Session& child, ParentLogits& parent, const TextWindows& windows, const MeasureOptions& options);

// Feeds tokens to sequence 0; the logits of the last `n_scored` of them are in session.logits().
Status feed_chunk(Session& session, std::span<const std::int32_t> inputs, std::int64_t n_scored);

}  // namespace skiff
