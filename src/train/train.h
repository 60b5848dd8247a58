// Training as the command line asks for it: from fresh weights or a checkpoint, over texts or packed tokens, to a model folder. No LibTorch here.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/progress.h"
#include "base/result.h"
#include "compress/calibrate/gradients.h"
#include "compress/quantize/static_inputs.h"
#include "model/checkpoint.h"
#include "model/scheme_choice.h"
#include "train/schedule.h"

namespace skiff::train {

bool training_available();         // false: this program was built without LibTorch
std::string training_library();    // "LibTorch 1.13.1", or why there is none
std::string training_ranks();      // what several ranks can meet through: "Gloo", "Gloo, NCCL"; empty: nothing

const GradientSource* gradient_source();  // for the methods of compress that ask for gradients; null: without LibTorch

struct DataOptions {
    std::vector<std::string> texts;    // .txt, .jsonl, or .tokens that were packed before
    std::string validation;            // likewise; may be empty
    std::string tokenizer;             // folder; empty: the model's own
    std::string jsonl_field = "text", separator = "<|endoftext|>";
};

// Learning from a teacher as well as from the text.
enum class Divergence : std::uint8_t { forward_kl, reverse_kl, jsd };
struct DistillOptions {
    std::string teacher;        // a model; empty: the text alone
    Divergence divergence = Divergence::forward_kl;
    double temperature = 1;     // of both distributions; the divergence is multiplied by its square
    double alpha = 0.9;         // of the divergence; the text's own next token has the rest
    double beta = 0.5;          // JSD: share of the teacher in the middle
    std::string cache;          // file of the teacher's word on the windows; empty: it runs beside
    std::int64_t cache_top = 64;
    double hidden_weight = 0;     // of the hidden states' relative squared distance
    double on_policy = 0;         // share of micro-batches on which the student continues the text's windows itself
    std::int64_t on_policy_prompt = 0;  // tokens of the text in front of that; 0: a quarter of the window
    double attention_weight = 0;  // of the distance of relations among tokens in the last blocks
    enum class BlockWise : std::uint8_t { off, on } block_wise = BlockWise::off;  // each block alone, on the teacher's hidden states
    std::int64_t stream_mb = 512;  // block by block: memory for these hidden states, MiB; one step's that do not fit go to a file
};

// Training with weights as a scheme stores them.
struct QuantTrainOptions {
    std::optional<SchemeWish> schemes;  // nothing: none
    enum class Train : std::uint8_t { all, scales } train = Train::all;
    // Inputs of rounded weights: as they are; as the int8 kernels code them, or as `inputs` says, where the file can say so; or 8-bit floats, as --gemm fp8 has them.
    enum class Activations : std::uint8_t { floats, int8, fp8 } activations = Activations::floats;
    InputScaleRule inputs;  // of int8
};

// Zeros that come while training goes on, by magnitude, in the matrices of the blocks.
struct SparsifyOptions {
    double target = 0;             // share of zeros in the end; 0: none
    std::int64_t pattern_n = 0, pattern_m = 0;  // N of each M inputs stay, instead of a share
    std::string mask_from;         // model whose magnitudes choose the zeros, before the first step; empty: the weights' own, as they are trained
    enum class Course : std::uint8_t { cubic, stages, once } course = Course::cubic;
    std::int64_t until = 0;        // step from which all zeros are there
    std::int64_t every = 10;       // steps between masks on the way
    std::int64_t n_stages = 4;
    enum class Scope : std::uint8_t { row, tensor, global } scope = Scope::row;
    bool any() const { return target > 0 || pattern_m > 0; }
};

// Sub-networks of one set of weights, trained together. Lists ascend and end with the whole; empty: the dimension is not elastic.
struct ElasticOptions {
    enum class Rule : std::uint8_t { off, uniform, fair, sandwich } rule = Rule::off;  // which of them a micro-batch trains: train/elastic.h
    std::vector<double> neurons;          // shares of each feed-forward's neurons that stay, the leading ones
    std::vector<std::int64_t> kv_groups;  // of each layer that stay, the leading ones
    std::vector<std::int64_t> layers;     // that stay
    std::int64_t n_random = 2;            // sandwich: beside the largest and the smallest
    // What sub-networks learn from: the largest one's distribution, or what the largest learns from itself. automatic: largest for sandwich.
    enum class Teach : std::uint8_t { automatic, largest, same } teach = Teach::automatic;
};

struct TrainOptions {
    DataOptions data;
    DistillOptions distill;
    SparsifyOptions sparsify;
    QuantTrainOptions quant;
    ElasticOptions elastic;
    std::string output;
    enum class IfExists : std::uint8_t { refuse, replace } if_exists = IfExists::refuse;
    enum class Unfinished : std::uint8_t { resume, restart } unfinished = Unfinished::resume;

