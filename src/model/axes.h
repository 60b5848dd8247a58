// Cutting a model along its axes: one function over all tensors, operators and states that carry an axis.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/spec.h"
#include "model/weight_source.h"

namespace skiff {

// One part of one dimension of one tensor that carries the axis.
struct AxisUse {
    std::string key;
    std::size_t dimension = 0, part = 0;
};
std::vector<AxisUse> axis_uses(const ModelSpec& spec, const std::string& axis);

// The units that stay, by axis, each list ascending. Axes that are not named stay whole.
using AxisCut = std::map<std::string, std::vector<std::int64_t>>;

// `kept` units of `axis`, and what must go with them: a KV head takes its query heads along. Query heads alone may be cut if every group keeps
// equally many. An error says why a cut is impossible: out of range or order, not a multiple of the axis' unit, an axis that numbers experts.
Result<AxisCut> coupled_cut(const ModelSpec& spec, const std::string& axis, std::span<const std::int64_t> kept);

// Entries of a dimension that stay, ascending.
std::vector<std::int64_t> kept_entries(const ModelSpec& before, const Dimension& dimension, const AxisCut& cut);

// The model after the cut: axes, row maps, attention operators and their states, n_vocab, d_model. The tokens of a cut vocabulary are numbered
// anew by the caller.
Result<ModelSpec> slice_axis(const ModelSpec& spec, const std::string& axis, std::span<const std::int64_t> kept);
// The same cut of one tensor. Plain weights only: slicing comes before quantizing.
Result<Weight> slice_weight(const Weight& weight, const ModelSpec& before, const TensorDecl& tensor, const std::string& axis, std::span<const std::int64_t> kept);
// The entries that belong to the units of `units`, in the order in which these are listed, which need not ascend: a cut, or units in another order. Plain weights only.
Result<Weight> gather_units(const Weight& weight, const ModelSpec& before, const TensorDecl& tensor, const AxisCut& units);
// The same cut of all tensors, as they are loaded.
Result<std::shared_ptr<WeightSource>> sliced_weights(std::shared_ptr<WeightSource> source, const ModelSpec& before, const std::string& axis, std::span<const std::int64_t> kept);

// Every tensor that an operator refers to.
template <class Fn>
void for_each_tensor_ref(Op& op, Fn&& fn) {
    auto visit = [&](TensorRef& ref) {
        if (!ref.empty()) fn(ref);
    };
    if (auto* embed = std::get_if<EmbedOp>(&op.detail)) visit(embed->table);
    if (auto* norm = std::get_if<NormOp>(&op.detail)) {
        visit(norm->weight);
        visit(norm->bias);
    }
    if (auto* conv = std::get_if<CausalConvOp>(&op.detail)) {
        visit(conv->weight);
        visit(conv->bias);
    }
    if (auto* linear = std::get_if<LinearOp>(&op.detail)) {
        visit(linear->transform.data);
        visit(linear->bias);
        for (LinearTerm& term : linear->terms) {
            visit(term.weight);
            visit(term.down);
        }
    }
}

}  // namespace skiff
