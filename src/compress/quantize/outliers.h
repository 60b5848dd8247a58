// Outliers beside the codes: the largest weights of every row, which would stretch the scales of their groups (as in SqueezeLLM, Kim et al. 2023, and
// SpQR, Dettmers et al. 2023).
#pragma once

#include <vector>

#include "base/thread_pool.h"
#include "tensor/weight.h"

namespace skiff {

std::int64_t outliers_per_row(double share, std::int64_t n_columns);

struct OutlierSplit {
    Weight rest;                        // with zeros in their places
    std::vector<std::int32_t> columns;  // (n_rows, per_row), ascending in each row
    std::int64_t per_row = 0;
};
OutlierSplit split_outliers(const Weight& weight, std::int64_t per_row, ThreadPool& pool);

// What the codes lack of the weight in the places of the outliers, in f16; values beyond its range become its largest.
Weight outliers_of(const Weight& weight, const Weight& codes, const OutlierSplit& split, ThreadPool& pool);

// Both as floats.
Weight sum_of(const Weight& codes, const Weight& outliers, ThreadPool& pool);

}  // namespace skiff
