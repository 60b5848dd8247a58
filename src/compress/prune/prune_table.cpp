#include "compress/prune/prune_method.h"

namespace skiff {
namespace {

constexpr PruneMethod methods[] = {
    {"magnitude", "the smallest weights go (L1); needs no data", any_pattern, magnitude_prune, StatisticsNeed::none, PruneMethod::Gradients::none, magnitude_scores},
    {"magnitude-l2", "the same by squares (L2), which differs for blocks: one large weight saves its block", any_pattern, magnitude_squared_prune, StatisticsNeed::none, PruneMethod::Gradients::none, magnitude_squared_scores},
    {"wanda", "the smallest weights times the size of their inputs go", any_pattern, wanda_prune, StatisticsNeed::moments, PruneMethod::Gradients::none, wanda_input_scores},
    {"snip", "those whose loss answers least to their size go: weight times gradient of the loss, summed over the text as magnitudes (needs LibTorch)", any_pattern, sensitivity_prune, StatisticsNeed::none, PruneMethod::Gradients::magnitudes, sensitivity_scores},
    {"taylor", "the same, summed as squares (needs LibTorch)", any_pattern, sensitivity_prune, StatisticsNeed::none, PruneMethod::Gradients::squares, sensitivity_scores},
    {"sparsegpt", "those whose loss the others make up for best go, and the others make up for it", sparsegpt_defined_on, sparsegpt_prune, StatisticsNeed::gram},
};

}  // namespace

std::span<const PruneMethod> prune_methods() { return methods; }

Result<const PruneMethod*> find_prune_method(std::string_view name) {
    std::string known;
    for (const PruneMethod& method : methods) {
        if (method.name == name) return &method;
        known += (known.empty() ? "" : ", ") + std::string(method.name);
    }
    return usage_error("no pruning method is called \"" + std::string(name.substr(0, 64)) + "\"; there are: " + known);
}

}  // namespace skiff
