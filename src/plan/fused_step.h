// A fused step: several steps with no barrier among them. That is right because a thread reads only what it wrote itself, or what was there before.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "plan/plan.h"

namespace skiff {

// Steps that are dealt to the threads in the same units of columns, heads for instance: each works on a thread's share of them, for all tokens.
struct ColumnChain {
    struct Part {
        std::unique_ptr<Step> step;
        std::int64_t unit_columns;  // of this step's width that belong to one unit
    };
    std::vector<Part> parts;
    std::int64_t n_units = 1;
    std::int64_t units_at_once = INT64_MAX;  // all parts do so many before the next, so that what passes between them stays in the cache
    double unit_cost = 1;                    // multiply-adds, or any number in proportion
};

// Part of a fused step; stages follow each other in order, on each thread.
struct FusedStage {
    enum class Deal : std::uint8_t {
        everything,  // every thread does all of it, into buffers of its own: for few tokens cheaper than a barrier
        tokens,      // a token at a time, all steps
        columns,     // chains
        own,         // one step, which deals its work itself
    } deal = Deal::own;
    std::vector<std::unique_ptr<Step>> steps;  // everything, tokens, own
    std::vector<ColumnChain> chains;           // columns
};

struct FusedStep final : Step {
    std::vector<FusedStage> stages;

    void run(const RunContext& context) const override;
    Uses uses() override;
    void run_tile(const RunContext& context, const Tile& tile) const override;
    std::int64_t width() const override { return 0; }
    bool token_by_token() const override { return false; }
    // Name and kernels from those of its parts.
    void describe_parts();
};

}  // namespace skiff
