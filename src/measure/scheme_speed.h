// How fast each scheme runs on this machine, how exact it is, and so which ones to use here.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/cpu_features.h"
#include "base/progress.h"
#include "base/result.h"
#include "tensor/scheme.h"

namespace skiff {

struct SchemeSpeed {
    std::string scheme;
    double bits_per_weight = 0;   // of a row of 2048
    double relative_error = 0;    // sqrt(sum (w - q)^2 / sum w^2) on normal weights, rounded to nearest with searched scales
    std::string kernel;           // row of the kernel table that decodes
    std::string instruction;      // that does its products
    double read_gbps = 0;         // decode: bytes of weights that pass, 10^9 per second
    double decode_gmacs = 0;      // one token, weights beyond the cache: 10^9 multiply-adds per second
    double prefill_gmacs = 0;     // 512 tokens
};

struct SchemeSpeedOptions {
    Isa isa = best_isa();
    int n_threads = 1;
    std::vector<std::string> schemes;           // empty: all presets but fp32
    std::size_t weight_bytes = 0;               // of the decode test; 0: twice the last-level cache, at least 64 MiB
    ProgressSink progress;
};
Result<std::vector<SchemeSpeed>> measure_schemes(const SchemeSpeedOptions& options);

// A scheme is to be avoided where another is at least as small and as exact, and decodes at least as fast (within 3 %), or where bf16 decodes faster.
struct SchemeVerdict {
    bool use = true;
    std::string reason;  // "n4g32r is smaller, more exact and as fast"
};
std::vector<SchemeVerdict> judge_schemes(std::span<const SchemeSpeed> schemes);

// Of those with at most this error the one that decodes fastest; among equals (within 3 %) the most exact. Null when none is exact enough.
const SchemeSpeed* best_scheme(std::span<const SchemeSpeed> schemes, double max_relative_error);

}  // namespace skiff
