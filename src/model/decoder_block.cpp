#include <cmath>

#include "model/spec_builder.h"

namespace skiff {
namespace {

const Dimension hidden = {{"model.hidden", 1}};

struct Parts {
    SpecBuilder& builder;
    const std::string& block;
    const DecoderOptions& options;

    Dimension heads() const { return {{block + ".head", options.head_dim}}; }
    Dimension kv_heads() const { return {{block + ".kv_head", options.head_dim}}; }
    Dimension ff() const { return {{block + ".ff", 1}}; }

    TensorRef weight(const std::string& name, const Dimension& out, const Dimension& in) const {
        TensorRef ref = builder.tensor(name + ".weight", options.transposed ? std::vector{in, out} : std::vector{out, in}, TensorDecl::Role::linear);
        ref.transposed = options.transposed;
        return ref;
    }
    TensorRef bias(const std::string& name, const Dimension& out, Biases at_least) const {
        bool present = options.biases >= at_least || (at_least == Biases::all && options.mlp_bias);
        return present ? builder.tensor(name + ".bias", {out}, TensorDecl::Role::bias) : TensorRef{};
    }
    ValueId norm(const std::string& name, const std::string& key, ValueId x, const NormStyle& style, std::int64_t group_width) const {
        NormOp op;
        op.kind = style.kind;
        op.eps = style.eps;
        op.weight_offset = style.weight_offset;
        op.group_width = group_width;
        Dimension width = hidden;
        if (group_width > 0) {
            builder.add_axis("model.head_dim", group_width);
            width = {{"model.head_dim", 1}};
        }
        op.weight = builder.tensor(key + ".weight", {width}, TensorDecl::Role::norm);
        if (options.norm_bias == DecoderOptions::NormBias::present) op.bias = builder.tensor(key + ".bias", {width}, TensorDecl::Role::bias);
        return builder.norm(block + name, x, op);
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
    return parts.builder.rope(parts.block + name, x, op);
}

}  // namespace

ValueId attention_half(SpecBuilder& builder, const std::string& block, ValueId normed, const DecoderOptions& options) {
    Parts parts{builder, block, options};
    builder.add_axis(block + ".head", options.n_heads, options.n_kv_heads);
    builder.add_axis(block + ".kv_head", options.n_kv_heads);
    const BlockNames& names = options.names;
    ValueId q, k, v;
    if (!names.fused_qkv.empty()) {
        Dimension all = {{block + ".head", options.head_dim}, {block + ".kv_head", options.head_dim}, {block + ".kv_head", options.head_dim}};
        if (options.fused_rows == FusedRows::per_head) all = {{block + ".head", 3 * options.head_dim}};
        TensorRef weight = parts.weight(names.fused_qkv, all, hidden), bias = parts.bias(names.fused_qkv, all, Biases::qkv);
        q = builder.linear(block + ".attn.q", normed, with_rows(weight, fused_rows(options, 0)), with_rows(bias, fused_rows(options, 0)), parts.heads());
        k = builder.linear(block + ".attn.k", normed, with_rows(weight, fused_rows(options, 1)), with_rows(bias, fused_rows(options, 1)), parts.kv_heads());
        v = builder.linear(block + ".attn.v", normed, with_rows(weight, fused_rows(options, 2)), with_rows(bias, fused_rows(options, 2)), parts.kv_heads());
    } else {
        q = builder.linear(block + ".attn.q", normed, parts.weight(names.q, parts.heads(), hidden), parts.bias(names.q, parts.heads(), Biases::qkv), parts.heads());
        k = builder.linear(block + ".attn.k", normed, parts.weight(names.k, parts.kv_heads(), hidden), parts.bias(names.k, parts.kv_heads(), Biases::qkv), parts.kv_heads());
        v = builder.linear(block + ".attn.v", normed, parts.weight(names.v, parts.kv_heads(), hidden), parts.bias(names.v, parts.kv_heads(), Biases::qkv), parts.kv_heads());
    }
    if (!names.q_norm.empty()) {
        q = parts.norm(".attn.q_norm", names.q_norm, q, options.qk_norm, options.head_dim);
        k = parts.norm(".attn.k_norm", names.k_norm, k, options.qk_norm, options.head_dim);
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
    return builder.linear(block + ".attn.o", mixed, parts.weight(names.o, hidden, parts.heads()), parts.bias(names.o, hidden, Biases::attention), hidden);
}

ValueId feed_forward_half(SpecBuilder& builder, const std::string& block, ValueId normed, const DecoderOptions& options) {
    Parts parts{builder, block, options};
    builder.add_axis(block + ".ff", options.d_ff);
    const BlockNames& names = options.names;
    ValueId inner;
    if (options.feed_forward == FeedForward::gated) {
        ValueId gate, up;
        if (!names.fused_gate_up.empty()) {
            Dimension both = {{block + ".ff", 1}, {block + ".ff", 1}};
            TensorRef weight = parts.weight(names.fused_gate_up, both, hidden), bias = parts.bias(names.fused_gate_up, both, Biases::all);
            RowMap first = RowMap::all(options.d_ff), second = {options.d_ff, options.d_ff, options.d_ff, 1};
            gate = builder.linear(block + ".ff.gate", normed, with_rows(weight, first), with_rows(bias, first), parts.ff());
            up = builder.linear(block + ".ff.up", normed, with_rows(weight, second), with_rows(bias, second), parts.ff());
        } else {
            gate = builder.linear(block + ".ff.gate", normed, parts.weight(names.gate, parts.ff(), hidden), parts.bias(names.gate, parts.ff(), Biases::all), parts.ff());
            up = builder.linear(block + ".ff.up", normed, parts.weight(names.up, parts.ff(), hidden), parts.bias(names.up, parts.ff(), Biases::all), parts.ff());
        }
        inner = builder.multiply(block + ".ff.gated", builder.activation(block + ".ff.act", gate, options.activation), up);
    } else {
        ValueId up = builder.linear(block + ".ff.up", normed, parts.weight(names.up, parts.ff(), hidden), parts.bias(names.up, parts.ff(), Biases::all), parts.ff());
        inner = builder.activation(block + ".ff.act", up, options.activation);
    }
    return builder.linear(block + ".ff.down", inner, parts.weight(names.down, hidden, parts.ff()), parts.bias(names.down, hidden, Biases::all), hidden);
}

ValueId decoder_block(SpecBuilder& builder, std::int64_t index, ValueId x, const DecoderOptions& options) {
    const std::string block = "block" + std::to_string(index);
    Parts parts{builder, block, options};
    const BlockNames& names = options.names;
    builder.begin_block(block, x);
    auto maybe_norm = [&](const char* name, const std::string& key, ValueId value) {
        return key.empty() ? value : parts.norm(name, key, value, options.norm, 0);
    };
    if (options.residual == Residual::post_norm) {
        ValueId mixed = attention_half(builder, block, x, options);
        x = maybe_norm(".attn_norm", names.attn_norm, builder.add(block + ".attn.add", x, mixed));
        ValueId fed = feed_forward_half(builder, block, x, options);
        x = maybe_norm(".ff_norm", names.ff_norm, builder.add(block + ".ff.add", x, fed));
    } else {
        ValueId mixed = attention_half(builder, block, maybe_norm(".attn_norm", names.attn_norm, x), options);
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
