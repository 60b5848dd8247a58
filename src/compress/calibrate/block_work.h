// What the pipeline keeps while a method that looks at the data goes through a model: the walk, the block's statistics, and what became of its weights.
#pragma once

#include <memory>
#include <string>

#include "compress/calibrate/walk.h"
#include "compress/quantize/couplings.h"

namespace skiff {

class BlockWork {
public:
    BlockWork(const Checkpoint& parent, CalibrationText text, StatisticsNeed need, int n_threads, BlockRunner* runner = nullptr)
        : spec_(parent.spec), text_(std::move(text)), need_(need), walk_(spec_, text_, n_threads, runner), weights_(parent.weights) {}

    const CalibrationText& text() const { return text_; }

    // Measures what the block's operators are fed, in the later blocks that share their weights as well. The embedding and the head are not measured: their tables are rounded without data.
    Status enter(std::size_t block);
    const InputStatistics* inputs(const std::string& key) const;  // null: not measured in this block
    // Another look at values of the block that was entered, with its weights as they are now; see CalibrationWalk::watch.
    Status watch(std::size_t block, std::span<const ValueId> ids, const CalibrationWalk::ValueSink& sink) { return walk_.watch(block, weights_, ids, sink); }
    // The parent's weights, but for those of this block that were replaced.
    const WeightSource& weights() const { return weights_; }
    // Of those that were clipped what they were before, which errors are measured against.
    Result<Weight> unclipped(const std::string& key) const { return weights_.unclipped(key); }
    // For what edits the weights of a block together with the statistics of their inputs.
    ScaledBlock editable(ThreadPool& pool) { return {weights_, inputs_, pool}; }
    bool shares_weights(std::size_t block) const { return walk_.last_sharing(block) != block; }  // with later blocks
    bool is_decoder_block(std::size_t block) const { return block > 0 && block + 1 < walk_.n_blocks(); }
    // What became of a weight of this block, as it is stored; a matrix that is stored as columns has been turned back. Later readers in the block see it.
    void replace(const std::string& key, const Weight& result, ThreadPool& pool);
    // Sends the hidden states through the block as it is now, and through those before `next` that have no tensors of their own.
    Status leave(std::size_t block, std::size_t next);

    // Between two blocks: the states that enter `next`, in a file beside the journal. One file at a time stays.
    Status save(const std::string& folder, std::size_t next) const;
    Status forget(const std::string& folder, std::size_t next) const;
    Status restore(const std::string& folder, std::size_t next);

private:
    const ModelSpec& spec_;
    CalibrationText text_;
    StatisticsNeed need_;
    CalibrationWalk walk_;
    EditedWeights weights_;
    BlockInputs inputs_;
};

}  // namespace skiff
