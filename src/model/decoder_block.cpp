#include <cmath>

#include "model/spec_builder.h"

namespace skiff {
namespace {

const Dimension hidden = {{"model.hidden", 1}};

struct Parts {
    SpecBuilder& builder;
    const std::string& block;
    const DecoderOptions& options;

    std::string axis(const char* name) const { return (options.axes_of.empty() ? block : options.axes_of) + name; }
    Dimension heads() const { return {{axis(".head"), options.head_dim}}; }
    Dimension kv_heads() const { return {{axis(".kv_head"), options.head_dim}}; }
    Dimension ff() const { return {{axis(".ff"), 1}}; }

    TensorRef weight(const std::string& name, const Dimension& out, const Dimension& in) const {
        TensorRef ref = builder.tensor(name + ".weight", options.transposed ? std::vector{in, out} : std::vector{out, in}, TensorDecl::Role::linear);
        ref.transposed = options.transposed;
        return ref;
    }
    TensorRef bias(const std::string& name, const Dimension& out, Biases at_least) const {
        bool present = options.biases >= at_least || (at_least == Biases::all && options.mlp_bias);
        return present ? builder.tensor(name + ".bias", {out}, TensorDecl::Role::bias) : TensorRef{};
    }
    ValueId norm(const std::string& name, const std::string& key, ValueId x, const NormStyle& style) const {
        return builder.norm(block + name, x, make_norm(builder, style, key, hidden));
    }
    // Each head by itself, all with the same weights. That the axis may not be cut is said by multiple_of: it is also the unit of the heads.
    ValueId head_norm(const std::string& name, const std::string& key, ValueId x) const {
        builder.add_axis(axis(".head_dim"), options.head_dim, options.head_dim);
        return builder.norm(block + name, x, make_norm(builder, options.qk_norm, key, {{axis(".head_dim"), 1}}, options.head_dim));
    }
};

// Rows of q, k and v in a fused tensor. Heads that are stored as (q, k, v) one by one stride over three heads.
RowMap fused_rows(const DecoderOptions& options, int part) {
    const std::int64_t q = options.n_heads * options.head_dim, kv = options.n_kv_heads * options.head_dim;
    if (options.fused_rows == FusedRows::per_head) return {part * options.head_dim, options.head_dim, 3 * options.head_dim, options.n_heads};
    if (part == 0) return RowMap::all(q);
    return {q + (part - 1) * kv, kv, kv, 1};
}

TensorRef with_rows(TensorRef ref, RowMap rows) {
    if (!ref.empty()) ref.rows = rows;
    return ref;
}

ValueId rope(const Parts& parts, const char* name, ValueId x) {
    if (parts.options.rope.inv_freq.empty()) return x;
    RopeOp op;
    op.n_heads_unit = parts.options.head_dim;
    op.inv_freq = parts.options.rope.inv_freq;
    op.magnitude = parts.options.rope.magnitude;
    op.style = parts.options.rope.style;
    op.long_inv_freq = parts.options.rope.long_inv_freq;
    op.long_above = parts.options.rope.long_above;
    return parts.builder.rope(parts.block + name, x, op);
}

}  // namespace

NormOp make_norm(SpecBuilder& builder, const NormStyle& style, const std::string& key, const Dimension& width, std::int64_t group_width) {
    NormOp op;
    op.kind = style.kind;
    op.eps = style.eps;
    op.weight_offset = style.weight_offset;
    op.group_width = group_width;
    if (style.tensors != NormTensors::none) op.weight = builder.tensor(key + ".weight", {width}, TensorDecl::Role::norm);
    if (style.tensors == NormTensors::weight_and_bias) op.bias = builder.tensor(key + ".bias", {width}, TensorDecl::Role::bias);
    return op;
}

ValueId attention_half(SpecBuilder& builder, const std::string& block, ValueId normed, const DecoderOptions& options) {
    Parts parts{builder, block, options};
    builder.add_axis(parts.axis(".head"), options.n_heads, options.n_kv_heads);
    builder.add_axis(parts.axis(".kv_head"), options.n_kv_heads);
    const BlockNames& names = options.names;
    ValueId q, k, v;
    if (!names.fused_qkv.empty()) {
        Dimension all = {parts.heads()[0], parts.kv_heads()[0], parts.kv_heads()[0]};
        if (options.fused_rows == FusedRows::per_head) all = {{parts.axis(".head"), 3 * options.head_dim}};
        TensorRef weight = parts.weight(names.fused_qkv, all, hidden), bias = parts.bias(names.fused_qkv, all, Biases::qkv);
        q = builder.linear(block + ".attn.q", normed, with_rows(weight, fused_rows(options, 0)), with_rows(bias, fused_rows(options, 0)),
                           parts.heads());
        k = builder.linear(block + ".attn.k", normed, with_rows(weight, fused_rows(options, 1)), with_rows(bias, fused_rows(options, 1)),
                           parts.kv_heads());
        v = builder.linear(block + ".attn.v", normed, with_rows(weight, fused_rows(options, 2)), with_rows(bias, fused_rows(options, 2)),
                           parts.kv_heads());
    } else {
        q = builder.linear(block + ".attn.q", normed, parts.weight(names.q, parts.heads(), hidden), parts.bias(names.q, parts.heads(), Biases::qkv),
                           parts.heads());
        k = builder.linear(block + ".attn.k", normed, parts.weight(names.k, parts.kv_heads(), hidden),
                           parts.bias(names.k, parts.kv_heads(), Biases::qkv), parts.kv_heads());
        v = builder.linear(block + ".attn.v", normed, parts.weight(names.v, parts.kv_heads(), hidden),
                           parts.bias(names.v, parts.kv_heads(), Biases::qkv), parts.kv_heads());
    }
    if (!names.q_norm.empty()) {
        q = parts.head_norm(".attn.q_norm", names.q_norm, q);
        k = parts.head_norm(".attn.k_norm", names.k_norm, k);
    }
    q = rope(parts, ".attn.q_rope", q);
    k = rope(parts, ".attn.k_rope", k);
    AttentionOp op;
    op.n_heads = options.n_heads;
    op.n_kv_heads = options.n_kv_heads;
    op.head_dim = options.head_dim;
    op.scale = options.attention_scale > 0 ? options.attention_scale : 1.0f / std::sqrt(static_cast<float>(options.head_dim));
    op.softcap = options.attention_softcap;
    op.window = options.window;
    op.state = {StateSpec::Kind::per_token, options.n_kv_heads * options.head_dim, options.n_kv_heads * options.head_dim, options.window};
    ValueId mixed = builder.attention(block + ".attn.mix", q, k, v, op);
    return builder.linear(block + ".attn.o", mixed, parts.weight(names.o, hidden, parts.heads()), parts.bias(names.o, hidden, Biases::attention),
                          hidden);
}

ValueId gated_conv_half(SpecBuilder& builder, const std::string& block, ValueId normed, const DecoderOptions& options, std::int64_t n_channels) {
    Parts parts{builder, block, options};
    builder.add_axis(parts.axis(".conv"), n_channels);
    builder.add_axis("model.one", 1, 1);
    builder.add_axis(parts.axis(".conv_tap"), options.conv_kernel, options.conv_kernel);  // cannot be cut
    const Dimension channels = {{parts.axis(".conv"), 1}}, all = {channels[0], channels[0], channels[0]};
    const auto bias = [&](const std::string& name, const Dimension& out) { return options.conv_bias ? builder.tensor(name + ".bias", {out}, TensorDecl::Role::bias) : TensorRef{}; };
    const BlockNames& names = options.names;
    const TensorRef in = parts.weight(names.conv_in, all, hidden), in_bias = bias(names.conv_in, all);
    const auto third = [&](const char* name, std::int64_t i) {
        const RowMap rows = i == 0 ? RowMap::all(n_channels) : RowMap{i * n_channels, n_channels, n_channels, 1};
        return builder.linear(block + name, normed, with_rows(in, rows), with_rows(in_bias, rows), channels);
    };
    const ValueId b = third(".conv.b", 0), c = third(".conv.c", 1), x = third(".conv.x", 2);
    CausalConvOp op;
    op.weight = builder.tensor(names.conv + ".weight", {channels, {{"model.one", 1}}, {{parts.axis(".conv_tap"), 1}}}, TensorDecl::Role::other);
    op.bias = bias(names.conv, channels);
    op.kernel = options.conv_kernel;
    op.state = {StateSpec::Kind::recurrent, n_channels, 0, options.conv_kernel};
    const ValueId mixed = builder.causal_conv(block + ".conv.mix", builder.multiply(block + ".conv.gated_in", b, x), op);
    return builder.linear(block + ".conv.out", builder.multiply(block + ".conv.gated_out", c, mixed), parts.weight(names.conv_out, hidden, channels), bias(names.conv_out, hidden), hidden);
}

ValueId feed_forward_half(SpecBuilder& builder, const std::string& block, ValueId normed, const DecoderOptions& options) {
    if (options.experts.n > 0) return experts_half(builder, block, normed, options);
    Parts parts{builder, block, options};
    builder.add_axis(parts.axis(".ff"), options.d_ff);
    const BlockNames& names = options.names;
    ValueId inner;
    if (options.feed_forward == FeedForward::gated) {
        ValueId gate, up;
        if (!names.fused_gate_up.empty()) {
            Dimension both = {parts.ff()[0], parts.ff()[0]};
            TensorRef weight = parts.weight(names.fused_gate_up, both, hidden), bias = parts.bias(names.fused_gate_up, both, Biases::all);
            RowMap first = RowMap::all(options.d_ff), second = {options.d_ff, options.d_ff, options.d_ff, 1};
            gate = builder.linear(block + ".ff.gate", normed, with_rows(weight, first), with_rows(bias, first), parts.ff());
            up = builder.linear(block + ".ff.up", normed, with_rows(weight, second), with_rows(bias, second), parts.ff());
        } else {
            gate = builder.linear(block + ".ff.gate", normed, parts.weight(names.gate, parts.ff(), hidden),
                                  parts.bias(names.gate, parts.ff(), Biases::all), parts.ff());
            up = builder.linear(block + ".ff.up", normed, parts.weight(names.up, parts.ff(), hidden), parts.bias(names.up, parts.ff(), Biases::all),
                                parts.ff());
        }
        inner = builder.multiply(block + ".ff.gated", builder.activation(block + ".ff.act", gate, options.activation), up);
    } else {
        ValueId up = builder.linear(block + ".ff.up", normed, parts.weight(names.up, parts.ff(), hidden),
                                    parts.bias(names.up, parts.ff(), Biases::all), parts.ff());
        inner = builder.activation(block + ".ff.act", up, options.activation);
    }
    return builder.linear(block + ".ff.down", inner, parts.weight(names.down, hidden, parts.ff()), parts.bias(names.down, hidden, Biases::all),
                          hidden);
}

ValueId experts_half(SpecBuilder& builder, const std::string& block, ValueId normed, const DecoderOptions& options) {
    Parts parts{builder, block, options};
    builder.add_axis(parts.axis(".expert"), options.experts.n, options.experts.n);
    const Dimension experts = {{parts.axis(".expert"), 1}};
    ValueId logits = builder.linear(block + ".ff.router", normed, parts.weight(options.names.router, experts, hidden), {}, experts);
    ValueId weights = builder.route(block + ".ff.route", logits, options.experts.route);
    ValueId sum = no_value;
    for (std::int64_t e = 0; e < options.experts.n; ++e) {
        const std::string number = std::to_string(e);
        DecoderOptions one = options;
        one.experts.n = 0;
        one.axes_of = parts.axis(".expert") + number;
        for (std::string* name : {&one.names.gate, &one.names.up, &one.names.down})
            if (std::size_t at = name->find("{}"); at != std::string::npos) name->replace(at, 2, number);
        const std::string expert = block + ".expert" + number;
        ValueId out = builder.gate(expert + ".weighted", feed_forward_half(builder, expert, normed, one), weights, e);
        sum = e == 0 ? out : builder.add(expert + ".sum", sum, out);
    }
    return sum;
}

ValueId decoder_block(SpecBuilder& builder, std::int64_t index, ValueId x, const DecoderOptions& options) {
    const std::string block = "block" + std::to_string(index);
    Parts parts{builder, block, options};
    const BlockNames& names = options.names;
    builder.begin_block(block, x);
    auto maybe_norm = [&](const char* name, const std::string& key, ValueId value) {
        return key.empty() ? value : parts.norm(name, key, value, options.norm);
    };
    const auto mix = [&](ValueId value) {
        const bool conv = options.mixer == DecoderOptions::Mixer::gated_conv;
        return conv ? gated_conv_half(builder, block, value, options, builder.spec().find_axis("model.hidden")->size) : attention_half(builder, block, value, options);
    };
    if (options.residual == Residual::post_norm) {
        ValueId mixed = mix(x);
        x = maybe_norm(".attn_norm", names.attn_norm, builder.add(block + ".attn.add", x, mixed));
        ValueId fed = feed_forward_half(builder, block, x, options);
        x = maybe_norm(".ff_norm", names.ff_norm, builder.add(block + ".ff.add", x, fed));
    } else {
        ValueId mixed = mix(maybe_norm(".attn_norm", names.attn_norm, x));
        mixed = maybe_norm(".post_attn_norm", names.post_attn_norm, mixed);
        ValueId after = builder.add(block + ".attn.add", x, mixed);
        ValueId source = options.residual == Residual::parallel ? x : after;
        ValueId fed = feed_forward_half(builder, block, maybe_norm(".ff_norm", names.ff_norm, source), options);
        fed = maybe_norm(".post_ff_norm", names.post_ff_norm, fed);
        x = builder.add(block + ".ff.add", after, fed);
    }
    builder.end_block(x);
    return x;
}

}  // namespace skiff
