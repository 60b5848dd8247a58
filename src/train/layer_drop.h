// LayerDrop (Fan et al. 2019): blocks that a micro-batch leaves out.
#pragma once

#include "base/rng.h"
#include "train/train.h"
#include "train/trainable_model.h"

namespace skiff::train {

// A function of seed, step and micro-batch. Empty: none.
inline DroppedBlocks dropped_blocks(const TrainOptions& options, std::int64_t n_blocks, std::int64_t step, std::int64_t micro) {
    if (options.layer_drop <= 0) return {};
    Rng rng(options.seed * 0x9e3779b97f4a7c15ULL + static_cast<std::uint64_t>(step) * 4096 + static_cast<std::uint64_t>(micro));
    DroppedBlocks dropped(static_cast<std::size_t>(n_blocks));
    for (std::size_t i = 0; i < dropped.size(); ++i) dropped[i] = rng.uniform() < options.layer_drop;
    return dropped;
}

}  // namespace skiff::train
