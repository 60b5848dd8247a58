// Runs a recipe on a checkpoint, one tensor in memory at a time, into a folder that appears complete or not at all. A run that was killed goes on
// after its last finished tensor, with the same bytes in the end.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/atomic_file.h"
#include "base/progress.h"
#include "compress/calibrate/gradients.h"
#include "compress/manifest.h"
#include "compress/preflight.h"
#include "compress/recipe.h"
#include "compress/search/mixed_precision.h"
#include "formats/checkpoint_files.h"
#include "model/checkpoint.h"
#include "plan/block_runner.h"

namespace skiff {

struct CompressOptions {
    std::string output;  // folder
    AtomicDirectory::IfExists if_exists = AtomicDirectory::IfExists::refuse;
    enum class Unfinished : std::uint8_t { resume, restart } unfinished = Unfinished::resume;
    enum class Work : std::uint8_t { full, estimate_only } work = Work::full;
    int n_threads = 1;
    BlockRunner* blocks = nullptr;  // where a step that looks at the data runs the model; null: here
    const GradientSource* gradients = nullptr;  // of the loss, for methods that ask for them; null: there is no training here
    std::uint64_t max_shard_bytes = CheckpointWriter::default_max_shard_bytes;
    std::vector<std::string> text_options;      // the options about the calibration text that were given, "--calibration" ...: refused where nothing looks at one
    std::string measurements;  // file where a search for schemes keeps what it measures; "": beside the output, until that is complete
    ProgressSink progress;
    std::function<void(const ManifestTensor&)> on_tensor;    // after each one
    std::function<void(const TensorPlan&, const WorkEstimate&)> on_plan;  // before the work
    std::function<void(const SchemeSearchEstimate&)> on_search;           // only where just an estimate was asked for
};

struct CompressReport {
    Manifest manifest;                 // empty tensors when only estimated
    WorkEstimate estimate;
    std::vector<std::string> remarks;         // known before the work
    std::vector<std::string> method_remarks;  // where a method did otherwise than asked, and why
    std::size_t n_resumed = 0;         // tensors that an earlier run had finished
    double seconds = 0;
};

// May the output be written there: for what comes before a run and takes time itself. A run asks, too.
Status check_output(const CompressOptions& options, const Checkpoint& parent);

// The recipe holds one step. Several are runs of their own, each on the result of the one before.
Result<CompressReport> run_recipe(const Checkpoint& parent, const Recipe& recipe, const CompressOptions& options);

}  // namespace skiff
