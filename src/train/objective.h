// What a training step minimises: the label's cross-entropy, or a distance from a teacher.
#pragma once

#include <memory>

#include "train/batches.h"
#include "train/trainable_model.h"

namespace skiff::train {

struct MicroBatch {
    at::Tensor inputs, targets;      // (n windows, window) i64
    std::uint64_t first_window = 0;  // in the order of training
    double scale = 1;                // of the tokens' losses: 1 / tokens of a step
    SubNetwork network;              // that computes
    std::int64_t step = 0, micro = 0;  // numbers of the step and of the micro-batch in it
    std::function<void(const Pass&)> look = nullptr;  // gets what the pass kept
};

class Objective {
public:
    virtual ~Objective() = default;
    // Adds the gradient of the micro-batch's share of the step's loss to the parameters, and returns that share.
    virtual Result<double> add_gradients(const MicroBatch& batch) = 0;
    // What is trained beside the model: learnt projections.
    virtual std::vector<ParameterSet::Trained> trained() const { return {}; }
    virtual Json describe() const { return Json(); }  // for the manifest and the fingerprint; null: labels alone
};

std::unique_ptr<Objective> label_objective(const TrainableModel& model);

// `model` and `batches` must outlive it.
Result<std::unique_ptr<Objective>> distillation_objective(TrainableModel& model, const Batches& batches, const TrainOptions& options, std::int64_t window, const TrainObserver& observer);

// Teacher and student have one vocabulary, and a tokenizer that is given is the teacher's.
Status check_vocabulary(const Checkpoint& teacher, const ModelSpec& student, const TrainOptions& options);

// Which residual stream of the teacher (0: before its first block) each student block's output is held against: evenly spread, the last against the last.
std::vector<std::int64_t> matched_streams(std::int64_t n_student_blocks, std::int64_t n_teacher_blocks);

}  // namespace skiff::train
