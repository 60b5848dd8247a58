// Makes a DeviceModel from the operators of a ModelSpec. Its parts: who reads what (device_model.cpp), matrices (model_linear.cpp), rotations and attention (model_attention.cpp), what
// works on rows (model_rows.cpp), terms beside matrices (model_terms.cpp), mixtures of experts (model_experts.cpp).
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "backend/cuda/device_model.h"
#include "backend/cuda/device_weights.h"

namespace skiff::cuda {

class ModelBuilder {
public:
    ModelBuilder(const ModelSpec& spec, const WeightSource& source, Device& device, const DeviceModelOptions& options)
        : spec_(spec), options_(options), device_(device), weights_(spec, source, device, options.pool) {}

    Result<DeviceModel> build();

private:
    struct Item {
        const Op* op = nullptr;
        std::vector<int> in;  // values, those behind the selection of rows where it stands in the head
        bool done = false;
        std::size_t block = 0;
    };
    // q or k on its way into the attention: perhaps a norm of heads, perhaps a rotation.
    struct HeadChain {
        int value = -1;  // where it begins
        const NormOp* norm = nullptr;
        const RopeOp* rope = nullptr;
        std::vector<std::size_t> items;
    };

    bool fuse() const { return options_.fuse == DeviceModelOptions::Fuse::on; }
    DeviceValue& value(int v) { return model_.values[static_cast<std::size_t>(v)]; }
    std::int64_t width(int v) const { return model_.values[static_cast<std::size_t>(v)].width; }
    int new_value(const std::string& name, std::int64_t width_of);
    template <class Detail>
    void push(std::string name, Detail detail) {
        model_.ops.push_back({std::move(name), std::move(detail), streamed_});
    }

    Status flatten();
    Status enter_block(std::size_t block);
    Status place_streamed();
    Status find_taps();
    void find_readers();
    // The one operator that reads it, if it does nothing but that; else -1.
    int only_reader(int v) const;
    template <class Detail>
    const Detail* reader_as(int v, int& reader) const {
        reader = only_reader(v);
        return reader < 0 ? nullptr : std::get_if<Detail>(&items_[static_cast<std::size_t>(reader)].op->detail);
    }
    bool is_simple(std::size_t i) const;
    bool is_linear(std::size_t i) const { return std::get_if<LinearOp>(&items_[i].op->detail) != nullptr && !items_[i].in.empty(); }
    bool same_terms(std::size_t a, std::size_t b) const;
    bool aside_fits(const std::vector<std::size_t>& group) const;  // numbers kept aside have a kernel, for all of them together
    bool share_input(std::size_t a, std::size_t b) const;
    // Whether a value is wanted as the operand of matrices and never as floats: a gated product leaves nothing else.
    bool all_multiply(int v) const;
    // multiply(activation(gate x), up x)
    struct Gate {
        std::size_t gate, up, activation, multiply;
    };
    void find_gates();

    // A router and all that its weights are for.
    struct Mixture {
        std::vector<Gate> gates;         // of each expert, in the order of the router's columns
        std::vector<std::size_t> downs;  // their second matrices
        std::vector<std::size_t> rest;   // weighting and adding up
        int out = -1;
    };
    void find_mixtures();
    std::optional<Mixture> mixture_of(std::size_t route) const;
    Result<bool> add_mixture(std::size_t route, const Mixture& mixture);

    // ---- embedding
    Status add(std::size_t i, const EmbedOp& detail);

    // ---- norms
    Status add(std::size_t i, const NormOp& detail);
    Status fill(NormDevice& norm, int out, const NormOp& detail);
    Result<bool> add_behind(std::size_t i, const NormOp& detail, NormDevice& norm, std::string& name);
    Status add_second(std::size_t i, const NormOp& detail, NormDevice& norm, std::string& name);
    // A scale of the input (AWQ, Lin et al. 2024) that all readers of a norm share is part of the norm.
    Status fold_input_scale(int out, std::vector<float>& weight, std::vector<float>& bias);

