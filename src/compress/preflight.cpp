#include "compress/preflight.h"

#include "base/atomic_file.h"
#include "compress/calibrate/walk_cost.h"
#include "compress/method.h"

namespace skiff {
namespace {

constexpr std::uint64_t program_bytes = std::uint64_t{16} << 20;  // code, libraries, buffers of the threads
constexpr std::uint64_t small_files_bytes = std::uint64_t{32} << 20;

std::string megabytes(std::uint64_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

// Seconds per element, measured on a few rows of a tensor.
Result<double> time_sample(const Checkpoint& parent, const PlannedTensor& planned, const QuantizeStep& step, ThreadPool& pool) {
    constexpr std::int64_t sample_elements = 1 << 18;
    SKIFF_TRY(const auto weight, load_as_rows(*parent.weights, planned));
    const std::int64_t n_columns = weight.n_columns(), n_rows = std::clamp<std::int64_t>(sample_elements / std::max<std::int64_t>(1, n_columns), 1, weight.n_rows());
    std::vector<float> values(static_cast<std::size_t>(n_rows * n_columns));
    for (std::int64_t row = 0; row < n_rows; ++row) weight.row(row, values.data() + row * n_columns);
    const auto sample = make_float_weight({n_rows, n_columns}, std::move(values));
    SKIFF_TRY(const WeightMethod* method, find_weight_method(step.method));
    const double begin = monotonic_seconds();
    SKIFF_TRY(const auto result, method->encode({sample, *planned.scheme, step.scale_rule, pool}));
    (void)result;
    return (monotonic_seconds() - begin) / static_cast<double>(n_rows * n_columns);
}

}  // namespace

Result<WorkEstimate> estimate(const Checkpoint& parent, const TensorPlan& plan, const QuantizeStep& step, const CalibrationText* text, const std::string& output_folder, ThreadPool& pool) {
    WorkEstimate estimate;
    estimate.bytes_before = plan.bytes_before;
    estimate.bytes_after = plan.bytes_after;
    estimate.bits_per_weight = plan.n_elements > 0 ? static_cast<double>(plan.bytes_after) * 8 / static_cast<double>(plan.n_elements) : 0;
    estimate.memory_bytes = plan.largest_working_set_bytes + program_bytes;
    estimate.disk_bytes = plan.bytes_after + small_files_bytes;
    SKIFF_TRY(estimate.free_disk_bytes, free_disk_bytes(output_folder));
    const PlannedTensor* largest = nullptr;
    std::uint64_t n_elements = 0;
    for (const PlannedTensor& tensor : plan.tensors) {
        if (!tensor.scheme || tensor.shape.size() != 2) continue;
        n_elements += tensor.n_elements;
        if (largest == nullptr || tensor.n_elements > largest->n_elements) largest = &tensor;
    }
    if (largest != nullptr) {
        SKIFF_TRY(const double seconds_per_element, time_sample(parent, *largest, step, pool));
        estimate.seconds = seconds_per_element * static_cast<double>(n_elements);
    }
    if (text != nullptr) {
        SKIFF_TRY(const WeightMethod* method, find_weight_method(step.method));
        const WalkCost cost = walk_cost(parent.spec, *text, method->needs, pool);
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
