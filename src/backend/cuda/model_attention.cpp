// Attention of a device model: norms and rotations of heads, what is kept, the attention itself.
#include "backend/cuda/model_builder.h"

namespace skiff::cuda {

bool ModelBuilder::belongs_to_attention(std::size_t i) const {
    if (!fuse()) return false;
    int v = items_[i].op->out, reader = only_reader(v);
    if (reader >= 0 && std::get_if<RopeOp>(&items_[static_cast<std::size_t>(reader)].op->detail)) {
        v = items_[static_cast<std::size_t>(reader)].op->out;
        reader = only_reader(v);
    }
    if (reader < 0) return false;
    const Item& item = items_[static_cast<std::size_t>(reader)];
    const auto* attention = std::get_if<AttentionOp>(&item.op->detail);
    if (attention == nullptr || (item.in[0] != v && item.in[1] != v) || item.in[2] == v) return false;
    const auto* norm = std::get_if<NormOp>(&items_[i].op->detail);
    return norm == nullptr || (norm->kind == NormKind::rms && norm->bias.empty() && norm->group_width == attention->head_dim);
}

Status ModelBuilder::add(std::size_t i, const RopeOp& detail) {
    if (belongs_to_attention(i)) {
        items_[i].done = false;
        return {};
    }
    // A rotation of its own: in place where nobody else reads what it rotates.
    RopeDevice rope;
    rope.q = items_[i].in[0];
    rope.head_dim = detail.n_heads_unit;
    rope.n_heads = width(rope.q) / rope.head_dim;
    rope.q_out = items_[i].op->out;
    if (only_reader(rope.q) < 0) return unsupported("operator rope over a value that others read too has no CUDA row; run with --device cpu");
    SKIFF_CHECK(rotate(rope, detail));
    keep_place(rope.q_out, rope.q);
    push(items_[i].op->name, rope);
    return {};
}

Status ModelBuilder::rotate(RopeDevice& rope, const RopeOp& detail) {
    const auto& table = !detail.long_inv_freq.empty() && options_.capacity > detail.long_above ? detail.long_inv_freq : detail.inv_freq;
    SKIFF_TRY(rope.inv_freq, weights_.vector(table));
    rope.rotary_dim = 2 * static_cast<std::int64_t>(table.size());
    rope.magnitude = detail.magnitude;
    rope.style = detail.style;
    return {};
}

void ModelBuilder::keep_place(int out, int in) {
    value(out).parent = value(in).parent >= 0 ? value(in).parent : in;
    value(out).offset = value(in).parent >= 0 ? value(in).offset : 0;
}

ModelBuilder::HeadChain ModelBuilder::chain_of(int v) const {
    HeadChain chain;
    chain.value = v;
    for (int step = 0; step < 2; ++step) {
        const auto found = producer_.find(chain.value);
        if (found == producer_.end() || items_[found->second].done || only_reader(chain.value) < 0) break;
        const OpDetail& detail = items_[found->second].op->detail;
        if (const auto* rope = std::get_if<RopeOp>(&detail); rope != nullptr && step == 0) chain.rope = rope;
        else if (const auto* norm = std::get_if<NormOp>(&detail); norm != nullptr) chain.norm = norm;
        else break;
        chain.items.push_back(found->second);
        chain.value = items_[found->second].in[0];
        if (chain.norm != nullptr) break;
    }
    return chain;
}

Result<const float*> ModelBuilder::head_norm(const NormOp* norm, std::int64_t head_dim) {
    if (norm == nullptr) return static_cast<const float*>(nullptr);
    SKIFF_TRY(auto weight, weights_.numbers(norm->weight, head_dim, norm->weight_offset));
    if (weight.empty()) weight.assign(static_cast<std::size_t>(head_dim), 1.0f);
    return weights_.vector(weight);
}

Status ModelBuilder::add(std::size_t i, const AttentionOp& detail) {
    const Op& op = *items_[i].op;
    const int state = static_cast<int>(model_.states.size());
    model_.states.push_back({detail.state, op.name, detail.n_heads, detail.n_kv_heads, detail.head_dim});
    HeadChain q = chain_of(items_[i].in[0]), k = chain_of(items_[i].in[1]);
    const int v = items_[i].in[2];
    for (const HeadChain* chain : {&q, &k})
        for (std::size_t item : chain->items) items_[item].done = true;
    const auto part = [&](const HeadChain& chain) -> Result<RopeDevice> {
        RopeDevice rope;
        rope.head_dim = detail.head_dim;
        if (chain.rope != nullptr) SKIFF_CHECK(rotate(rope, *chain.rope));
        return rope;
    };
    const auto same_rope = [](const RopeOp* a, const RopeOp* b) { return a == b || (a != nullptr && b != nullptr && a->inv_freq == b->inv_freq && a->long_inv_freq == b->long_inv_freq &&
                                                                                   a->long_above == b->long_above && a->magnitude == b->magnitude && a->style == b->style); };
    const bool together = fuse() && same_rope(q.rope, k.rope) && (q.norm == nullptr || k.norm == nullptr || q.norm->eps == k.norm->eps) &&
                          model_.root(q.value) == model_.root(k.value) && model_.root(k.value) == model_.root(v);
    const bool q_changes = q.rope != nullptr || q.norm != nullptr;
    const auto fill_q = [&](RopeDevice& rope) -> Status {
        SKIFF_TRY(rope.q_norm, head_norm(q.norm, detail.head_dim));
        if (q.norm != nullptr) rope.norm_eps = q.norm->eps;
        rope.q = q.value;
        rope.n_heads = detail.n_heads;
        rope.q_out = items_[i].in[0];
        if (rope.q_out != rope.q) keep_place(rope.q_out, rope.q);
        return {};
    };
    const auto fill_k = [&](RopeDevice& rope) -> Status {
        SKIFF_TRY(rope.k_norm, head_norm(k.norm, detail.head_dim));
        if (k.norm != nullptr) rope.norm_eps = k.norm->eps;
        rope.k = k.value;
        rope.state = state;
        return {};
    };
    if (together) {
        SKIFF_TRY(auto rope, part(k));
        if (q_changes) SKIFF_CHECK(fill_q(rope));
        SKIFF_CHECK(fill_k(rope));
        rope.v = v;
        push("rotate and keep " + op.name, rope);
    } else {
        if (q_changes) {
            SKIFF_TRY(auto rope, part(q));
            SKIFF_CHECK(fill_q(rope));
            push("rotate q of " + op.name, rope);
        }
        SKIFF_TRY(auto keys, part(k));
        SKIFF_CHECK(fill_k(keys));
        push("rotate and keep k of " + op.name, keys);
        RopeDevice values;
        values.head_dim = detail.head_dim;
        values.v = v;
        values.state = state;
        push("keep v of " + op.name, values);
    }
    push(op.name, AttentionDevice{items_[i].in[0], state, detail, op.out});
    return {};
}

}  // namespace skiff::cuda
