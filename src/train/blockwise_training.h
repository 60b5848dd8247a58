// Distillation block by block: each block of the student learns, by itself, to do in one step what a stretch of the teacher's blocks does. Of both models one
// block at a time is in memory.
//
// A round is as many steps as leave room for the streams between blocks (--stream-mb). In a round the blocks take their steps one after the other, each on the
// teacher's streams before and behind its stretch, which are all it needs: a block is read from its file with its moments, takes all steps of the round, and is
// written back. What it learns does not depend on the other blocks, nor on where rounds end.
#pragma once

#include "train/training_setup.h"

namespace skiff::train {

// Precondition: `setup` has its texts, sizes and maker. Sets setup.distillation too.
Result<std::unique_ptr<BlockwiseSetup>> prepare_blockwise(TrainingSetup& setup, const Checkpoint& parent, const TrainOptions& options);

// All steps of all blocks. Fills the report's losses and times.
Status run_blockwise(TrainingSetup& setup, const TrainOptions& options, const TrainObserver& observer, TrainReport& report);

}  // namespace skiff::train
