// The calibration walk: the samples' hidden states go through the model block by block, so that one block's weights and one set of hidden states are in
// memory, whatever the model's size. At each block a method may see what its operators are fed, change its weights, and send the states on through them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "compress/calibrate/calibration_text.h"
#include "compress/calibrate/statistics.h"
#include "plan/block_runner.h"
#include "plan/session.h"

namespace skiff {

class InputObserver;

// Statistics by the key of the weight that reads the input. Weights that read the same value share them.
using BlockInputs = std::map<std::string, std::shared_ptr<const InputStatistics>>;

class CalibrationWalk {
public:
    // The spec's blocks are numbered from 0 (the embedding) to n_blocks() - 1 (the head). Blocks run with float activations on the processor; or where `runner` runs them, which also
    // adds up what is observed: with the roundings of that place.
    CalibrationWalk(const ModelSpec& spec, const CalibrationText& text, int n_threads, BlockRunner* runner = nullptr) : spec_(spec), text_(text), n_threads_(n_threads), runner_(runner) {}

    std::size_t n_blocks() const { return spec_.blocks.size(); }
    const CalibrationText& text() const { return text_; }

    // Block 0: from tokens to hidden states.
    Status embed(const WeightSource& weights);

    // What the linear operators of a block are fed when the hidden states as they are now enter it.
    Result<BlockInputs> observe(std::size_t block, const WeightSource& weights, StatisticsNeed need) { return observe(block, block, weights, need); }
    // What its weights are fed in all blocks up to `last`, which use the same tensors. The hidden states stay where they are.
    Result<BlockInputs> observe(std::size_t block, std::size_t last, const WeightSource& weights, StatisticsNeed need);
    // The last of the blocks from this one on that share tensors of linear operators with it.
    std::size_t last_sharing(std::size_t block) const;

    // Lets the hidden states pass through a block.
    Status advance(std::size_t block, const WeightSource& weights);

    // Any values of a block, sample by sample: values[i] is that of ids[i]. // (n_tokens, width) f32 each. The pool is idle meanwhile.
    using ValueSink = std::function<Status(std::int64_t sample, std::span<const std::span<const float>> values, ThreadPool& pool)>;
    Status watch(std::size_t block, const WeightSource& weights, std::span<const ValueId> ids, const ValueSink& sink);

    // The hidden states that enter the next block, all samples behind one another. // (n_tokens, d_model) f32
    std::span<const float> hidden() const { return hidden_; }

    // For a run that goes on later: the hidden states as a file with a checksum. Restoring wants the same text and width.
    Status save(const std::string& path) const;
    Status restore(const std::string& path);

private:
    enum class Outputs : std::uint8_t { dropped, kept };
    // Who looks at values on the way: at their numbers, or, value by value, at their sums.
    struct Look {
        std::span<const ValueId> ids;
        ValueSink sink;
        std::span<InputObserver* const> observers;
    };
    Status run(std::size_t block, const WeightSource& weights, const Look& look, Outputs outputs);
    Result<std::unique_ptr<Session>> open(std::size_t block, const WeightSource& weights, std::span<const ValueId> ids) const;
    Status observe_run(const Look& look, const Block& stretch, std::span<const float> input, Session& session) const;

    const ModelSpec& spec_;
    const CalibrationText& text_;
    int n_threads_;
    BlockRunner* runner_;
    std::vector<float> hidden_;
};

// The value that a linear operator's weight is multiplied with, by key; of the operators of one block. Operators with an input transform are left out.
std::map<std::string, ValueId> linear_inputs(const Block& block);

// Some tensors replaced, all others as they are. What replaces a tensor may be plain numbers of any type.
class EditedWeights final : public WeightSource {
public:
    explicit EditedWeights(std::shared_ptr<const WeightSource> base) : base_(std::move(base)) {}
    void replace(const std::string& key, Weight weight) { edits_[key] = std::move(weight); }
    // By what rounds better and is another weight: errors are of what it was before.
    Status clip(const std::string& key, Weight weight) {
        SKIFF_TRY(auto whole, load(key));
        unclipped_.emplace(key, std::move(whole));
        replace(key, std::move(weight));
        return {};
    }
    Result<Weight> unclipped(const std::string& key) const {
        const auto found = unclipped_.find(key);
        return found == unclipped_.end() ? load(key) : Result<Weight>(found->second);
    }
    void clear() {
        edits_.clear();
        unclipped_.clear();
    }
    bool contains(const std::string& key) const override { return edits_.count(key) != 0 || base_->contains(key); }
    Result<Weight> load(const std::string& key) const override;
    std::vector<std::string> keys() const override { return base_->keys(); }

private:
    std::shared_ptr<const WeightSource> base_;
    std::map<std::string, Weight> edits_, unclipped_;
};

// The weight as f32, as kernels with float activations read it.
Weight as_floats(const Weight& weight, ThreadPool& pool);

}  // namespace skiff
