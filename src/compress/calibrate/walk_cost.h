// How long the walk and the solving will take, counted before they begin.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"
#include "compress/calibrate/calibration_text.h"
#include "compress/calibrate/statistics.h"
#include "model/spec.h"

namespace skiff {

struct WalkCost {
    double seconds = 0;              // at the rate of a matrix product measured now
    std::uint64_t memory_bytes = 0;  // hidden states, the statistics of a block, one block's weights as floats
    std::uint64_t disk_bytes = 0;    // hidden states beside the journal
};

// Two passes over the blocks (to look, and to go on with the result), the second moments, and, where those are asked for, a factorization of each and a
// sweep over the columns of each weight, as GPTQ does (Frantar et al. 2022).
WalkCost walk_cost(const ModelSpec& spec, const CalibrationText& text, StatisticsNeed need, ThreadPool& pool);

}  // namespace skiff
