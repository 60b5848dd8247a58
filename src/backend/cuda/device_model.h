// A model as a device runs it: the operators of a ModelSpec, joined where one kernel does several of them, with their weights on the device. Made once, from the
// operators and never from an architecture's name. The launches for a number of tokens follow from it (emit.h).
#pragma once

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "backend/cuda/weight_stream.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/pack.h"
#include "model/spec.h"
#include "model/weight_source.h"
#include "plan/plan.h"

namespace skiff::cuda {

// A value between operators. Values of one merged product are columns of a common parent.
struct DeviceValue {
    std::string name;
    std::int64_t width = 0;
    int parent = -1;           // of which it is columns [offset, offset + width)
    std::int64_t offset = 0;
    int readers = 0;           // operators that read it, or a column of it
    bool as_floats = false;    // somebody reads f32 numbers
    bool as_operand = false;   // a matrix multiplies it
    int norm_behind = -1;      // operator number of an RMS norm that its producer may prepare (NextNorm)
    // Of a product whose columns several matrices multiply, each some of them: its producer writes them all in one operand.
    Operand parts;                    // its width and cuts; 0 columns: it has none
    std::int64_t operand_first = -1;  // of such columns: where they begin there
};

struct EmbedDevice {
    GpuWeight table;
    EmbedOp::Index index = EmbedOp::Index::token;
    std::int64_t offset = 0;
    float scale = 1;
    int adds_to = -1;  // a value that this one is added to, in place
    int out = -1;
};
struct NormDevice {
    int x = -1;
    int residual = -1, sum = -1;  // x += residual first, the sum is a value of its own
    const float *weight = nullptr, *bias = nullptr;
    NormKind kind = NormKind::rms;
    float eps = 0;
    std::int64_t group_width = 0;
    int out = -1;  // -1: none, of what only ends in a sum
    NormLaunchArgs::Behind behind;  // of x, before the residual comes
    const float *second_weight = nullptr, *second_bias = nullptr;  // another norm of the same numbers, of the same kind and eps
    int second_out = -1;
};
struct MatrixDevice {
    GpuWeight weight;
    const float* bias = nullptr;
    std::int64_t offset = 0;  // its first column of the product
};
struct LinearDevice {
    int x = -1;
    std::vector<MatrixDevice> matrices;  // more than one: of different schemes
    GemvWrite write = GemvWrite::replace;
    Activation activation = Activation::silu;  // of gate and activate
    int adds_to = -1;                          // in place: the residual stream, or what other terms gave; of replace: whose other columns stay
    float factor = 1, softcap = 0;
    int out = -1;
};
struct SparseDevice {  // numbers kept aside from a matrix, before it is multiplied
    int x = -1;
    const std::uint32_t* entries = nullptr;
    const std::int32_t* begins = nullptr;
    Float16Form values = Float16Form::f16;
    int adds_to = -1;  // in place; -1: its rows are what there is so far
    int out = -1;
};
struct RopeDevice {  // and head norms, and the write of keys and values
    int q = -1, k = -1, v = -1;  // -1: not in this launch. More than one: columns of one parent
    const float *q_norm = nullptr, *k_norm = nullptr;
    float norm_eps = 0;
    const float* inv_freq = nullptr;
    std::int64_t rotary_dim = 0, head_dim = 0, n_heads = 0;
    float magnitude = 1;
    RopeStyle style = RopeStyle::half;
    int state = -1;              // -1: nothing is written
    int q_out = -1, k_out = -1;  // values that q and k become, in place
};
struct AttentionDevice {
    int q = -1, state = -1;
    AttentionOp op;
    int out = -1;
};
struct ElementDevice {
    ElementKind kind = ElementKind::add;
    int a = -1, b = -1;
    const float* columns = nullptr;       // of column_scale
    const std::int32_t* order = nullptr;  // of permute
    std::int64_t b_column = 0;            // of gate
    float factor = 1;
    Activation activation = Activation::silu;
    int out = -1;
};
struct SelectDevice {
    int x = -1, out = -1;
};
struct RouteDevice {
    RouteOp op;
    int logits = -1, out = -1;
};
struct ExpertsDevice {  // a mixture of experts: those that the router chooses, weighted and added up
    int x = -1, logits = -1;
    RouteOp route;
    std::int64_t n_experts = 0;
    GpuWeight gate_up, down;  // of all experts, each from a tile of its own on (part_of)
    Activation activation = Activation::silu;
    int adds_to = -1, out = -1;
    // With more tokens than the kernels of experts take, one expert comes after another: all weights of the router, what is between an expert's matrices, and its result.
    int shares = -1, hidden = -1, result = -1;
};
struct ConvDevice {
    const float *taps = nullptr, *bias = nullptr;
    std::int64_t n_taps = 1;
    int x = -1, gate_in = -1, gate_out = -1, state = -1, out = -1;  // gates: numbers that the input and the result are multiplied by
};
using DeviceDetail = std::variant<EmbedDevice, NormDevice, LinearDevice, SparseDevice, RopeDevice, AttentionDevice, ElementDevice, SelectDevice, RouteDevice, ExpertsDevice, ConvDevice>;
struct DeviceOp {
    std::string name;  // of the operators it does: "block0.attn.q + block0.attn.k"
    DeviceDetail detail;
    int streamed = -1;  // the block of DeviceModel::stream whose operator it is
};

// The matrices of an operator, those of experts one by one; none of most.
std::vector<MatrixDevice> matrices_of(const DeviceOp& op);

struct DeviceModelOptions {
    std::size_t first_block = 0, last_block = SIZE_MAX;
    std::size_t stream_from = SIZE_MAX;  // weights of the decoder blocks from here on are copied when they are used (weight_stream.h)
    std::int64_t capacity = 0;  // tokens that a sequence may reach: which table of LongRoPE
    enum class Fuse : std::uint8_t { on, off } fuse = Fuse::on;
    std::vector<std::string> taps = {};  // values that stay as floats to a run's end; only with Fuse::off
    ThreadPool* pool = nullptr;  // packs
    ProgressSink progress;
};

struct DeviceModel {
    std::vector<DeviceValue> values;
    std::vector<DeviceOp> ops;
    std::vector<StateNeed> states;
    std::vector<int> taps;  // values
    int input = -1;   // of a stretch of blocks
    int output = -1;  // logits, or the last block's output
    std::int64_t output_width = 0, input_width = 0;
    std::int64_t max_positions = INT64_MAX;
    std::uint64_t weight_bytes = 0, decode_read_bytes = 0;
    std::vector<std::string> remarks;
    std::unique_ptr<WeightStream> stream;  // null: all weights are on the device

    int root(int value) const { return values[static_cast<std::size_t>(value)].parent >= 0 ? values[static_cast<std::size_t>(value)].parent : value; }
};

// Packs and uploads the weights one after another.
Result<DeviceModel> build_device_model(const ModelSpec& spec, const WeightSource& weights, Device& device, const DeviceModelOptions& options);

// The first operator of the model that the device has no kernel for, as the sentence of an error; empty: it has all.
std::string missing_on_device(const ModelSpec& spec, const Table& table);

}  // namespace skiff::cuda
