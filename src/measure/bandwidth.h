// The machine's limit for decoding: how fast memory can be read.
#pragma once

#include <cstddef>

namespace skiff {

struct ReadBandwidth {
    double gb_per_s = 0;          // median over the passes, 10^9 bytes per second
    double lowest = 0, highest = 0;
    std::size_t buffer_bytes = 0; // at least four times the last-level cache
    int n_threads = 1;
};

// Reads a buffer from front to back, one stretch per thread, `n_passes` times after one to warm up. Takes about n_passes * 20 ms.
ReadBandwidth measure_read_bandwidth(int n_threads, int n_passes = 9);

}  // namespace skiff
