// The course of each block that is trained by itself: blocks.csv has a row per block and step. Of all blocks' rows of a step the rows of train.csv are made.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace skiff::train {

class BlockLog {
public:
    static constexpr const char* file_name = "blocks.csv";
    struct Row {
        double loss = 0, gradient_norm = 0, seconds = 0;
    };
    // Units are named by their first block. Takes over what the folder's file says of each up to its `steps`, and drops what a killed run wrote behind that.
    static Result<BlockLog> open(const std::string& folder, const std::vector<std::int64_t>& first_blocks, const std::vector<std::int64_t>& steps);

    Status add(std::size_t unit, const Row& row);  // of its next step
    Status sync() const;                           // before a state is saved, which counts on the rows of its steps
    Row sum(std::int64_t step) const;              // the loss of all, the norm of all gradients together, the time of the last

private:
    std::string path_;
    std::vector<std::int64_t> first_blocks_;
    std::vector<std::vector<Row>> rows_;  // by unit and step
};

}  // namespace skiff::train
