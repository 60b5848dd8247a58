// A model that can be trained: its parameters and its graph, with the loss computed in chunks of tokens so that there never are logits of them all.
#pragma once

#include <memory>

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

class TrainableModel {
public:
    static Result<std::unique_ptr<TrainableModel>> create(const ModelSpec& spec, ParameterSet parameters, const TrainableOptions& options);

    ParameterSet& parameters() { return parameters_; }
    const ModelSpec& spec() const { return spec_; }
    const TrainableOptions& options() const { return options_; }

    // tokens: (n_sequences, n_tokens) i64. Result: (n_sequences * n_tokens, n_vocab) in the number type
    at::Tensor logits(const at::Tensor& tokens) const;

    // Adds the gradient of scale * (sum of the tokens' losses) to the parameters, and returns that number. inputs, targets: (n_sequences, n_tokens)
    // i64; a negative target counts nothing.
    double add_gradients(const at::Tensor& inputs, const at::Tensor& targets, double scale, const DroppedBlocks& dropped = {}) const;
    // The sum of the tokens' losses.
    double loss_sum(const at::Tensor& inputs, const at::Tensor& targets) const;

private:
    TrainableModel(const ModelSpec& spec, ParameterSet parameters, const TrainableOptions& options)
        : spec_(spec), parameters_(std::move(parameters)), options_(options) {}
    at::Tensor hidden(const at::Tensor& tokens, const DroppedBlocks& dropped) const;  // what the head reads: (n_sequences * n_tokens, d_model)
    at::Tensor run_block(std::size_t block, const at::Tensor& tokens, std::int64_t n_tokens, const at::Tensor& in) const;
    at::Tensor head(const at::Tensor& hidden) const;
    std::int64_t head_chunk() const;

    const ModelSpec spec_;
    ParameterSet parameters_;
    TrainableOptions options_;
    std::vector<GraphBlock> blocks_;
};

}  // namespace skiff::train
