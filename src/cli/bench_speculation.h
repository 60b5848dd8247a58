// What speculation is worth, on texts that suit it and on one that does not.
#pragma once

#include "cli/verb.h"
#include "runtime/engine.h"

namespace skiff {

struct SpeculationBench {
    std::vector<std::int64_t> n_tokens;  // to generate
    std::string text_file;               // "": heldout.txt of the model's folder
    int repeats = 5;
};

// Tokens of the prompts that bench_speculation begins with.
inline constexpr std::int64_t speculation_prompt_tokens = 200;

// The engine has two sequences and speculates; each text is generated with and without, taking turns. Prints a table and returns it as JSON.
Result<Json> bench_speculation(Engine& engine, const SpeculationBench& options, Terminal& terminal);

}  // namespace skiff
