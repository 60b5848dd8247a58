// Blocks of a model, run one by one for who looks at their values (compress/calibrate). The processor's are lower() and Session::create(); a device has its own (backend/device_blocks.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "model/spec.h"
#include "model/weight_source.h"

namespace skiff {

class Session;

struct BlockRun {
    std::size_t block = 0;
    std::vector<std::string> taps;  // values that are kept of each run
    std::int64_t n_tokens = 0;      // of a text, at most
    int n_threads = 1;
};

class BlockRunner {
public:
    virtual ~BlockRunner() = default;
    // A session of one sequence over the block; tap() and tap_sums() know the values that were named.
    virtual Result<std::unique_ptr<Session>> open(const ModelSpec& spec, const WeightSource& weights, const BlockRun& run) = 0;
    // Taps see one run: a text of more tokens is fed in parts of so many, each looked at before the next.
    virtual std::int64_t most_tokens() const { return INT64_MAX; }
    virtual std::string where() const = 0;
};

}  // namespace skiff
