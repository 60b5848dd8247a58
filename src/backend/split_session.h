// A session whose first layers run on a device and whose last ones run on the processor: what the first stretch of blocks gives goes into the second, token by
// token in decoding, a run of tokens at a time in a prompt.
#pragma once

#include <memory>

#include "plan/session.h"

namespace skiff {

// `first` begins with the embedding and ends behind layer `n_layers`; `second` goes on to the head, with the same sequences and context.
Result<std::unique_ptr<Session>> make_split_session(std::unique_ptr<Session> first, std::unique_ptr<Session> second, std::int64_t n_layers);

}  // namespace skiff
