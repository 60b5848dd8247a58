// Asking for memory ahead of what a kernel reads. The functions are static: units for different instruction sets include them.
#pragma once

#include <cstdint>

namespace skiff {

// Whether weights are fetched into the L2 cache instead of the L1: on AMD's family 19h (Zen 3, Zen 4). A request for the L1 holds one of its few miss buffers until
// memory has answered, and one thread of a Zen 4 got 13 to 18 GB/s so; the L2 has more, and gave 23 to 25 (docs/performance.md). On Zen 5 the L1 was better.
// Kernels take it as a template argument: asked in the loop it made them slower.
extern const bool fetch_into_l2;

// How far ahead. What is too near comes too late: with 4 KiB the kernels waited.
inline constexpr std::int64_t fetch_ahead_bytes = 16384;

namespace {

// n cache lines from p on
template <bool IntoL2>
inline void fetch_lines(const void* p, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) __builtin_prefetch(static_cast<const char*>(p) + i * 64, 0, IntoL2 ? 2 : 3);
}

}  // namespace
}  // namespace skiff
