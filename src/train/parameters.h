// The tensors of a model as leaves of LibTorch's graph, and the ways back: to a WeightSource, so that the engine runs what was trained.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "model/weight_source.h"
#include "train/fake_quant.h"
#include "train/hashed_bank.h"
#include "train/input_quant.h"
#include "train/stored_masks.h"

namespace skiff::train {

struct Parameter {
    std::string key;
    TensorDecl::Role role = TensorDecl::Role::other;
    DType stored = DType::f32;  // in the checkpoint it came from
    bool columns = false;       // the checkpoint's shape is (inputs, outputs); codes and what is stored sparse are (outputs, inputs)
    at::Tensor value;           // f32, in the checkpoint's shape, or the bank of hashed weights; requires a gradient unless frozen
    at::Tensor mask;            // where weights were pruned: 0 there, 1 elsewhere, f32; undefined: nowhere
    MaskForm mask_form;         // how it is written
    // What the checkpoint says of zeros: pruned where they are many; rounded to (of codes, pruned or not); or it has the mask itself: in `kept`, as `mask`.
    enum class Zeros : std::uint8_t { counted, rounded, listed } zeros = Zeros::counted;
    at::Tensor kept;            // until keep_zeros() or train_zeros()
    std::shared_ptr<FakeQuant> quant;  // null: the value is not rounded
    InputForm inputs = InputForm::floats;          // with `quant`: what linear operators make of their input before they read it
    std::shared_ptr<FixedInputScale> input_scale;  // of fixed inputs; weights that read one value share it
    std::shared_ptr<const HashedBank> bank;  // null: the value is the whole matrix
    at::Tensor effective;              // with `quant` or `bank`: what the model computes with, a leaf of its own
    const at::Tensor& computed() const { return quant || bank ? effective : value; }
};

// Low-rank adaptation of one weight (Hu et al. 2021): weight + scale * up * down.
struct Adapter {
    at::Tensor down;  // (rank, inputs) f32
    at::Tensor up;    // (outputs, rank) f32, zero at first
    float scale = 1;
    bool columns = false;  // the weight is stored as (inputs, outputs)
};

class ParameterSet {
public:
    // Every tensor of the spec that the source has, as f32 on the device. Codes and blocks are decoded, hashed weights stay what they are or are written out.
    enum class HashedWeights : std::uint8_t { written_out, stay };
    static Result<ParameterSet> load(const ModelSpec& spec, const WeightSource& source, at::Device device, HashedWeights hashed = HashedWeights::written_out);
    bool any_hashed() const;

    std::vector<Parameter>& all() { return parameters_; }
    const std::vector<Parameter>& all() const { return parameters_; }
    const Parameter* find(const std::string& key) const;
    Parameter* find(const std::string& key);

    // With the weight's adapter merged, in a way that gradients pass: what is masked stays zero.
    at::Tensor merged(const std::string& key) const;

    // Weights that are stored sparse, and plain ones with many exact zeros, were pruned: their masks are set. Returns how many tensors that concerns.
    std::size_t keep_zeros(double at_least_share);
    void train_zeros();  // instead: what was stored sparse becomes whole
    void apply_masks();

    // Keys that the decoder blocks' operators read: neither the embedding's nor the head's alone.
    std::set<std::string> keys_of_blocks(const ModelSpec& spec) const;

    // The model computes with this parameter (its bank, where it is hashed) as its scheme stores it, from the next refresh() on.
    Status quantize(const std::string& key, const Scheme& scheme, FakeQuant::Codes codes, Tables tables = Tables::exact);
    // How linear operators read their inputs with each weight that is rounded. An error where fixed inputs are for a weight that several layers share: they are fed differently.
    Status round_inputs(const ModelSpec& spec, const std::function<InputForm(const std::string& key)>& form_of);
    // Fixed inputs, after passes that showed what they are like; and the model as the engine then runs it.
    Status begin_input_scales(const InputScaleRule& rule);
    ModelSpec with_input_scales(const ModelSpec& spec) const;
    void refresh();            // quantizes and gathers anew: after every change of the values
    void collect_gradients();  // from what the model computed with to the values and scales behind it: before a step

    // Freezes everything and adds an adapter of `rank` to the linear weights whose keys contain one of `names` (empty: all but head and
    // embedding). Initial values by seed.
    struct AdapterOptions {
        std::int64_t rank = 8;
        double alpha = 16;
        std::vector<std::string> names;
        std::uint64_t seed = 0;
    };
    Result<std::size_t> add_adapters(const ModelSpec& spec, const AdapterOptions& options);
    const std::map<std::string, Adapter>& adapters() const { return adapters_; }

    // What an optimizer changes: name and tensor; adapters are "KEY.lora_down" and "KEY.lora_up", scales "KEY.scale", levels of clusters "KEY.levels", fixed scales of inputs
    // "KEY.input_scale" of the first that has it.
    struct Trained {
        std::string name;
        TensorDecl::Role role;
        at::Tensor value;
        at::Tensor mask;
        bool in_block = false;  // a matrix of a decoder block: neither embedding nor head
    };
    std::vector<Trained> trained(const ModelSpec& spec) const;

    // The weights as they are now, adapters merged. `dtype` of every tensor, or as stored. The set must outlive the source. Of masked weights what a
    // checkpoint of them holds, or all numbers, for whoever loads them again and again.
    enum class Masked : std::uint8_t { as_stored, written_out };
    std::shared_ptr<WeightSource> source(std::optional<DType> dtype, Masked masked = Masked::as_stored) const;

private:
    std::vector<Parameter> parameters_;
    std::map<std::string, std::size_t> index_;
    std::map<std::string, Adapter> adapters_;
};

// Rows that a reference takes.
at::Tensor selected_rows(const at::Tensor& matrix, const RowMap& rows);

// Fresh weights for training from scratch: normal with deviation 0.02, output projections of residual branches less by sqrt(2 * n_layers)
// (GPT-2), norms at one, biases zero. By key and seed, so that the order of tensors does not matter.
std::shared_ptr<WeightSource> initial_weights(const ModelSpec& spec, std::uint64_t seed);

}  // namespace skiff::train