    std::int64_t n_steps = 1000;
    std::int64_t batch = 32;        // windows per step, of all ranks together
    std::int64_t micro_batch = 0;   // windows at a time; 0: about 4096 tokens
    std::int64_t context = 0;       // tokens per window; 0: what the config says, at most 1024
    std::uint64_t seed = 1;
    Schedule schedule;
    enum class Optimizer : std::uint8_t { adamw, muon } optimizer = Optimizer::adamw;
    double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1, clip = 1;

    enum class Numbers : std::uint8_t { automatic, f32, bf16 } numbers = Numbers::automatic;
    enum class Device : std::uint8_t { automatic, cpu, cuda } device = Device::automatic;
    enum class Recompute : std::uint8_t { off, blocks } recompute = Recompute::off;
    enum class Zeros : std::uint8_t { keep, train } zeros = Zeros::keep;  // of pruned weights
    enum class Operators : std::uint8_t { fused, composed } operators = Operators::fused;
    double layer_drop = 0;

    std::int64_t lora_rank = 0;  // 0: all weights are trained
    double lora_alpha = 16;
    std::vector<std::string> lora_names;
    enum class LoraOutput : std::uint8_t { merged, adapter } lora_output = LoraOutput::merged;

    std::string dtype = "auto";  // of the weights that are written: auto, F32, F16, BF16
    std::int64_t evaluate_every = 100, evaluate_windows = 64, save_every = 100, sample_every = 0, sample_tokens = 64;
    std::string sample_prompt = "Once upon a time";
    int n_threads = 1;
    std::string dump_windows;  // file that gets the first token of each window in the order of training

    // Data parallelism: this process is one of several, which meet at a file that all can reach, or at HOST:PORT where rank 0 listens.
    int rank = 0, n_ranks = 1;
    std::string meeting;
};

struct StepReport {
    std::int64_t step = 0, n_steps = 0;  // step counts from 1
    std::int64_t block = -1;             // block by block: whose step it is, from 0; -1: of all
    double loss = 0, learning_rate = 0, gradient_norm = 0;
    double tokens_per_s = 0;             // since the beginning of this process
    double seconds = 0, seconds_left = 0;
};
struct TrainObserver {
    std::function<void(const std::string&)> on_remark;
    std::function<void(const StepReport&)> on_step;
    std::function<void(std::int64_t step, double loss)> on_validation;
    std::function<void(std::int64_t step, const std::string& text)> on_sample;
    ProgressSink progress;  // of packing texts
};

struct TrainReport {
    std::int64_t n_steps = 0, resumed_at = 0;
    std::uint64_t n_tokens = 0;       // seen in all steps
    std::uint64_t corpus_tokens = 0;
    std::int64_t n_parameters = 0, n_trained = 0;
    double first_loss = 0, last_loss = 0;             // of one step, nats a token
    double validation_loss = 0;                       // at the end; 0 without a validation text
    double seconds = 0, tokens_per_s = 0;             // of this process
    std::uint64_t peak_memory_bytes = 0;
    struct Streams {  // between blocks that are trained one after the other; 0 steps: all at once
        std::int64_t steps_per_round = 0;
        std::uint64_t bytes = 0;  // of a round, at most
        bool in_file = false;
    } streams;
    Json step;                                        // as the manifest has it
};

// `parent` of kind random: fresh weights in its shape, by seed. An interrupted run has saved its state: the same call goes on with it.
Result<TrainReport> run_training(const Checkpoint& parent, const TrainOptions& options, const TrainObserver& observer);

}  // namespace skiff::train
