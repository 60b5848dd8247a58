#include "train/net_module.h"

#include <cmath>
#include <limits>

namespace skiff::train {
namespace {

using at::Tensor;

struct Context {
    const std::map<std::string, Tensor>& parameters;
    const net::Op& op;
    const std::vector<Tensor>& in;
    const Tensor& parameter(const char* end) const { return parameters.at(op.name + end); }
};

Tensor padded(const Tensor& x, const net::Window& window, double value) {
    const bool none = window.before[0] == 0 && window.before[1] == 0 && window.after[0] == 0 && window.after[1] == 0;
    return none ? x : at::constant_pad_nd(x, {window.before[1], window.after[1], window.before[0], window.after[0]}, value);
}

Result<Tensor> forward_of(const net::Conv& conv, const Context& c) {
    const std::vector<std::int64_t> taps = conv.kept_taps();
    const auto n_taps = static_cast<std::int64_t>(taps.size()), inputs = c.in[0].size(1) / conv.groups;
    Tensor weight = c.parameter(".weight").reshape({conv.channels, n_taps, inputs}).permute({0, 2, 1});
    if (!conv.taps.empty()) {
        const Tensor places = at::tensor(at::ArrayRef<std::int64_t>(taps), at::kLong);
        weight = at::zeros({conv.channels, inputs, conv.window.n_taps()}).index_copy(2, places, weight);
    }
    weight = weight.reshape({conv.channels, inputs, conv.window.kernel[0], conv.window.kernel[1]});
    const Tensor bias = conv.bias == net::Conv::Bias::yes ? c.parameter(".bias") : Tensor();
    const at::IntArrayRef stride(conv.window.stride, 2), dilation(conv.window.dilation, 2);
    return at::conv2d(padded(c.in[0], conv.window, 0), weight, bias, stride, at::IntArrayRef({0, 0}), dilation, conv.groups);
}

Result<Tensor> forward_of(const net::Pool& pool, const Context& c) {
    const Tensor& x = c.in[0];
    const bool is_max = pool.kind == PoolKind::max;
    if (pool.extent == net::Pool::Extent::whole_image) return is_max ? at::amax(x, {2, 3}, true) : at::mean(x, {2, 3}, true);
    const at::IntArrayRef kernel(pool.window.kernel, 2), stride(pool.window.stride, 2), dilation(pool.window.dilation, 2);
    // A window that lies in the padding alone gives 0, as in src/net.
    if (is_max) {
        const Tensor y = at::max_pool2d(padded(x, pool.window, -std::numeric_limits<double>::infinity()), kernel, stride, {0, 0}, dilation);
        return y.masked_fill(at::isneginf(y), 0);
    }
    if (pool.window.dilation[0] != 1 || pool.window.dilation[1] != 1) return unsupported("operator " + c.op.name + ": a mean over a dilated window is not trained through");
    const Tensor mean = at::avg_pool2d(padded(x, pool.window, 0), kernel, stride);
    if (pool.kind == PoolKind::average_with_padding) return mean;
    const Tensor inside = at::avg_pool2d(padded(at::ones({1, 1, x.size(2), x.size(3)}), pool.window, 0), kernel, stride);  // the share of each window
    return mean / inside.clamp_min(0.5 / static_cast<double>(pool.window.n_taps()));
}

Result<Tensor> forward_of(const net::Shuffle& shuffle, const Context& c) { return at::channel_shuffle(c.in[0], shuffle.groups); }

Result<Tensor> forward_of(const net::Activate& activate, const Context& c) {
    switch (activate.kind) {
        case Activation::relu: return at::relu(c.in[0]);
        case Activation::silu: return at::silu(c.in[0]);
        case Activation::gelu_erf: return at::gelu(c.in[0]);
        case Activation::gelu_tanh: return at::gelu(c.in[0], "tanh");
        case Activation::quick_gelu: return c.in[0] * at::sigmoid(c.in[0] * 1.702);
        case Activation::sigmoid: return at::sigmoid(c.in[0]);
        case Activation::tanh: return at::tanh(c.in[0]);
    }
    std::abort();  // all are named
}

Result<Tensor> forward_of(const net::Add&, const Context& c) { return c.in[0] + c.in[1]; }
Result<Tensor> forward_of(const net::Multiply&, const Context& c) { return c.in[0] * c.in[1]; }
Result<Tensor> forward_of(const net::Concat&, const Context& c) { return at::cat(c.in, 1); }
Result<Tensor> forward_of(const net::Slice& slice, const Context& c) { return c.in[0].narrow(1, slice.begin, slice.end - slice.begin); }

Result<Tensor> forward_of(const net::Norm& norm, const Context& c) {
    const Tensor x = c.in[0].permute({0, 2, 3, 1}), weight = c.parameter(".weight");
    const Tensor y = norm.kind == NormKind::layer ? at::layer_norm(x, {x.size(3)}, weight, c.parameter(".bias"), norm.eps) : x * at::rsqrt(at::mean(x * x, {3}, true) + norm.eps) * weight;
    return y.permute({0, 3, 1, 2});
}

Result<Tensor> forward_of(const net::Attention& attention, const Context& c) {
    const Tensor& q = c.in[0];
    const std::int64_t n = q.size(0), head_dim = q.size(1) / attention.n_heads, length = q.size(2) * q.size(3);
    const auto heads = [&](const Tensor& x) { return x.reshape({n, attention.n_heads, head_dim, length}); };
    const Tensor scores = at::matmul(heads(q).transpose(2, 3), heads(c.in[1])) / std::sqrt(static_cast<double>(head_dim));  // (n, heads, queries, keys)
    return at::matmul(heads(c.in[2]), at::softmax(scores, 3).transpose(2, 3)).reshape(q.sizes());
}

Result<Tensor> forward_of(const net::Flatten&, const Context& c) { return c.in[0].permute({0, 2, 3, 1}).reshape({c.in[0].size(0), -1, 1, 1}); }

Result<Tensor> forward_of(const net::Fold& fold, const Context& c) {
    const Tensor x = c.in[0].permute({0, 2, 3, 1});
    const bool opens = fold.way == net::Fold::Way::to_positions;
    const std::int64_t width = opens ? x.size(2) * fold.parts : x.size(2) / fold.parts;
    return x.reshape({x.size(0), x.size(1), width, -1}).permute({0, 3, 1, 2});
}

}  // namespace

NetModule::NetModule(const net::Net& net) : spec_(net.spec), resolved_(*net::resolve(net.spec)) {
    for (const auto& [name, weight] : net.weights) {
        const std::vector<float> values = net.floats(name);
        parameters_[name] = at::tensor(at::ArrayRef<float>(values)).reshape(weight.shape).requires_grad_(true);
    }
}

Result<Tensor> NetModule::forward(const Tensor& x) const {
    std::vector<Tensor> values{x};
    for (std::size_t i = 0; i < spec_.ops.size(); ++i) {
        std::vector<Tensor> in;
        for (const std::size_t value : resolved_.inputs[i]) in.push_back(values[value]);
        const Context context{parameters_, spec_.ops[i], in};
        SKIFF_TRY(auto value, std::visit([&](const auto& detail) { return forward_of(detail, context); }, spec_.ops[i].detail));
        values.push_back(std::move(value));
    }
    return values.back();
}

}  // namespace skiff::train
