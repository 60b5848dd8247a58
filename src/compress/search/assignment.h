// One choice for each of several units, so that all together cost least within a budget of bytes: the multiple-choice knapsack.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"

namespace skiff {

struct UnitChoice {
    std::uint64_t bytes = 0;
    double cost = 0;
};
using UnitChoices = std::vector<UnitChoice>;  // of one unit; at least one

// The number of the choice for each unit. Exact up to max_states partial sums at a time, which some hundred units of ten choices do not reach; beyond
// that the result keeps the budget but may cost a little more than the least. Error: the smallest choices are too large, with both figures.
Result<std::vector<std::size_t>> cheapest_choices(std::span<const UnitChoices> units, std::uint64_t budget_bytes, std::size_t max_states = 1 << 16);

std::uint64_t bytes_of(std::span<const UnitChoices> units, std::span<const std::size_t> chosen);
double cost_of(std::span<const UnitChoices> units, std::span<const std::size_t> chosen);

}  // namespace skiff
