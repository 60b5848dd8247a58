// Work space of a kernel that is too large for the stack.
#pragma once

#include <cstdint>

namespace skiff {

// At least n_floats, aligned to 64 bytes, this thread's own until its next call; it grows on first use and is then reused.
float* thread_scratch(std::int64_t n_floats);

}  // namespace skiff
