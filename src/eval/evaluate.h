// The whole of `skiff eval`: opens models, decides how a parent takes part, runs texts and tasks, and reports.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/progress.h"
#include "base/result.h"
#include "eval/perplexity.h"
#include "eval/tasks.h"
#include "runtime/engine.h"

namespace skiff {

struct EvalOptions {
    std::string model;
    EngineOptions engine;             // context, sequences and batch are set by the evaluation; schemes of weights and state apply to the model, not to its parent
    std::string text_path;            // "": heldout.txt of the model, or of what it is held against, when it is there and no tasks are asked for
    std::int64_t window = 0;          // 0: 512, or the model's positions if they are fewer; with a file of logits: that file's
    std::int64_t max_windows = 0;     // 0: all; with a file of logits: as many as that file has
    Protocol protocol = Protocol::windows;
    std::string against;              // a model, or a file of logits; "": none
    std::string paired_with;          // another model, compared with this one window by window; "": none
    std::string save_logits;          // keeps the parent's logits; without a parent, those of the model itself
    std::vector<std::string> tasks;
    std::string tasks_dir;
    std::int64_t limit = 0;           // items of each file; 0: all
    ProgressSink progress;
};

struct ModelIdentity {
    std::string path, name, hash;
    Json to_json() const;
};

// What an evaluation will do, known before it runs; what --dry-run prints.
struct EvalEstimate {
    std::int64_t tokens_in_text = 0, windows = 0, window = 0, tokens_scored = 0;
    std::int64_t task_items = 0;
    std::uint64_t weight_bytes = 0, parent_weight_bytes = 0;
    std::string parent_logits;              // "", "beside", "file"
    std::string logits_path;                // "": nothing is written
    std::uint64_t logits_file_bytes = 0, free_disk_bytes = 0;
    Json to_json() const;
};

// Stretches of a calibration text, as the manifest keeps them, that stand in the text of the evaluation.
struct CalibrationOverlap {
    std::string model, text_name;
    std::int64_t found = 0, stretches = 0;
    Json to_json() const;
};

struct EvalReport {
    ModelIdentity model;
    std::string text_path, text_sha256;
    std::optional<PerplexityReport> perplexity;
    std::optional<AgainstReport> against;
    std::optional<PairedReport> paired;
    std::vector<CalibrationOverlap> overlaps;  // with texts that the model or its ancestors were made by looking at
    std::vector<TaskReport> tasks;
    std::string logits_path;       // written
    double text_seconds = 0, tokens_per_s = 0, task_seconds = 0;
    std::string isa, kernels, state;
    std::string scheme_on_load;    // the weights were quantized while loading, so the model is not what its hash names; "": no
    int n_threads = 0;

    // {model, text, perplexity, tokens_per_s, seconds, against, tasks, task_seconds, logits_path, settings}; what was not asked for is left out
    Json to_json() const;
};

Result<EvalEstimate> estimate_evaluation(const EvalOptions& options);
Result<EvalReport> evaluate(const EvalOptions& options);

}  // namespace skiff
