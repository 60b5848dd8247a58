// The launches of embeddings, norms, and what works element by element or row by row.
#include <algorithm>

#include "backend/cuda/emitter.h"

namespace skiff::cuda {

void Emitter::add(const EmbedDevice& embed) {
    EmbedArgs args;
    args.table = embed.table;
    args.index = embed.index == EmbedOp::Index::token ? inputs_.tokens : inputs_.positions;
    args.offset = embed.offset;
    args.n_tokens = rows_;
    args.scale = embed.scale;
    if (embed.adds_to >= 0) {
        args.write = EmbedArgs::Write::add;
        take_over(embed.out, embed.adds_to);
        args.x = floats(embed.out);
    } else {
        args.x = make_floats(embed.out);
    }
    if (!adds_later(embed.out)) args.next = next_of(embed.out);
    push("embed", args);
}

bool Emitter::adds_later(int v) const {
    for (const DeviceOp& op : model_.ops)
        if (const auto* embed = std::get_if<EmbedDevice>(&op.detail); embed != nullptr && embed->adds_to == v) return true;
    return false;
}

void Emitter::add(const NormDevice& norm) {
    if (norm.out >= 0 && live_[static_cast<std::size_t>(norm.out)].operand.data != nullptr) {  // its producer has done it
        done(norm.x);
        return;
    }
    push("norm", norm_args(norm));
    done(norm.x);
    done(norm.residual);
}

NormLaunchArgs Emitter::norm_args(const NormDevice& norm) {
    NormLaunchArgs args;
    args.x = floats(norm.x);
    args.x_stride = stride(norm.x);
    args.behind = norm.behind;
    if (norm.residual >= 0 && stride(norm.residual) == args.x_stride && args.x_stride == value(norm.sum).width) {
        args.residual = floats(norm.residual);
        args.sum = make_floats(norm.sum);
    } else if (norm.residual >= 0) {
        ElementLaunchArgs sum;
        sum.a = floats(norm.residual);
        sum.a_stride = stride(norm.residual);
        sum.b = args.x;
        sum.b_stride = args.x_stride;
        sum.n_tokens = rows_;
        sum.n_columns = args.x_stride = sum.y_stride = value(norm.sum).width;
        sum.y = make_floats(norm.sum);
        args.x = sum.y;
        push("elements", sum);
    }
    args.weight = norm.weight;
    args.bias = norm.bias;
    args.n_tokens = rows_;
    args.width = norm.group_width;
    args.eps = norm.eps;
    args.kind = norm.kind;
    if (norm.out < 0) return args;
    args.n_groups = value(norm.out).width / norm.group_width;
    make_result(norm.out, args);
    if (norm.second_out >= 0) {
        args.second_weight = norm.second_weight;
        args.second_bias = norm.second_bias;
        args.second = make_operand(norm.second_out);
    }
    return args;
}

void Emitter::add(const ElementDevice& element) {
    ElementLaunchArgs args;
    args.kind = element.kind;
    args.a = floats(element.a);
    args.a_stride = stride(element.a);
    if (element.b >= 0) {
        args.b = floats(element.b) + element.b_column;
        args.b_stride = stride(element.b);
    }
    if (element.columns != nullptr) args.b = element.columns;
    args.order = element.order;
    args.n_tokens = rows_;
    args.n_columns = value(element.out).width;
    args.factor = element.factor;
    args.activation = element.activation;
    make_result(element.out, args);
    push("elements", args);
    done(element.a);
    done(element.b);
}

void Emitter::add(const SelectDevice& select) {
    in_head_ = true;
    if (shape_.selection == RunShape::Selection::all) {
        Live &out = live_[static_cast<std::size_t>(select.out)], &in = live_[static_cast<std::size_t>(select.x)];
        out.floats = in.floats;
        out.stride = in.stride;
        out.owned = in.readers == 1 && in.owned;
        if (out.owned) in.owned = false;
        done(select.x);
        return;
    }
    const std::int64_t n = shape_.n_selected;
    const float* x = dense(select.x);  // of all rows
    rows_ = std::max<std::int64_t>(n, 1);
    float* y = make_floats(select.out);
    push("select", SelectArgs{x, inputs_.selected, y, n, value(select.out).width});
    drop_copy();
    done(select.x);
}

RouteLaunchArgs Emitter::route_args(const RouteOp& op, std::int64_t n_experts, const float* logits) const {
    RouteLaunchArgs args;
    args.logits = logits;
    args.n_tokens = rows_;
    args.n_experts = n_experts;
    args.n_used = op.n_used;
    args.rule = op.rule == RouteOp::Rule::softmax_then_top ? RouteLaunchArgs::Rule::softmax_then_top : RouteLaunchArgs::Rule::top_then_softmax;
    args.divide = op.normalize ? RouteLaunchArgs::Divide::by_their_sum : RouteLaunchArgs::Divide::as_they_are;
    return args;
}

void Emitter::add(const RouteDevice& route) {
    RouteLaunchArgs args = route_args(route.op, value(route.out).width, dense(route.logits));
    args.y = make_floats(route.out);
    push("route", args);
    drop_copy();
    done(route.logits);
}

void Emitter::add(const ConvDevice& conv) {
    ConvLaunchArgs args;
    args.x = floats(conv.x);
    args.x_stride = stride(conv.x);
    if (conv.gate_in >= 0) args.gate_in = floats(conv.gate_in), args.gate_in_stride = stride(conv.gate_in);
    if (conv.gate_out >= 0) args.gate_out = floats(conv.gate_out), args.gate_out_stride = stride(conv.gate_out);
    args.taps = conv.taps;
    args.bias = conv.bias;
    args.rings = states_[static_cast<std::size_t>(conv.state)].rings;
    args.tokens = tokens_;
    args.n_taps = conv.n_taps;
    args.n_columns = value(conv.out).width;
    if (value(conv.out).as_floats || !value(conv.out).as_operand) args.y = make_floats(conv.out);
    if (value(conv.out).as_operand) args.operand = make_operand(conv.out);
    push("convolution", args);
    for (int v : {conv.x, conv.gate_in, conv.gate_out}) done(v);
}

}  // namespace skiff::cuda
