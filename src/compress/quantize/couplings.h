// Where the inputs of a block's linear operators may be scaled, column by column, without changing what the block computes: whatever gives the value gives
// it divided by the scales, and the columns of all that read it are multiplied by them. Found from the operators, whatever the architecture.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "compress/calibrate/walk.h"
#include "model/spec.h"

namespace skiff {

// norm -> linears; up -> down (through the product with the gate, or a ReLU); v -> o (through attention; query heads of one KV head share their scales).
struct InputCoupling {
    ValueId value = no_value;
    std::vector<TensorRef> readers;      // each weight once
    const NormOp* norm = nullptr;        // gives the value: this,
    const LinearOp* linear = nullptr;    // or rows of this
    std::int64_t n_columns = 0;          // of the value
    std::int64_t n_sources = 0;          // independent scales: the norm's entries or the linear's rows
    std::int64_t head_dim = 0, n_repeats = 1;  // through attention: columns of n_repeats heads behind one another come from the same rows
    std::int64_t source_of(std::int64_t column) const { return head_dim == 0 ? column : column / (head_dim * n_repeats) * head_dim + column % head_dim; }
};
std::vector<InputCoupling> find_couplings(const ModelSpec& spec, std::size_t block);

// Divides what gives the value by `scales` and multiplies the readers' columns, and does the same to the statistics. The scales become what they can be
// with the norm's weight as its type holds it, so that the block computes the same but for the rounding of floats. // scales: (n_sources)
struct ScaledBlock {
    EditedWeights& weights;
    BlockInputs& inputs;
    ThreadPool& pool;
};
Status scale_inputs(const InputCoupling& coupling, std::vector<float> scales, const ScaledBlock& block);

// The statistics of x / scales. // scales: (n_columns)
InputStatistics divided(const InputStatistics& inputs, const std::vector<float>& scales);

}  // namespace skiff