    // ---- linear
    Result<int> transformed(std::size_t i, const InputTransform& transform);
    WeightRows rows_of(std::size_t i) const;
    Result<std::vector<float>> bias_of(std::size_t i) { return weights_.numbers(std::get<LinearOp>(items_[i].op->detail).bias, width(items_[i].op->out)); }
    void count(const GpuWeight& weight) { model_.decode_read_bytes += weights_.bytes_of(weight); }
    Status add(std::size_t i, const LinearOp& detail);
    Result<bool> add_gate(const Gate& gate);
    // Matrices with one input: one product where their schemes allow it, and always one buffer.
    Status add_merged(const std::vector<std::size_t>& group);
    // What stands behind a product and is done by it: an activation, a factor, a soft cap, the addition to the residual stream.
    struct Tail {
        const ActivationOp* activation = nullptr;  // whose result only matrices read
        float factor = 1, softcap = 0;
        int adds_to = -1, out = -1;
        std::string name;
    };
    Tail tail_of(int out, bool may_scale);
    bool made(int v) const;
    // LinearOp::input_scale, the fixed range of 8-bit codes of the input, has no use here: no kernel codes its input in 8 bits. Up to eight tokens are multiplied with 16
    // significant bits, more with the eight of bf16, which have no range to fix; the sums are those of unrounded inputs, not those that the codes would give.
    // One operator, or several with one input, whose results become columns of one value: its terms one after another, each added to what is there.
    Status add_terms(const std::vector<std::size_t>& group);
    struct Sum;
    using Round = std::vector<const LinearTerm*>;  // one term of each operator, of one kind; null: it has none
    Result<bool> add_aside(const std::vector<std::size_t>& group, const Round& round, Sum& sum);
    Status add_low_rank(const std::vector<std::size_t>& group, const Round& round, Sum& sum);
    Status add_packed(const std::vector<std::size_t>& group, const Round& round, Sum& sum);
    void push_term(LinearDevice linear, Sum& sum);

    // ---- attention
    bool belongs_to_attention(std::size_t i) const;
    Status add(std::size_t i, const RopeOp& detail);
    Status rotate(RopeDevice& rope, const RopeOp& detail);
    // The value becomes what stands in the place of another, which nobody reads any more.
    void keep_place(int out, int in);
    HeadChain chain_of(int v) const;
    Result<const float*> head_norm(const NormOp* norm, std::int64_t head_dim);
    Status add(std::size_t i, const AttentionOp& detail);

    // ---- element by element
    Status element(std::size_t i, ElementKind kind, float factor = 1, Activation activation = Activation::silu);
    Status add(std::size_t i, const ActivationOp& detail);
    Status add(std::size_t i, const MultiplyOp&);
    Status add(std::size_t i, const ScaleOp& detail) { return element(i, ElementKind::scale, detail.factor); }
    Status add(std::size_t i, const SoftcapOp& detail) { return element(i, ElementKind::softcap, detail.cap); }
    Status add(std::size_t i, const AddOp&);
    Status add(std::size_t i, const RouteOp& detail);
    Status add(std::size_t i, const GateOp& detail);
    Status add(std::size_t i, const CausalConvOp&) { return add_conv(i, items_[i].in[0], -1, ""); }
    // With what stands around it (LFM2): its input is a product, and its result is a factor.
    Status add_conv(std::size_t i, int x, int gate_in, std::string name);

    // ---- who reads what
    void reads(int v, bool as_operand);
    void finish();
    void count_reads(const EmbedDevice& d) { reads(d.adds_to, false); }
    void count_reads(const NormDevice& d) { reads(d.x, false), reads(d.residual, false); }
    void count_reads(const LinearDevice& d) { reads(d.x, true), reads(d.adds_to, false); }
    void count_reads(const SparseDevice& d) { reads(d.x, true), reads(d.adds_to, false); }
    void count_reads(const RopeDevice& d);
    void count_reads(const AttentionDevice& d) { reads(d.q, false); }
    void count_reads(const ElementDevice& d) { reads(d.a, false), reads(d.b, false); }
    void count_reads(const SelectDevice& d) { reads(d.x, false); }
    void count_reads(const RouteDevice& d) { reads(d.logits, false); }
    void count_reads(const ExpertsDevice& d) { reads(d.x, true), reads(d.logits, false), reads(d.adds_to, false), reads(d.shares, false), reads(d.hidden, true), reads(d.result, false); }
    void count_reads(const ConvDevice& d) { reads(d.x, false), reads(d.gate_in, false), reads(d.gate_out, false); }

    const ModelSpec& spec_;
    const DeviceModelOptions& options_;
    Device& device_;
    DeviceWeights weights_;
    DeviceModel model_;
    std::vector<Item> items_;
    std::vector<std::vector<std::size_t>> readers_;
    std::map<int, std::size_t> producer_;
    std::map<std::size_t, std::string> block_ends_;
    std::map<std::size_t, Gate> gates_;
    std::set<std::size_t> gated_;
    std::map<std::size_t, Mixture> mixtures_;  // by the router's operator
    std::set<int> scaled_;
    std::vector<std::tuple<int, const InputTransform*, int>> transformed_;
    std::size_t block_ = SIZE_MAX;  // whose operators are being made
    int streamed_ = -1;
    std::size_t select_at_ = SIZE_MAX;
    int select_in_ = -1, select_out_ = -1;
};

}  // namespace skiff::cuda
