// Memory placement: values that are not alive together share a buffer.
#pragma once

#include <set>
#include <vector>

#include "plan/plan.h"

namespace skiff {

// The values of one program while it is built: the spec's, and temporaries behind them.
class ValueTable {
public:
    explicit ValueTable(const ModelSpec& spec);
    int add_temporary(std::int64_t floats, std::int64_t prepared_bytes, StepTokens tokens);
    void set_tokens(int value, StepTokens tokens) { needs_[static_cast<std::size_t>(value)].tokens = tokens; }
    // From now on every thread has its own, of at most so many columns and tokens: the tile that it works on.
    void give_to_threads(int value, std::int64_t n_columns, std::int64_t most_tokens);
    const std::vector<BufferNeed>& needs() const { return needs_; }

private:
    std::vector<BufferNeed> needs_;
};

// Values that keep a buffer of their own through all programs.
struct KeptValues {
    ValueId input = no_value;  // of a stretch of blocks, written by the caller
    ValueId output = no_value;
    std::vector<std::string> taps;
};

// The numbers of those values; a usage error for a tap that the model does not have.
Result<std::set<int>> kept_values(const ModelSpec& spec, const KeptValues& keep);

// Gives every value of every program a buffer number and writes it into the steps. Buffers are shared among programs.
Status place_buffers(Plan& plan, const std::vector<ValueTable>& tables, const KeptValues& keep);

}  // namespace skiff
