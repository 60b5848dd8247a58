// The other ranks of a training run, as processes of their own on this machine.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "train/train.h"

namespace skiff {

class RankProcesses {
public:
    RankProcesses() = default;
    RankProcesses(RankProcesses&&) = delete;
    ~RankProcesses();  // ends those that still run
    Status wait();     // an error if one of them failed

private:
    friend Result<std::unique_ptr<RankProcesses>> start_other_ranks(train::TrainOptions& options, std::int64_t rank);
    std::vector<int> processes_;
    std::string meeting_file_;
};

// With several ranks and none named (rank < 0): starts all but the first with this process's own arguments, and makes `options` those of the
// first. Else starts nothing.
Result<std::unique_ptr<RankProcesses>> start_other_ranks(train::TrainOptions& options, std::int64_t rank);

}  // namespace skiff
