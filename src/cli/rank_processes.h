// The other ranks of a training run, as processes of their own on this machine.
#pragma once

#include <memory>
#include <string>
#include <thread>
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
    friend Result<std::unique_ptr<RankProcesses>> start_other_ranks(train::TrainOptions& options, std::int64_t rank, const std::vector<std::string>& more_arguments);
    // A rank that dies before all have met is missed by nobody for minutes. This thread sees it, gives the first rank some seconds to end with an
    // error of its own, and else ends the program with a message.
    void watch(const std::stop_token& stop) const;
    void end_others() const;
    std::vector<int> processes_;
    std::string meeting_file_;
    std::jthread watcher_;
};

// With several ranks and none named (rank < 0): starts all but the first with this process's own arguments, and makes `options` those of the
// first. Else starts nothing. `more_arguments` are for the others: what this process was not given but has decided for all.
Result<std::unique_ptr<RankProcesses>> start_other_ranks(train::TrainOptions& options, std::int64_t rank, const std::vector<std::string>& more_arguments);

}  // namespace skiff
