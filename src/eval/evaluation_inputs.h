// What an evaluation works on, opened and checked before anything is computed.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "eval/evaluate.h"
#include "measure/logits_file.h"
#include "model/checkpoint.h"

namespace skiff {

struct EvaluationInputs {
    Checkpoint model;
    std::optional<Tokenizer> tokenizer;
    std::string text_path, text_sha256;
    std::optional<TextWindows> windows;
    std::optional<Checkpoint> parent;        // --against is a model
    std::optional<LogitsFile> parent_file;   // --against is a file
    std::optional<Checkpoint> other;         // --paired-with
    std::vector<CalibrationOverlap> overlaps;
    std::vector<TaskSet> tasks;
    // How a parent that is a model takes part: both in memory, or first the parent, whose logits go to a file, then the child.
    enum class Parent : std::uint8_t { none, beside, before, file } parent_mode = Parent::none;
    std::string logits_path;                 // written; "": none
    enum class KeepLogits : std::uint8_t { yes, no } keep_logits = KeepLogits::no;  // no: removed at the end

    // For a file of logits over these windows.
    LogitsHeader header(std::int64_t n_vocab) const;
    std::int64_t task_length() const;        // positions that the model sees of a task's item
};

Result<EvaluationInputs> open_inputs(const EvalOptions& options);

}  // namespace skiff
