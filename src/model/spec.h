// A model is data: blocks of typed operators over named values, tensors whose dimensions name their axes.
// Lowering, training, pruning, export and sharding all walk this one description; none of them knows an architecture.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "kernels/kernels.h"

namespace skiff {

// ---- axes: dimensions that several tensors share. Pruning slices one, sharding partitions it, search resizes it.
struct Axis {
    std::string name;       // "model.hidden", "block3.ff", "block3.head", "vocab"
    std::int64_t size = 0;  // in units: heads, neurons, tokens of the vocabulary
    std::int64_t multiple_of = 1;  // sizes that kernels and partners can take (a query-head axis: the number of KV heads)
    bool operator==(const Axis&) const = default;
};

// A stretch of a tensor's dimension: `axis.size * unit` entries. (block0.head, 64) in q_proj's rows: heads of 64 entries each.
struct AxisPart {
    std::string axis;
    std::int64_t unit = 1;
    bool operator==(const AxisPart&) const = default;
};
using Dimension = std::vector<AxisPart>;  // parts one after the other; a fused q|k|v matrix has three

struct TensorDecl {
    std::string key;                    // Hugging Face's name
    std::vector<Dimension> dimensions;  // outermost first
    enum class Role : std::uint8_t { linear, embedding, norm, bias, other } role = Role::linear;
    enum class Need : std::uint8_t { required, optional } need = Need::required;
    bool operator==(const TensorDecl&) const = default;
};

// ---- values: what flows between operators. (n_tokens, width) f32
using ValueId = std::int32_t;
inline constexpr ValueId no_value = -1;
struct Value {
    std::string name;   // "block0.q"
    Dimension dimension;
    bool operator==(const Value&) const = default;
};

inline bool operator==(const RowMap& a, const RowMap& b) { return a.begin == b.begin && a.block == b.block && a.stride == b.stride && a.n_blocks == b.n_blocks; }

// A weight used by an operator: a tensor by key, whole or some of its rows (RowMap), perhaps stored as (columns, rows).
struct TensorRef {
    std::string key;
    RowMap rows;              // block == 0: all rows
    bool transposed = false;  // plain tensors only; codes and blocks are always (outputs, inputs)
    bool empty() const { return key.empty(); }
    bool operator==(const TensorRef&) const = default;
};

// ---- operators
struct EmbedOp {  // out = table[token] * scale, or table[position + offset]
    TensorRef table;
    float scale = 1;
    enum class Index : std::uint8_t { token, position } index = Index::token;
    std::int64_t offset = 0;
    bool operator==(const EmbedOp&) const = default;
};
struct NormOp {
    NormKind kind = NormKind::rms;
    TensorRef weight, bias;       // empty: ones, zeros
    float eps = 1e-5f;
    float weight_offset = 0;      // Gemma stores w - 1
    std::int64_t group_width = 0;  // 0: the whole value; else each head by itself with the same weight (q/k norm)
    bool operator==(const NormOp&) const = default;
};
struct LinearTerm {
    enum class Kind : std::uint8_t { packed, low_rank, sparse } kind = Kind::packed;
    TensorRef weight;  // packed: (outputs, inputs); low_rank: b (outputs, rank)
    TensorRef down;    // low_rank: a (rank, inputs)
    bool operator==(const LinearTerm&) const = default;
};
struct InputTransform {  // applied to the input before all terms
    enum class Kind : std::uint8_t { none, scale, permutation, hadamard } kind = Kind::none;
    TensorRef data;      // scale: (inputs); permutation: (inputs) i32
    bool operator==(const InputTransform&) const = default;
};
enum class ActivationScheme : std::uint8_t { kernel_default, f32 };
struct LinearOp {  // out = sum of terms(transform(in)) + bias
    InputTransform transform;
    std::vector<LinearTerm> terms;
    TensorRef bias;
    ActivationScheme activation = ActivationScheme::kernel_default;
    float input_scale = 0;  // of the 8-bit codes that kernels make of the input, fixed beforehand; 0: by the input itself, block by block. Kernels that take floats do not need it
    bool operator==(const LinearOp&) const = default;
};
struct RopeOp {
    std::int64_t n_heads_unit = 1;  // entries per head (head_dim)
    std::vector<float> inv_freq;    // (rotary_dim / 2); rotary_dim <= head_dim
    float magnitude = 1;
    RopeStyle style = RopeStyle::half;
    // LongRoPE has a second table for sequences longer than the model was first trained on. A session takes one of them for good, by the
    // length that its sequences may reach, so that the result does not depend on how a text is cut into runs.
    std::vector<float> long_inv_freq;  // empty: there is none
    std::int64_t long_above = 0;       // sequences that may exceed this many tokens use it
    bool operator==(const RopeOp&) const = default;
};
// What an operator remembers of a sequence. Each mixer declares its own.
struct StateSpec {
    enum class Kind : std::uint8_t { per_token, recurrent } kind = Kind::per_token;
    std::int64_t key_width = 0, value_width = 0;  // per token, in elements
    std::int64_t window = 0;                      // 0: all tokens are kept
    bool operator==(const StateSpec&) const = default;
};
struct AttentionOp {  // in: q, k, v
    std::int64_t n_heads = 0, n_kv_heads = 0, head_dim = 0;
    float scale = 1, softcap = 0;
    std::int64_t window = 0;
    StateSpec state;
    bool operator==(const AttentionOp&) const = default;
};
// Causal depthwise convolution over a sequence's tokens: out[t, c] = bias[c] + sum over j < kernel of weight[c, j] * in[t - kernel + 1 + j, c]; what would
// lie before the first token is zero.
struct CausalConvOp {
    TensorRef weight;  // (width, 1, kernel): Conv1d with as many groups as channels
    TensorRef bias;    // (width), or empty
    std::int64_t kernel = 1;
    StateSpec state;   // recurrent: inputs of the last kernel - 1 tokens
    bool operator==(const CausalConvOp&) const = default;
};
struct ActivationOp {
    Activation kind = Activation::silu;
    bool operator==(const ActivationOp&) const = default;
};
struct MultiplyOp {  // in: a, b
    bool operator==(const MultiplyOp&) const = default;
};
struct AddOp {  // in: a, b
    bool operator==(const AddOp&) const = default;
};
struct ScaleOp {
    float factor = 1;
    bool operator==(const ScaleOp&) const = default;
};
struct SoftcapOp {
    float cap = 0;
    bool operator==(const SoftcapOp&) const = default;
};
// Mixture of experts, the router: the weight of each expert for each token; zero for those not chosen.
struct RouteOp {
    std::int64_t n_used = 2;
    enum class Rule : std::uint8_t { softmax_then_top, top_then_softmax } rule = Rule::top_then_softmax;
    bool normalize = false;  // softmax_then_top: divide the chosen weights by their sum
    bool operator==(const RouteOp&) const = default;
};
struct GateOp {  // in: x, weights (n_tokens, n_experts); out = x * weights[column]
    std::int64_t column = 0;
    bool operator==(const GateOp&) const = default;
};

using OpDetail = std::variant<EmbedOp, NormOp, LinearOp, RopeOp, AttentionOp, ActivationOp, MultiplyOp, AddOp, ScaleOp, SoftcapOp, RouteOp, GateOp, CausalConvOp>;

struct Op {
    std::string name;         // "block0.attn.q": unique, names taps and errors
    OpDetail detail;
    std::vector<ValueId> in;  // for EmbedOp none
    ValueId out = no_value;
    bool operator==(const Op&) const = default;
};

struct Block {
    std::string name;     // "embed", "block0", "head"
    std::vector<Op> ops;
    ValueId in = no_value, out = no_value;  // the residual stream before and after; what the calibration walk caches
    bool operator==(const Block&) const = default;
};

struct ModelSpec {
    std::string architecture;  // row of the architecture table: "llama"
    std::vector<Axis> axes;
    std::vector<Value> values;
    std::vector<Block> blocks;  // embed, decoder blocks, head; the last op's output are the logits
    std::map<std::string, TensorDecl> tensors;
    std::int64_t n_vocab = 0, d_model = 0, n_layers = 0, max_positions = 0;
    ValueId logits = no_value;

    const Axis* find_axis(const std::string& name) const;
    std::int64_t width(const Dimension& dimension) const;          // entries
    std::int64_t width(ValueId value) const { return width(values[static_cast<std::size_t>(value)].dimension); }
    Shape shape(const TensorDecl& tensor) const;
    std::int64_t n_parameters() const;                              // required tensors
    std::int64_t multiply_adds_per_token() const;                   // of the linear operators
    std::int64_t state_elements_per_token() const;                  // keys and values of all layers

    bool operator==(const ModelSpec&) const = default;
};

// Keys of linear weights that are stored as (inputs, outputs).
std::set<std::string> keys_stored_as_columns(const ModelSpec& spec);

const char* op_kind_name(const OpDetail& detail);  // "linear"

}  // namespace skiff
