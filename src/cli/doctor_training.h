// What `skiff doctor` says of training.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"

namespace skiff {

struct Finding {
    std::string what, state, advice;
};

// The program that trains, what it was built with, and the library that computes its products: in `skiff-train` itself, in `skiff` the program
// beside it. Keys: program ("found", "absent", "broken"), library, ranks, blas.
Json training_facts();
// Those of `cpu_features` (CpuInfo) that make products of bf16 faster than of f32; empty: none.
std::string bf16_instructions(const std::string& cpu_features);
std::vector<Finding> training_findings(const Json& facts, const std::string& cpu_features);

}  // namespace skiff
