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
    std::int64_t n_tokens = 0;      // of a run, at most
    int n_threads = 1;
};

class BlockRunner {
public:
    virtual ~BlockRunner() = default;
    // A session of one sequence over the block; tap() and tap_sums() know the values that were named.
    virtual Result<std::unique_ptr<Session>> open(const ModelSpec& spec, const WeightSource& weights, const BlockRun& run) = 0;
    virtual std::string where() const = 0;
};

}  // namespace skiff
