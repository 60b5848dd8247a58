// Norms and biases that make up for what became of a block's weights, as tensors of a step: quantize and prune have them alike.
#pragma once

#include <set>
#include <string>

#include "compress/quantize/corrections.h"
#include "compress/step_work.h"

namespace skiff {

// The tensors of the plan that settle() gives other values, put behind all others (of their block); gains take f32, since they move by less than 16 bits may
// hold. Counts what corrections hold in memory. Says which operators cannot be corrected.
std::set<std::string> plan_corrections(const BlockCorrections& corrections, TensorPlan& plan);

// One of these, when the other tensors of its block are done.
Result<MadeTensor> make_corrected(BlockCorrections& corrections, const PlannedTensor& planned, const WeightSource& weights, ThreadPool& pool);

}  // namespace skiff
