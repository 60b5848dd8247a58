// The multiple-choice sets: where their files lie, and how an item becomes a prompt with choices. Prompts are those of lm-evaluation-harness,
// zero-shot, without a chat template (tests/golden/README.md states each rule).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace skiff {

struct TaskItem {
    std::string prompt;
    std::vector<std::string> choices;  // without the space that stands before each in the continuation
    std::int64_t gold = 0;
};

// The items of one file.
struct TaskSet {
    std::string name;    // "hellaswag", "mmlu_astronomy"
    std::string group;   // the name that was asked for, when it stands for several sets: "mmlu"; else ""
    std::string source;  // the file, relative to the folder of the sets
    std::vector<TaskItem> items;
};

// Names that a user may give: hellaswag, hellaswag_text, piqa, boolq, mmlu (all subjects) and mmlu_SUBJECT.
//
// Files, under `folder`: hellaswag/hellaswag_val.jsonl (or, when that is absent, llama.cpp's hellaswag/hellaswag_val_full.txt), piqa/valid.jsonl
// and valid-labels.lst, SuperGLUE/BoolQ/val.jsonl, mmlu/test/SUBJECT_test.csv. `limit` > 0 keeps the first items of each file, so of each MMLU subject.
Result<std::vector<TaskSet>> load_task_sets(const std::string& name, const std::string& folder, std::int64_t limit);

}  // namespace skiff
