// Multiple-choice tasks by log-likelihood: acc, acc_norm and their errors, and how a child's answers differ from its parent's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/progress.h"
#include "base/result.h"
#include "eval/task_sets.h"
#include "measure/statistics.h"
#include "plan/session.h"
#include "text/tokenizer.h"

namespace skiff {

struct ItemResult {
    std::int64_t gold = 0, answer = 0, answer_norm = 0;  // first index of the largest (normalized) log-likelihood
    std::vector<double> log_likelihoods;
    std::int64_t context_tokens = 0;
    std::vector<std::int64_t> continuation_tokens;
    bool right() const { return answer == gold; }
    bool right_norm() const { return answer_norm == gold; }  // log-likelihood per character (code point) of the choice
};

struct SetResult {
    std::string name, group, source;
    std::vector<ItemResult> items;
};

struct TaskOptions {
    std::int64_t max_length = 2048;  // tokens of an item that the model sees
    ProgressSink progress;           // in items
};

// Scores all items. The session needs ChoiceScorer::n_sequences sequences with room for max_length tokens.
Result<std::vector<SetResult>> run_task_sets(Session& session, const Tokenizer& tokenizer, const std::vector<TaskSet>& sets, const TaskOptions& options);

// Child against parent, on `acc`.
struct Flips {
    std::int64_t right_to_wrong = 0, wrong_to_right = 0, answers_changed = 0;
};

// One row of the report: a set, or a group over all its items (then with the sets as parts).
struct TaskReport {
    std::string name, source;
    std::int64_t items = 0;
    Estimate acc, acc_norm;
    std::optional<Estimate> parent_acc, parent_acc_norm;
    std::optional<Flips> flips;
    std::vector<TaskReport> parts;

    Json to_json() const;
};

// `parent`: results over the same sets, or null.
std::vector<TaskReport> report_tasks(const std::vector<SetResult>& child, const std::vector<SetResult>* parent);

}  // namespace skiff
