// Adds up statistics of an operator's input, sample by sample.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "compress/calibrate/statistics.h"
#include "plan/tap_sums.h"

namespace skiff {

class InputObserver {
public:
    InputObserver(std::int64_t n_columns, StatisticsNeed need);
    void add(std::span<const float> x, ThreadPool& pool);  // (n_tokens, n_columns) f32
    void add(const ColumnSums& sums);                      // of tokens that were added up elsewhere
    StatisticsNeed need() const { return need_; }
    InputStatistics finish();                              // once

private:
    std::int64_t n_columns_, n_tokens_ = 0;
    StatisticsNeed need_;
    std::vector<double> sum_, absolute_, square_;  // (n_columns)
    std::vector<float> largest_, gram_;
};

}  // namespace skiff
