#include "model/extra_terms.h"

#include <set>

namespace skiff {
namespace {

TensorRef ref_to(std::string key) {
    TensorRef ref;
    ref.key = std::move(key);
    return ref;
}

}  // namespace

Status attach_extra_terms(ModelSpec& spec, const WeightSource& weights) {
    std::set<std::string> replaced;  // weights that are not there, as their factors are
    for (Block& block : spec.blocks) {
        for (Op& op : block.ops) {
            auto* linear = std::get_if<LinearOp>(&op.detail);
            if (linear == nullptr || linear->terms.size() != 1) continue;
            const std::string key = linear->terms[0].weight.key;
            constexpr std::string_view end = ".weight";
            if (key.size() <= end.size() || key.compare(key.size() - end.size(), end.size(), end) != 0) continue;
            const std::string base = key.substr(0, key.size() - end.size());
            const Dimension out = spec.values[static_cast<std::size_t>(op.out)].dimension,
                            in = spec.values[static_cast<std::size_t>(op.in[0])].dimension;
            if (weights.contains(base + ".low_rank_up") && weights.contains(base + ".low_rank_down")) {
                SKIFF_TRY(auto down, weights.load(base + ".low_rank_down"));
                if (down.shape.size() != 2)
                    return corrupt("tensor " + base + ".low_rank_down: expected two dimensions, found " + shape_text(down.shape));
                const std::string axis = base + ".rank";
                if (spec.find_axis(axis) == nullptr) spec.axes.push_back({axis, down.shape[0], 1});
                // The up factor has the rows of the stored weight, so that operators on some of its rows take the same rows of it.
                const Dimension rows = spec.tensors.at(key).dimensions[linear->terms[0].weight.transposed ? 1 : 0];
                spec.tensors.emplace(base + ".low_rank_up",
                                     TensorDecl{base + ".low_rank_up", {rows, {{axis, 1}}}, TensorDecl::Role::linear, TensorDecl::Need::optional});
                spec.tensors.emplace(base + ".low_rank_down",
                                     TensorDecl{base + ".low_rank_down", {{{axis, 1}}, in}, TensorDecl::Role::linear, TensorDecl::Need::optional});
                LinearTerm term{LinearTerm::Kind::low_rank, ref_to(base + ".low_rank_up"), ref_to(base + ".low_rank_down")};
                term.weight.rows = linear->terms[0].weight.rows;
                if (!weights.contains(key)) {
                    replaced.insert(key);
                    linear->terms.clear();
                }
                linear->terms.push_back(term);
            }
            if (weights.contains(base + ".outliers")) {
                // Rows as of the stored weight, here too.
                const Dimension rows = spec.tensors.at(key).dimensions[linear->terms[0].weight.transposed ? 1 : 0];
                spec.tensors.emplace(base + ".outliers", TensorDecl{base + ".outliers", {rows, in}, TensorDecl::Role::other, TensorDecl::Need::optional});
                LinearTerm term{LinearTerm::Kind::sparse, ref_to(base + ".outliers"), {}};
                term.weight.rows = linear->terms[0].weight.rows;
                linear->terms.push_back(term);
            }
            if (weights.contains(base + ".input_scale")) {
                spec.tensors.emplace(base + ".input_scale",
                                     TensorDecl{base + ".input_scale", {in}, TensorDecl::Role::other, TensorDecl::Need::optional});
                linear->transform = {InputTransform::Kind::scale, ref_to(base + ".input_scale")};
            }
            if (const std::string fixed = base + std::string(fixed_scale_end); weights.contains(fixed)) {
                SKIFF_TRY(const auto scale, weights.load(fixed));
                scale.row(0, &linear->input_scale);
            }
            if (const std::string order = base + std::string(input_permutation_end); weights.contains(order)) {
                SKIFF_CHECK(weights.load(order));
                if (linear->transform.kind != InputTransform::Kind::none) return unsupported("module " + base + ": its inputs are scaled and reordered at once");
                spec.tensors.emplace(order, TensorDecl{order, {in}, TensorDecl::Role::other, TensorDecl::Need::optional});
                linear->transform = {InputTransform::Kind::permutation, ref_to(order)};
            }
        }
    }
    for (const std::string& key : replaced) spec.tensors.erase(key);
    return {};
}

}  // namespace skiff
