// What a run will need, before it begins.
#pragma once

#include <string>

#include "compress/tensor_plan.h"

namespace skiff {

class StepWork;
struct CalibrationText;

struct WorkEstimate {
    std::uint64_t bytes_before = 0, bytes_after = 0;
    double bits_per_weight = 0;
    std::uint64_t memory_bytes = 0;  // about, at the peak; the program itself included
    std::uint64_t disk_bytes = 0;    // to be written
    std::uint64_t free_disk_bytes = 0;
    double seconds = 0;              // about; 0 when unknown
};

// The step says how long it takes itself; the walk is counted where there is a calibration text. `output_folder` need not exist.
Result<WorkEstimate> estimate(const Checkpoint& parent, const TensorPlan& plan, StepWork& work, const CalibrationText* text, const std::string& output_folder, ThreadPool& pool);
// An error with both figures when the disk is too small.
Status check_disk(const WorkEstimate& estimate, const std::string& output_folder);

}  // namespace skiff
