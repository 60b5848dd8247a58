// The launches of a mixture of experts.
#include "backend/cuda/emitter.h"

namespace skiff::cuda {

void Emitter::add(const ExpertsDevice& experts) {
    if (rows_ > max_gemv_tokens) return one_expert_after_another(experts);
    const Live x = operand_of(experts.x);
    ExpertsArgs args;
    args.route = route_args(experts.route, experts.n_experts, dense(experts.logits));
    // The operands of the chosen experts, one behind the other. Between them is padding that must stay zero: it is nobody else's buffer.
    const std::int64_t width = value(experts.hidden).width, part = operand_columns(width), all = (experts.route.n_used - 1) * part + width;
    Operand like{form(), nullptr, all};
    if (part != width) like.cuts[0] = static_cast<std::int32_t>(width), like.gaps[0] = static_cast<std::int32_t>(part - width);
    const Operand hidden = scratch_.take_operand(like);
    args.product.weight = part_of(experts.gate_up, 0, experts.n_experts);
    args.product.x = x.operand.data;
    args.product.n_tokens = rows_;
    args.product.rms = x.rms;
    args.product.write = GemvWrite::gate;
    args.product.activation = experts.activation;
    args.product.next.operand = {form(), hidden.data, all};
    push("experts: gate and up", args);

    args.product = {};
    args.product.next = next_of(experts.out);
    if (experts.adds_to >= 0) {
        take_over(experts.out, experts.adds_to);
        args.product.write = GemvWrite::add;
    } else {
        make_floats(experts.out);
    }
    args.product.weight = part_of(experts.down, 0, experts.n_experts);
    args.product.x = hidden.data;
    args.product.x_columns = all;
    args.product.n_tokens = rows_;
    args.product.y = floats(experts.out);
    args.product.y_stride = stride(experts.out);
    push("experts: down", args);
    scratch_.give(hidden);
    drop_copy();
    done(experts.logits);
    done_operand(experts.x);
}

// Every expert for every token, weighted by zero for those that did not choose it: with many tokens nearly all are chosen by some.
void Emitter::one_expert_after_another(const ExpertsDevice& experts) {
    const auto readers = [&](int v) -> int& { return root(v).readers; };
    readers(experts.shares) = static_cast<int>(experts.n_experts);
    add(RouteDevice{experts.route, experts.logits, experts.shares});
    readers(experts.x) += static_cast<int>(experts.n_experts) - 1;
    if (experts.adds_to >= 0) take_over(experts.out, experts.adds_to);
    else make_floats(experts.out);
    for (std::int64_t e = 0; e < experts.n_experts; ++e) {
        LinearDevice first;
        first.x = experts.x;
        first.matrices = {{part_of(experts.gate_up, e, experts.n_experts), nullptr, 0}};
        first.write = GemvWrite::gate;
        first.activation = experts.activation;
        first.out = experts.hidden;
        readers(experts.hidden) = 1;
        add(first);
        LinearDevice second;
        second.x = experts.hidden;
        second.matrices = {{part_of(experts.down, e, experts.n_experts), nullptr, 0}};
        second.out = experts.result;
        readers(experts.result) = 1;
        add(second);
        ElementLaunchArgs weighted;
        weighted.kind = e > 0 || experts.adds_to >= 0 ? ElementKind::add_gated : ElementKind::gate;
        weighted.a = floats(experts.result);
        weighted.a_stride = stride(experts.result);
        weighted.b = floats(experts.shares) + e;
        weighted.b_stride = stride(experts.shares);
        weighted.n_tokens = rows_;
        weighted.n_columns = value(experts.out).width;
        weighted.y = floats(experts.out);
        weighted.y_stride = stride(experts.out);
        push("elements", weighted);
        done(experts.result);
        done(experts.shares);
    }
}

}  // namespace skiff::cuda
