// Makes ModelSpecs: values, operators and tensors with one call each, and the decoder block that most architectures share.
#pragma once

#include <string>
#include <vector>

#include "model/spec.h"

namespace skiff {

class SpecBuilder {
public:
    explicit SpecBuilder(std::string architecture) { spec_.architecture = std::move(architecture); }

    void add_axis(std::string name, std::int64_t size, std::int64_t multiple_of = 1);
    // Declares a tensor; declaring a key again returns the same one (tied weights).
    TensorRef tensor(const std::string& key, std::vector<Dimension> dimensions, TensorDecl::Role role);

    void begin_block(std::string name, ValueId in);
    void end_block(ValueId out);

    ValueId embed(const std::string& name, EmbedOp op, const Dimension& width);
    ValueId norm(const std::string& name, ValueId x, NormOp op);
    ValueId linear(const std::string& name, ValueId x, TensorRef weight, TensorRef bias, const Dimension& out);
    ValueId rope(const std::string& name, ValueId x, RopeOp op);
    ValueId attention(const std::string& name, ValueId q, ValueId k, ValueId v, AttentionOp op);
    ValueId causal_conv(const std::string& name, ValueId x, CausalConvOp op);
    ValueId activation(const std::string& name, ValueId x, Activation kind);
    ValueId multiply(const std::string& name, ValueId a, ValueId b);
    ValueId add(const std::string& name, ValueId a, ValueId b);
    ValueId scale(const std::string& name, ValueId x, float factor);
    ValueId softcap(const std::string& name, ValueId x, float cap);
    ValueId route(const std::string& name, ValueId logits, RouteOp op);
    ValueId gate(const std::string& name, ValueId x, ValueId weights, std::int64_t column);

    ModelSpec& spec() { return spec_; }
    ModelSpec finish(ValueId logits);

private:
    ValueId push(const std::string& name, OpDetail detail, std::vector<ValueId> in, Dimension width);
    ModelSpec spec_;
};

// ---- the decoder block of the llama family and its relatives; every field is per block, so blocks may differ.
enum class NormTensors : std::uint8_t { none, weight, weight_and_bias };
struct NormStyle {
    NormKind kind = NormKind::rms;
    float eps = 1e-5f;
    float weight_offset = 0;
    NormTensors tensors = NormTensors::weight;
};
// A norm over all of x (group_width 0) or over each head; its tensors are key + ".weight" and ".bias", along `width`.
NormOp make_norm(SpecBuilder& builder, const NormStyle& style, const std::string& key, const Dimension& width, std::int64_t group_width = 0);

struct RopeSettings {  // see RopeOp
    std::vector<float> inv_freq;  // empty: no rope
    float magnitude = 1;
    RopeStyle style = RopeStyle::half;
    std::vector<float> long_inv_freq;
    std::int64_t long_above = 0;
};
enum class FeedForward : std::uint8_t { gated, plain };  // down(act(gate x) * up x), or down(act(up x))
enum class Residual : std::uint8_t {
    sequential,  // x += attn(norm x); x += ff(norm x)
    parallel,    // x += attn(norm1 x) + ff(norm2 x)
    post_norm,   // x = norm(x + attn x); x = norm(x + ff x)
};
// Names of a block's tensors without ".weight"/".bias". Empty: the block has no such tensor.
struct BlockNames {
    std::string attn_norm, q, k, v, o, q_norm, k_norm, post_attn_norm;
    std::string ff_norm, gate, up, down, post_ff_norm;
    std::string fused_qkv, fused_gate_up;  // one tensor for all; q, k, v or gate, up are its rows
    std::string conv_in, conv, conv_out;   // of a gated convolution, in place of q, k, v, o
    std::string router;                    // with experts; theirs are the names before in which "{}" stands for the expert's number
};
struct Experts {
    std::int64_t n = 0;  // 0: an ordinary feed-forward
    RouteOp route;
};
enum class FusedRows : std::uint8_t { concatenated, per_head };  // q|k|v, or (q,k,v) head by head (GPT-NeoX)
enum class Biases : std::uint8_t { none, qkv, attention, all };  // attention: q k v o; all: also the feed-forward
struct DecoderOptions {
    BlockNames names;
    std::int64_t n_heads = 0, n_kv_heads = 0, head_dim = 0, d_ff = 0;
    NormStyle norm;
    NormStyle qk_norm;                 // where names.q_norm is given
    RopeSettings rope;
    float attention_scale = 0;         // 0: 1/sqrt(head_dim)
    float attention_softcap = 0;
    std::int64_t window = 0;           // 0: all positions are seen; else the last `window`, the token itself among them
    FeedForward feed_forward = FeedForward::gated;
    Activation activation = Activation::silu;
    Residual residual = Residual::sequential;
    Biases biases = Biases::none;
    bool mlp_bias = false;             // in addition to `biases`
    FusedRows fused_rows = FusedRows::concatenated;
    bool transposed = false;           // GPT-2's Conv1D: tensors are (inputs, outputs)
    Experts experts;                   // each of them as wide as d_ff
    enum class Mixer : std::uint8_t { attention, gated_conv } mixer = Mixer::attention;
    std::int64_t conv_kernel = 0;      // tokens that a gated convolution sees, the token itself among them
    bool conv_bias = false;            // of its three operators
    std::string axes_of;               // a block that has this one's tensors too ("block0"), whose axes it shares; empty: its own
};
// Appends "block<i>" reading x; returns the new residual stream. Axes: block<i>.head, .kv_head, .ff (with experts .expert and .expert<e>.ff);
// model.hidden must exist.
ValueId decoder_block(SpecBuilder& builder, std::int64_t index, ValueId x, const DecoderOptions& options);

// The attention half and the feed-forward half of it, for blocks that combine them otherwise.
ValueId attention_half(SpecBuilder& builder, const std::string& block, ValueId normed, const DecoderOptions& options);
// In place of attention: out(c * conv(b * x)), with b, c and x one third each of in(normed) (LFM2). Its channels are the axis block<i>.conv.
ValueId gated_conv_half(SpecBuilder& builder, const std::string& block, ValueId normed, const DecoderOptions& options, std::int64_t n_channels);
ValueId feed_forward_half(SpecBuilder& builder, const std::string& block, ValueId normed, const DecoderOptions& options);
// The feed-forward half with experts: all are computed, each is weighted by the router (zero for those not chosen), and summed.
ValueId experts_half(SpecBuilder& builder, const std::string& block, ValueId normed, const DecoderOptions& options);

}  // namespace skiff
