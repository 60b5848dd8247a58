// A model that can be trained: its parameters and its graph, with the loss computed in chunks of tokens so that there never are logits of them all.
#pragma once

#include <array>
#include <functional>
#include <memory>

#include "compress/structure/cut_axes.h"
#include "train/graph.h"

namespace skiff::train {

struct TrainableOptions {
    at::Device device = at::kCPU;
    at::ScalarType numbers = at::kFloat;
    Form form = Form::automatic;
    bool recompute_blocks = false;  // activation checkpointing: keep only what flows between blocks
};

// Blocks that a pass leaves out (LayerDrop, Fan et al. 2019): by decoder block; empty: none.
using DroppedBlocks = std::vector<bool>;

// A part of the model that computes by itself: what the model cut to it would compute (skiff prune).
struct SubNetwork {
    DroppedBlocks dropped = {};
    std::size_t widths = 0;  // 0: whole; else as add_leading_units() gave it
};

// What a pass keeps beside its result, for losses on the inside of a model.
struct Watch {
    bool streams = false;              // the residual stream before the first decoder block and after each
    std::int64_t attention_block = -1; // whose queries, keys and values (before rope); -1: none
};
struct Pass {
    at::Tensor hidden;                 // what the head reads: (n_sequences * n_tokens, d_model)
    std::vector<at::Tensor> streams;   // (n_layers + 1) of that shape, if watched
    std::array<at::Tensor, 3> qkv;     // (n_sequences * n_tokens, n_heads * head_dim) each, if watched
};
// What some tokens cost by their logits, which it may overwrite: a scalar f64. `first`: the first of them among all tokens of the pass.
using LogitsLoss = std::function<at::Tensor(const at::Tensor& logits, std::int64_t first)>;
// What a pass costs beside that: a scalar, or undefined.
using InsideLoss = std::function<at::Tensor(const Pass& pass)>;

class TrainableModel {
public:
    static Result<std::unique_ptr<TrainableModel>> create(const ModelSpec& spec, ParameterSet parameters, const TrainableOptions& options);

    ParameterSet& parameters() { return parameters_; }
    const ParameterSet& parameters() const { return parameters_; }
    const ModelSpec& spec() const { return spec_; }
    const TrainableOptions& options() const { return options_; }

    // tokens: (n_sequences, n_tokens) i64. Result: (n_sequences * n_tokens, n_vocab) in the number type
    at::Tensor logits(const at::Tensor& tokens) const;

    // Adds the gradient of scale * (sum of the tokens' losses) to the parameters, and returns that number. inputs, targets: (n_sequences, n_tokens)
    // i64; a negative target counts nothing.
    double add_gradients(const at::Tensor& inputs, const at::Tensor& targets, double scale, const SubNetwork& part = {}, const InsideLoss& inside_loss = nullptr) const;
    // The same for any loss. Returns the sum of what both functions cost.
    double add_gradients(const at::Tensor& inputs, const LogitsLoss& logits_loss, const SubNetwork& part, const Watch& watch, const InsideLoss& inside_loss) const;
    // The residual stream before the first decoder block. // tokens: (n_sequences, n_tokens) i64; result: (n_sequences * n_tokens, d_model)
    at::Tensor embedded(const at::Tensor& tokens) const;
    // One decoder block (from 0) on a residual stream of its own. // in, result: (n_sequences * n_tokens, d_model)
    at::Tensor decoder_block(std::int64_t block, const at::Tensor& tokens, const at::Tensor& in) const;
    Pass observe(const at::Tensor& tokens, const Watch& watch, const SubNetwork& part = {}) const;
    at::Tensor head(const at::Tensor& hidden) const;  // (n, d_model) to logits (n, n_vocab)
    std::int64_t head_chunk() const;                  // tokens whose logits are computed at a time
    // The decoder block's attention reads these; an error if there is none, or its projections go elsewhere first.
    Status check_watch(const Watch& watch) const;
    // The sum of the tokens' losses.
    double loss_sum(const at::Tensor& inputs, const at::Tensor& targets, const SubNetwork& part = {}) const;
    double head_loss_sum(const at::Tensor& hidden, const at::Tensor& targets) const;  // by what the head reads

    // Lets passes compute with the first n_kept units of these axes only (SubNetwork::widths); 0, the whole, for none. The layers share the widths.
    Result<std::size_t> add_leading_units(const std::vector<CutAxis>& axes);
    const ModelSpec& spec_of(const SubNetwork& part) const { return part.widths == 0 ? spec_ : narrow_[part.widths - 1]->spec; }

private:
    TrainableModel(const ModelSpec& spec, ParameterSet parameters, const TrainableOptions& options)
        : spec_(spec), parameters_(std::move(parameters)), options_(options) {}
    // What a block runs on.
    struct BlockInput {
        std::size_t widths = 0;
        at::Tensor tokens;
        std::int64_t n_tokens = 0;
        at::Tensor stream;  // undefined before the first block
    };
    at::Tensor run_block(std::size_t block, const BlockInput& input, std::array<at::Tensor, 3>* qkv = nullptr) const;

    const ModelSpec spec_;
    ParameterSet parameters_;
    TrainableOptions options_;
    const ParameterView whole_{parameters_};
    std::vector<GraphBlock> blocks_;
    struct Narrow {
        ModelSpec spec;
        ParameterView view;
        std::vector<GraphBlock> blocks;
    };
    std::vector<std::unique_ptr<Narrow>> narrow_;
};

}  // namespace skiff::train
