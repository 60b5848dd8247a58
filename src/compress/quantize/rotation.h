// Rotations folded into float weights (QuaRot, SpinQuant: Ashkboos et al. and Liu et al. 2024). Seen from outside the model computes the same, but no column
// of a weight or activation stands out any more. Found from the operators, whatever the architecture; what cannot be rotated is named.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "model/checkpoint.h"

namespace skiff {

struct RotationOptions {
    // residual: the stream that all blocks read and add to; the weights of its norms go into what reads them. heads: the values of each attention head.
    enum class What : std::uint8_t { residual, heads, all } what = What::all;
    std::uint64_t seed = 0;
    bool operator==(const RotationOptions&) const = default;
};

// What happens to one tensor. Sides are those of the operator's matrix (outputs, inputs), whichever way it is stored.
struct TensorRotation {
    struct Side {
        std::int64_t order = 0;      // of the rotation, which is repeated along the side; 0: none
        RowMap rows;                 // outputs: which rows; block 0: all
    };
    std::vector<Side> outputs;       // a fused matrix may have several parts
    std::int64_t inputs_order = 0;
    std::string inputs_norm;         // key of the norm whose weight its columns are multiplied with
    float inputs_norm_offset = 0;
    bool is_vector = false;          // a bias: outputs only
    bool becomes_ones = false;       // a norm's weight that went elsewhere
    float ones_minus = 0;            // Gemma stores w - 1
    bool transposed = false;         // stored as (inputs, outputs)
    bool any() const { return !outputs.empty() || inputs_order != 0 || !inputs_norm.empty() || becomes_ones; }
};

class Rotation {
public:
    // An error says which operator stands in the way.
    static Result<Rotation> plan(const Checkpoint& parent, const RotationOptions& options);

    // A head that shared the embedding's tensor has its own afterwards: its key, in a model whose config says so; else "".
    const std::string& new_head() const { return new_head_; }
    const std::string& table() const { return table_; }  // whose tensor it shared
    Json config(const Json& parent) const;
    const std::vector<std::string>& remarks() const { return remarks_; }
    const TensorRotation* of(const std::string& key) const;  // null: stays as it is

    // Another basis for the residual stream than the planned one: its columns, orthonormal. // (order, order)
    void set_residual_basis(std::int64_t order, std::vector<float> columns) { matrices_[order] = std::move(columns); }

    // The rotated tensor in f32, in the parent's shape. `key` may be new_head().
    Result<Weight> make(const std::string& key, const WeightSource& weights, ThreadPool& pool) const;

private:
    std::map<std::string, TensorRotation> tensors_;
    std::map<std::int64_t, std::vector<float>> matrices_;  // by order
    std::string new_head_, table_;
    std::vector<std::string> remarks_;
    friend class RotationPlanner;
};

}  // namespace skiff
