// One step of a recipe at work on a checkpoint: what a kind of step has to say for itself. All that steps have in common (one tensor or block in memory at
// a time, the calibration walk, journal, resume, manifest, atomic output) is the pipeline's.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "compress/calibrate/block_work.h"
#include "compress/calibrate/gradients.h"
#include "compress/recipe.h"
#include "compress/tensor_plan.h"
#include "formats/compressed_tensors.h"

namespace skiff {

// What became of a tensor.
struct MadeTensor {
    std::vector<StoredTensor> parts;  // exactly the planned declarations, in any order
    // What the model computes with from now on, in the parent's shape: where a step removes rows or columns, zeros stand for them. The calibration walk goes on with it.
    Weight effective;
    bool changed = false;             // and an error is worth reporting
};

class StepWork {
public:
    virtual ~StepWork() = default;

    // What becomes of each tensor: known before the work, and the same for the same model and step. Errors name the tensor.
    virtual Result<TensorPlan> plan(ThreadPool& pool, const ProgressSink& progress) = 0;

    // What plan() found out and chose by it, for the manifest; the same for the same model and step. Null: nothing.
    virtual Json found() const { return {}; }

    // What it must know of the calibration text; none: tensors are made one by one in the order of their keys.
    virtual StatisticsNeed needs() const { return StatisticsNeed::none; }
    virtual CalibrationOptions calibration() const { return {}; }
    // The calibration text, where plan() read it for what the walk does not do; null: it did not.
    virtual const CalibrationText* text() const { return nullptr; }
    // Whether it looks at the calibration text at all; known after plan().
    virtual bool reads_text() const { return needs() != StatisticsNeed::none || text() != nullptr; }
    // Once before the tensors of a block, when its inputs have been measured: here weights of the block may be replaced before they are made.
    virtual Status begin_block(std::size_t block, BlockWork& work, ThreadPool& pool) {
        (void)block, (void)work, (void)pool;
        return {};
    }

    // One tensor, from the parent's weights or edited ones. `inputs`: of the operators that read it, or null. What was done otherwise than asked goes to `remarks`.
    virtual Result<MadeTensor> make(const PlannedTensor& planned, const WeightSource& weights, const InputStatistics* inputs, ThreadPool& pool, std::vector<std::string>& remarks) = 0;

    virtual Result<Json> config(const TensorPlan& plan) const = 0;                // config.json of the result
    virtual Result<double> seconds(const TensorPlan& plan, ThreadPool& pool) = 0;  // about, without the walk; 0: next to nothing
};

// Parent and gradients must outlive the work. Without gradients (null) steps that need them are refused.
Result<std::unique_ptr<StepWork>> make_step_work(const Checkpoint& parent, const RecipeStep& step, const GradientSource* gradients = nullptr);

// ---- the kinds, one file each
Result<std::unique_ptr<StepWork>> begin_quantize(const Checkpoint& parent, const QuantizeStep& step, const GradientSource* gradients);
Result<std::unique_ptr<StepWork>> begin_rotate(const Checkpoint& parent, const RotateStep& step);
Result<std::unique_ptr<StepWork>> begin_prune(const Checkpoint& parent, const PruneStep& step, const GradientSource* gradients);
Result<std::unique_ptr<StepWork>> begin_structure(const Checkpoint& parent, const StructureStep& step, const GradientSource* gradients);  // neurons, heads, KV groups
Result<std::unique_ptr<StepWork>> begin_factorize(const Checkpoint& parent, const FactorizeStep& step);
Result<std::unique_ptr<StepWork>> begin_share(const Checkpoint& parent, const ShareStep& step);
Result<std::unique_ptr<StepWork>> begin_hash(const Checkpoint& parent, const ShareStep& step);  // with step.hash
Result<std::unique_ptr<StepWork>> begin_hidden(const Checkpoint& parent, const StructureStep& step);
Result<std::unique_ptr<StepWork>> begin_layers(const Checkpoint& parent, const StructureStep& step);

}  // namespace skiff
