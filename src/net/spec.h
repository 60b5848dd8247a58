// A small network as data: operators over images, each reading what earlier ones gave. It says what decoders do not need (docs/structures.md): convolutions of
// every kind, pooling, channel shuffle, gates, concatenation. A value is an image (height, width, channels), channels innermost; a sequence is an image of
// height 1, whose positions are tokens, so a pointwise convolution is a linear operator.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "kernels/windows.h"

namespace skiff::net {

struct ValueShape {
    std::int64_t height = 1, width = 1, channels = 1;
    std::int64_t n_positions() const { return height * width; }
    std::int64_t n_elements() const { return height * width * channels; }
    bool operator==(const ValueShape&) const = default;
};

// A window that goes over an image; [0] is down, [1] is across.
struct Window {
    std::int64_t kernel[2] = {1, 1}, stride[2] = {1, 1}, dilation[2] = {1, 1};
    std::int64_t before[2] = {0, 0}, after[2] = {0, 0};  // zeros at either end
    bool operator==(const Window&) const = default;
    std::int64_t n_taps() const { return kernel[0] * kernel[1]; }
    bool looks_at_one() const { return *this == Window{}; }
};

// "<name>.weight" (channels, kept taps * inputs of a group) and "<name>.bias" (channels). A row of the weight holds, tap by tap, the inputs of its group.
struct Conv {
    Window window;
    std::int64_t channels = 0, groups = 1;
    std::vector<std::int64_t> taps;  // positions y * kernel_x + x that pruning kept, ascending; empty: all
    enum class Bias : std::uint8_t { yes, no } bias = Bias::yes;
    std::vector<std::int64_t> kept_taps() const;
};
struct Pool {
    Window window;
    PoolKind kind = PoolKind::max;
    enum class Extent : std::uint8_t { window, whole_image } extent = Extent::window;
};
struct Shuffle {  // channel g * n + i of `groups` groups of n goes to i * groups + g (ShuffleNet)
    std::int64_t groups = 1;
};
struct Activate {
    Activation kind = Activation::relu;
};
struct Add {};
struct Multiply {};  // the second may be one number for each channel: a gate
struct Concat {};    // of channels
struct Slice {       // channels [begin, end)
    std::int64_t begin = 0, end = 0;
};
struct Norm {  // over the channels of a position; "<name>.weight", and "<name>.bias" of a layer norm (channels)
    NormKind kind = NormKind::layer;
    double eps = 1e-5;
};
struct Attention {  // of q, k, v among all positions of an image
    std::int64_t n_heads = 1;
};
struct Flatten {};  // (1, 1, height * width * channels)
struct Fold {       // the same numbers, read otherwise: each position becomes `parts` neighbours of fewer channels, or back
    std::int64_t parts = 1;
    enum class Way : std::uint8_t { to_positions, to_channels } way = Way::to_positions;
};

using OpDetail = std::variant<Conv, Pool, Shuffle, Activate, Add, Multiply, Concat, Slice, Norm, Attention, Flatten, Fold>;

struct Op {
    std::string name;             // of its value too
    std::vector<std::string> in;  // names of earlier operators, or "input"
    OpDetail detail;
};

struct NetSpec {
    std::string name;
    ValueShape input;
    std::vector<Op> ops;  // the last one's value is the output
};

inline constexpr const char* input_name = "input";
inline constexpr const char* net_model_type = "skiff-net";

// The values by number: 0 is the input, i + 1 what ops[i] gives.
struct Resolved {
    std::vector<std::vector<std::size_t>> inputs;  // of each operator
    std::vector<ValueShape> shapes;                // of each value
};
// Names and shapes, checked; every function below takes a spec that resolves.
Result<Resolved> resolve(const NetSpec& spec);

Result<NetSpec> parse_net(const Json& config);
Json net_json(const NetSpec& spec);
const char* op_kind_name(const OpDetail& detail);  // "conv"

// The tensors that the operators need.
struct TensorShape {
    std::string name;
    Shape shape;
};
std::vector<TensorShape> tensors_of(const NetSpec& spec, const Resolved& resolved);

// Numbers of the weights (biases and norms apart), and multiply-adds of one image: convolutions and attention, as papers count them.
struct OpCount {
    std::int64_t weights = 0, others = 0, multiply_adds = 0;
};
OpCount count_op(const Op& op, const std::vector<ValueShape>& in, const ValueShape& out);
OpCount count_net(const NetSpec& spec, const Resolved& resolved);

// Where the kept taps of a window look.
std::vector<WindowTap> taps_of(const Window& window, const std::vector<std::int64_t>& kept);

}  // namespace skiff::net
