// The parameters as a graph reads them: whole, or the units that are left of some axes, so that a part of a model computes and learns by itself. Nothing is
// copied where those entries lie side by side; gradients reach the whole tensors.
#pragma once

#include "model/axes.h"
#include "train/parameters.h"

namespace skiff::train {

class ParameterView {
public:
    explicit ParameterView(const ParameterSet& set) : set_(set) {}
    // `spec` is the whole model's, `units` what is left of its axes.
    ParameterView(const ParameterSet& set, const ModelSpec& spec, const AxisCut& units);

    // As (outputs, inputs): the rows that the cut model's reference takes, turned around where the checkpoint stores columns.
    at::Tensor matrix(const TensorRef& ref) const;
    // The same with the weight's adapter merged.
    at::Tensor merged_matrix(const TensorRef& ref) const;
    // Undefined for an empty reference.
    at::Tensor vector(const TensorRef& ref) const;
    const Parameter* find(const std::string& key) const { return set_.find(key); }
    const std::map<std::string, Adapter>& adapters() const { return set_.adapters(); }

private:
    // Of one dimension: a stretch, or entries one by one.
    struct Entries {
        std::int64_t dimension = 0, begin = 0, n = 0;
        at::Tensor index;  // (n) i64; undefined for a stretch
    };
    at::Tensor left_of(const std::string& key, at::Tensor value) const;

    const ParameterSet& set_;
    std::map<std::string, std::vector<Entries>> left_;  // of tensors that lose some
};

}  // namespace skiff::train
