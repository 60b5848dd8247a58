// Fusion: passes that rewrite a program's plain steps into fused ones (fused_step.h). A pass applies where its pattern matches; the rest stays plain.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "plan/fuse_set.h"
#include "plan/fused_step.h"
#include "plan/place_buffers.h"

namespace skiff {

struct FuseOptions {
    ValueTable& values;
    const std::set<int>& kept;  // values that somebody reads from outside: no pass hides or overwrites them
    std::int64_t max_tokens;    // of the program
    int n_threads;              // that it is cut for
    FuseSet set;
};

// Steps name values as lower() numbers them; place_buffers comes after.
void fuse(std::vector<std::unique_ptr<Step>>& steps, const FuseOptions& options);

// ---- for the passes (fuse.cpp, fuse_columns.cpp)

class FuseEditor {
public:
    FuseEditor(std::vector<std::unique_ptr<Step>>& steps, const FuseOptions& options) : steps_(steps), options_(options) {}

    std::vector<std::unique_ptr<Step>>& steps() { return steps_; }
    const FuseOptions& options() const { return options_; }
    bool few_tokens() const { return options_.max_tokens <= 8; }
    bool kept(int value) const { return options_.kept.count(value) != 0; }
    // Whether only steps [first, end) touch the value, so that it may be renamed, overwritten or hidden by them.
    bool only_within(int value, std::size_t first, std::size_t end);
    bool read_behind(int value, std::size_t step);  // by a step behind that one
    void rename(int from, int to);                  // in all steps
    // Puts the fused step in the place of steps [first, end), which it has taken over.
    void replace(std::size_t first, std::size_t end, std::unique_ptr<FusedStep> fused);

private:
    std::vector<std::unique_ptr<Step>>& steps_;
    const FuseOptions& options_;
};

// Joins linear steps with the steps on the same columns that follow them. Each is a row of the table in fuse.cpp.
void fuse_residual(FuseEditor& editor);
void fuse_qkv(FuseEditor& editor);
void fuse_attention(FuseEditor& editor);
void fuse_elements(FuseEditor& editor, StepTokens tokens);  // in the head or before it
void fuse_head_top(FuseEditor& editor);

// Whether the threads can run steps together without waiting for each other. A value that they write may be touched in one place only, where the
// same thread has the same columns or tokens of it, unless every thread makes it for itself.
class RaceCheck {
public:
    void add(Step& step, FusedStage::Deal deal, int place);  // place: the number of a stage, or of a chain in it
    void add(FusedStep& fused, int first_place);
    bool is_free() const;

private:
    struct Touch {
        std::set<int> places;
        bool written = false, by_everyone = false;
        bool across = false;  // by a step that reads columns which other threads work on
    };
    std::map<int, Touch> touches_;
};

}  // namespace skiff
