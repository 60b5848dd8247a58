// The table that users of GPTQ know: memory, time of a token and speed, a row for each kernel that can run the weights.
#pragma once

#include <string>
#include <vector>

#include "cli/verb.h"
#include "measure/speed.h"
#include "runtime/engine.h"

namespace skiff {

struct KernelVariant {
    std::string name;  // "reference", or the instruction set
    KernelChoice kernels = KernelChoice::fastest;
    Isa isa = Isa::generic;
};
// "all": the reference and every instruction set that this processor has, the plainest first; or those that a list names, in its order.
Result<std::vector<KernelVariant>> kernel_variants(const std::string& list);

struct KernelBench {
    std::string model, scheme;  // scheme: as which plain weights are loaded, to print; may be empty
    EngineOptions options;
    std::vector<SpeedTest> tests;
    int repeats = 5;
};

// Loads the model once for each, one after the other, and leaves out what computes with the same kernels as one before. Prints the table and returns it as JSON.
Result<Json> bench_kernels(const KernelBench& bench, const std::vector<KernelVariant>& variants, Terminal& terminal);

}  // namespace skiff
