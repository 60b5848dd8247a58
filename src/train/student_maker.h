// The model to be trained, whole or a part of it, as it is before the first step: weights, zeros that stay, roundings, adapters, masks, graph.
#pragma once

#include <memory>
#include <optional>

#include "compress/tensor_plan.h"
#include "train/magnitude_masks.h"
#include "train/train.h"
#include "train/trainable_model.h"

namespace skiff::train {

struct Student {
    std::unique_ptr<TrainableModel> model;
    std::optional<MagnitudeMasks> masks;  // where zeros come while training goes on
    // Of the tensors of the part.
    std::size_t n_hashed = 0, n_pruned = 0, n_rounded = 0, n_adapters = 0;
};

// --gemm fp8 multiplies such a weight's codes with its inputs' codes: a matrix of a block. The head never is.
bool multiplies_e4m3(const PlannedTensor& planned);

class StudentMaker {
public:
    struct Settings {
        TrainableOptions trainable;
        const TensorPlan* quant_plan = nullptr;  // null: nothing is rounded
        const Checkpoint* mask_from = nullptr;   // null: masks are of the weights' own magnitudes
    };
    // All of it must outlive this.
    StudentMaker(const Checkpoint& parent, const TrainOptions& options, const Settings& settings);

    // `spec`: the parent's, or a part of it.
    Result<Student> make(const ModelSpec& spec) const;

private:
    Status check_hashed(const ParameterSet& parameters) const;
    std::size_t keep_zeros(ParameterSet& parameters) const;
    InputForm input_form(const PlannedTensor& planned) const;
    Result<std::size_t> round(const ModelSpec& spec, ParameterSet& parameters) const;

    const Checkpoint& parent_;
    const TrainOptions& options_;
    Settings settings_;
    std::shared_ptr<const WeightSource> source_;
};

}  // namespace skiff::train
