// What `skiff doctor` says of CUDA: driver, devices, plug-in, libraries; what is missing, and what to do.
#pragma once

#include <vector>

#include "base/json.h"
#include "cli/doctor_training.h"

namespace skiff {

// Keys: driver (version or null), devices [name, capability, memory_bytes], plug_in (path or null), plug_in_problem, libraries {name: path or null}, usable.
Json cuda_facts();
std::vector<Finding> cuda_findings(const Json& facts);

}  // namespace skiff
