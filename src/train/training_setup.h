// Everything a training run works with, made from its options; and what is made of it at the end.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/atomic_file.h"
#include "compress/tensor_plan.h"
#include "text/tokenizer.h"
#include "train/batches.h"
#include "train/blockwise_setup.h"
#include "train/elastic.h"
#include "train/magnitude_masks.h"
#include "train/objective.h"
#include "train/optimizer.h"
#include "train/ranks.h"
#include "train/student_maker.h"
#include "train/train.h"
#include "train/train_state.h"
#include "train/trainable_model.h"

namespace skiff::train {

// Packed texts, in the working folder while a run lasts.
inline constexpr const char* packed_name = "train.tokens";
inline constexpr const char* packed_validation_name = "validation.tokens";

struct TrainingSetup {
    at::Device device = at::kCPU;
    std::int64_t window = 0, micro_batch = 0;
    std::optional<AtomicDirectory> directory;  // of the rank that writes
    std::string working_folder;
    std::string tokenizer_folder;
    std::optional<Tokenizer> tokenizer;
    std::unique_ptr<Ranks> ranks;
    std::optional<Batches> data, validation;
    TrainableOptions trainable;
    std::optional<TensorPlan> quant_plan;  // what each tensor becomes, where weights are quantized
    std::optional<Checkpoint> mask_from;   // whose magnitudes choose the zeros, where not the weights' own do
    std::string masks_hash;                // its content; empty: none
    std::optional<StudentMaker> maker;
    Json distillation;                     // what is learnt from a teacher; null: nothing
    std::unique_ptr<BlockwiseSetup> blockwise;  // instead of all that follows, where blocks are trained one after the other
    std::unique_ptr<TrainableModel> model;
    std::optional<ElasticSpace> elastic;
    std::unique_ptr<Objective> objective;
    std::vector<ParameterSet::Trained> trained;
    std::unique_ptr<Optimizer> optimizer;
    StateTensors state;
    std::optional<MagnitudeMasks> masks;   // where zeros come while training goes on
    std::string fingerprint;
};

Result<std::unique_ptr<TrainingSetup>> prepare_training(const Checkpoint& parent, const TrainOptions& options, const TrainObserver& observer);

OptimizerSettings optimizer_settings(const TrainOptions& options, const TrainableOptions& trainable);

// The same wish as a step of `skiff quantize`, and for the manifest. Preconditions: options.schemes.
QuantizeStep quantize_step(const QuantTrainOptions& options);
const char* activations_name(const QuantTrainOptions& options);  // as --activations has it
Json quantization_json(const QuantTrainOptions& options);
Json sparsity_json(const SparsifyOptions& options, const std::string& masks_hash);

// The type that --dtype asks for; nothing for auto.
Result<std::optional<DType>> stored_dtype(const TrainOptions& options);

// What the model writes now, by the engine's own kernels.
Result<std::string> sample_text(const TrainingSetup& setup, const TrainOptions& options);

// The model folder: weights, config, tokenizer, manifest, log; appears under its name when complete.
Status write_trained(TrainingSetup& setup, const Checkpoint& parent, const TrainOptions& options, TrainReport& report);

}  // namespace skiff::train
