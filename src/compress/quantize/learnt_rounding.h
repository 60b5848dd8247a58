// Rounding that is learnt (SignRound, Cheng et al. 2023): every weight has an offset of at most half a step before it is rounded and every group a factor of
// its scale; both follow the sign of the gradient of what is lost.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "compress/quantize/coded_rows.h"
#include "compress/quantize/second_moments.h"

namespace skiff {

class BlockWork;
struct ModelSpec;

// What was learnt of a row, or of rows behind one another.
struct LearntRow {
    float* offset;  // (n_columns) in steps, within +-0.5
    float* factor;  // (n_groups) of the scale that was fitted
};

class LearntSteps {
public:
    LearntSteps(const Grid& grid, const Scheme& scheme, ZeroWeights zeros);
    // One step: the loss falls with a larger value where g is positive. Rounding is passed straight through. // g, values: (n_columns)
    void step_row(float rate, std::span<const float> values, const float* g, const RowParams& fitted, const LearntRow& learnt, RowChoice& choice) const;
    // By the loss of an operator's own output, which is quadratic: its gradient is known without running the model, 2 (Q - W) H. The choices of the tile are
    // where it starts and where the best are left, with what was learnt there. // offset: (n_rows, n_columns); factor: (n_rows, n_groups)
    void learn_tile(RowTile& tile, const SecondMoments& moments, std::int64_t n_iterations, std::vector<float>& offset, std::vector<float>& factor) const;

private:
    const Grid& grid_;
    const Scheme& scheme_;
    const ZeroWeights zeros_;
    float step_ = 1;  // of levels, on average
};

// All matrices of a block together, by what the block's output loses on the calibration text: codes by key, (outputs, inputs). They start from what each
// operator learns by itself; nothing is returned that loses more there. `wanted` gives the scheme of each weight to round. Weights that cannot be
// learnt so are left out. An unsupported error: the block has an operator without a gradient.
struct BlockRounding {
    const ModelSpec& spec;
    std::size_t block;
    BlockWork& work;
    std::map<std::string, Scheme> wanted;
    std::set<std::string> pruned;  // of these zeros stay
    ScaleRule scale_rule = ScaleRule::search;
    const MethodOptions& options;
    ThreadPool& pool;
};
Result<std::map<std::string, Weight>> learn_block(const BlockRounding& input);

}  // namespace skiff
