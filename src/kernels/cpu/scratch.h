// Work space of a kernel that is too large for the stack.
#pragma once

#include <cstdint>

namespace skiff {

// At least n_floats, aligned to 64 bytes, this thread's own until its next call; it grows on first use and is then reused.
float* thread_scratch(std::int64_t n_floats);

// What tile kernels make of the tokens of a call before they multiply, beside the scratch: neighbouring calls on a thread mostly have the same tokens (gate and up, q, k
// and v, one slab of rows after another), and for slabs of 128 rows it was a tenth of the time.
struct TokensKey {
    std::uint64_t epoch;  // as LinearArgs says; 0 is never known
    const void* codes;
    std::int64_t n_tokens, n_blocks;
    std::int32_t offset, form;
    bool operator==(const TokensKey&) const = default;
};
struct TokensSpace {
    float* numbers;  // at least n_floats, aligned to 64 bytes
    bool known;      // they still are what was made for this key
};
TokensSpace thread_tokens(const TokensKey& key, std::int64_t n_floats);

}  // namespace skiff
