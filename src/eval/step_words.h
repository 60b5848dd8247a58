// The steps that made a model, as its manifest keeps them, in words: labels of tables and plots.
#pragma once

#include <cstdint>
#include <string>

#include "base/json.h"

namespace skiff {

// Models that were made alike but for the strength (shares, ranks, schemes, how many units) have the same words without it.
enum class StepDetail : std::uint8_t { all, without_strength };

// "prune neurons 25% (obs)", "prune wanda 50% owl", "quantize gptq w4g32", "factorize svd-llm remove 25 %", "share 3 groups".
std::string step_words(const Json& step, StepDetail detail);

// All steps from the original on, with commas. Training from fresh weights is how an original came to be, and no step.
std::string chain_words(const Json& manifest, StepDetail detail);

}  // namespace skiff
