// What each fusion of the plan is worth: with all of them against all but one, taking turns.
#pragma once

#include <string>
#include <vector>

#include "cli/verb.h"
#include "measure/speed.h"
#include "runtime/engine.h"

namespace skiff {

struct FusionBench {
    std::string model;
    EngineOptions options;
    std::vector<SpeedTest> tests;
    int repeats = 5;
};

// `fused` is the engine with all fusions. Prints a table of medians of the ratios of pairs, and returns it as JSON.
Result<Json> bench_fusions(Engine& fused, const FusionBench& bench, Terminal& terminal);

}  // namespace skiff
