// The method "sparse-low-rank:PATTERN" of a FactorizeStep: a weight as low rank and what a pattern leaves of the rest.
#pragma once

#include <memory>
#include <string_view>

#include "compress/lowrank/factorize_step.h"
#include "compress/step_work.h"

namespace skiff {

inline constexpr std::string_view sparse_low_rank_prefix = "sparse-low-rank:";  // a pattern follows, as prune takes it

Result<std::unique_ptr<StepWork>> begin_sparse_low_rank(const Checkpoint& parent, const FactorizeStep& step);

}  // namespace skiff
