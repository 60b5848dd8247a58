// Mixed precision: measures what each unit of a model loses in each scheme of a ladder, and gives the units the schemes that lose least within a number of
// bytes. The divergences of units are taken to add up, which they nearly do while they are small; then the costs are measured anew around the assignment.
#pragma once

#include <string>
#include <vector>

#include "base/progress.h"
#include "base/thread_pool.h"
#include "compress/calibrate/statistics.h"
#include "compress/recipe.h"
#include "model/checkpoint.h"

namespace skiff {

struct SchemeSearchOptions {
    std::string journal;  // file of measurements: those that are there are not made again, whatever the size that is aimed at
    enum class Found : std::uint8_t { reuse, drop } found = Found::reuse;
    int n_threads = 1;
    std::uint64_t max_shard_bytes = 0;
    ProgressSink progress;
};

struct SchemeSearchEstimate {
    std::size_t n_units = 0, n_schemes = 0, n_measurements = 0, n_refinements = 0;
    std::string measure;  // "every scheme" or "one scheme"
    std::uint64_t smallest_bytes = 0, largest_bytes = 0;  // of the weight files that the ladder can give
    double seconds = 0;
};

// How a checkpoint holds a plain matrix: (outputs, inputs), or (inputs, outputs) as GPT-2's are.
enum class StoredAs : std::uint8_t { rows, columns };
// Squared error of a weight's outputs over the calibration text: trace(D G D^T), D the difference, G the second moments of the inputs, of which the
// diagonal must do where it is all there is. Without inputs: of the weight itself. Both weights as they are stored.
double output_error(const Weight& original, const Weight& made, StoredAs stored, const InputStatistics* inputs, ThreadPool& pool);

// The step with a rule for every tensor that had none, and with `found` filled. The result depends on the step, the parent and the ladder alone.
Result<QuantizeStep> find_schemes(const Checkpoint& parent, const QuantizeStep& step, const SchemeSearchOptions& options, std::vector<std::string>& remarks);

// What that would take, from the time of one measurement; and the step with the largest scheme of the ladder that all units can have.
Result<SchemeSearchEstimate> estimate_scheme_search(const Checkpoint& parent, const QuantizeStep& step, const SchemeSearchOptions& options, QuantizeStep& uniform);

}  // namespace skiff
