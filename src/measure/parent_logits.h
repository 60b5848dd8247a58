// Where a parent's logits come from while its child is measured: a live session that runs in step, or a file written before.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "measure/text_windows.h"
#include "plan/session.h"

namespace skiff {

class ParentLogits {
public:
    virtual ~ParentLogits() = default;
    virtual std::int64_t n_vocab() const = 0;
    // Called before the chunks of a window, windows in ascending order.
    virtual Status begin_window(std::int64_t window) = 0;
    // The next chunk of the window's inputs. Returns the logits of those that are scored: the last `n_scored` of them. The memory is valid until
    // the next call. // (n_scored, n_vocab) f32
    virtual Result<std::span<const float>> chunk(std::span<const std::int32_t> inputs, std::int64_t n_scored) = 0;
};

// Runs the parent window by window beside the child. The session belongs to the caller; its sequence 0 is used.
std::unique_ptr<ParentLogits> live_parent(Session& session);

}  // namespace skiff
