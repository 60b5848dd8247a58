// A model of some of another's decoder blocks: the student that a distillation begins with (DistilBERT, Sanh et al. 2019: every other layer).
#pragma once

#include <string_view>

#include "model/checkpoint.h"

namespace skiff {

// "0,2,4", "every-other", or "first-N"; ascending, without repetition, each below n_layers.
Result<std::vector<std::int64_t>> parse_layers(std::string_view text, std::int64_t n_layers);

// The checkpoint with these blocks only, in this order: its config says so, and its weights are the parent's under the new numbers. Nothing is copied.
Result<Checkpoint> select_layers(const Checkpoint& parent, const std::vector<std::int64_t>& layers);

}  // namespace skiff
