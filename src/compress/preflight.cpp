#include "compress/preflight.h"

#include "base/atomic_file.h"
#include "compress/calibrate/walk_cost.h"
#include "compress/step_work.h"

namespace skiff {
namespace {

constexpr std::uint64_t program_bytes = std::uint64_t{16} << 20;  // code, libraries, buffers of the threads
constexpr std::uint64_t small_files_bytes = std::uint64_t{32} << 20;

std::string megabytes(std::uint64_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

}  // namespace

Result<WorkEstimate> estimate(const Checkpoint& parent, const TensorPlan& plan, StepWork& work, const CalibrationText* text, const std::string& output_folder, ThreadPool& pool) {
    WorkEstimate estimate;
    estimate.bytes_before = plan.bytes_before;
    estimate.bytes_after = plan.bytes_after;
    estimate.bits_per_weight = plan.n_elements > 0 ? static_cast<double>(plan.bytes_after) * 8 / static_cast<double>(plan.n_elements) : 0;
    estimate.memory_bytes = plan.largest_working_set_bytes + program_bytes;
    estimate.disk_bytes = plan.bytes_after + small_files_bytes;
    SKIFF_TRY(estimate.free_disk_bytes, free_disk_bytes(output_folder));
    SKIFF_TRY(estimate.seconds, work.seconds(plan, pool));
    if (text != nullptr) {
        const WalkCost cost = walk_cost(parent.spec, *text, work.needs(), pool);
        estimate.seconds += cost.seconds;
        estimate.memory_bytes += cost.memory_bytes;
        estimate.disk_bytes += cost.disk_bytes;
    }
    return estimate;
}

Status check_disk(const WorkEstimate& estimate, const std::string& output_folder) {
    if (estimate.free_disk_bytes >= estimate.disk_bytes) return {};
    return resource_error(output_folder + ": needs " + megabytes(estimate.disk_bytes) + " (" + std::to_string(estimate.disk_bytes) + " bytes) of disk, " +
                          megabytes(estimate.free_disk_bytes) + " (" + std::to_string(estimate.free_disk_bytes) + " bytes) are free; free some, or give -o on another disk");
}

}  // namespace skiff
