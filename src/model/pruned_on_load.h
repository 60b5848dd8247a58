// A model as if it had been pruned by magnitude (and quantized), without writing anything: for `bench random:... --prune`.
#pragma once

#include "model/weight_source.h"
#include "tensor/prune_target.h"

namespace skiff {

// Linear weights keep what `target` says and take the scheme of `scheme_of`, or their own type where that is null; other tensors as quantized_on_load.
std::shared_ptr<WeightSource> pruned_on_load(const ModelSpec& spec, std::shared_ptr<WeightSource> source, const PruneTarget& target, SchemeChoice scheme_of, ScaleRule rule);

}  // namespace skiff
