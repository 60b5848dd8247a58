// Ranks for weights: by rules on one weight, or so that all together keep within a budget.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "compress/lowrank/factorize_step.h"

namespace skiff {

struct RankCandidate {
    std::int64_t n_rows = 0, n_columns = 0;
    std::vector<double> energy;  // squared singular values, descending; empty where the rule does not look at them
    double weight = 1;           // what a unit of lost energy costs the model (budget)
};

// Numbers of two factors of this rank.
inline std::int64_t factor_size(const RankCandidate& weight, std::int64_t rank) { return rank * (weight.n_rows + weight.n_columns); }

// By the step's rule; 0: the weight stays as it is, for factors of that rank would not be smaller. Multiples of step.multiple_of, one at least.
std::vector<std::int64_t> choose_ranks(const FactorizeStep& step, std::span<const RankCandidate> weights);

// An error where even the smallest ranks take more than the budget; needs no energies.
Status check_budget(const FactorizeStep& step, std::span<const RankCandidate> weights);
// How many weights have a higher rank than was asked for, because the smallest multiple is higher.
std::int64_t n_ranks_above(const FactorizeStep& step, std::span<const RankCandidate> weights, std::span<const std::int64_t> ranks);

}  // namespace skiff
