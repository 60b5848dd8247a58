// The launches of rotations and attention.
#include <algorithm>
#include <cstddef>
#include <utility>

#include "backend/cuda/emitter.h"

namespace skiff::cuda {

RopeWriteArgs Emitter::rope_args(const RopeDevice& rope) {
    RopeWriteArgs args;
    const int first = rope.q >= 0 ? rope.q : rope.k >= 0 ? rope.k : rope.v;
    args.qkv = root(first).floats;
    args.qkv_stride = stride(first);
    args.q_offset = rope.q >= 0 ? offset(rope.q) : -1;
    args.k_offset = rope.k >= 0 ? offset(rope.k) : -1;
    args.v_offset = rope.v >= 0 ? offset(rope.v) : -1;
    args.n_heads = rope.q >= 0 ? rope.n_heads : 0;
    args.q_norm = rope.q_norm;
    args.k_norm = rope.k_norm;
    args.norm_eps = rope.norm_eps;
    args.inv_freq = rope.inv_freq;
    args.rotary_dim = rope.rotary_dim;
    args.magnitude = rope.magnitude;
    args.style = rope.style;
    return args;
}

// Blocks of a token do not wait for those of another: keys of one token must be all that is new to a sequence. With more than a few tokens the launch saved is worth less than the blocks that an SM
// does not hold for it (8 KV heads of 128 at 8192 positions on an H200, four tokens: 46 us a layer with two blocks, 39 with three).
constexpr std::int64_t most_turned_tokens = 4;
const AttentionDevice* Emitter::attention_behind(const RopeDevice& rope) const {
    if (options_.fuse == EmitOptions::Fuse::off || shape_.attention != RunShape::Attention::decode || !shape_.one_each() || rows_ > most_turned_tokens || at_ + 1 >= model_.ops.size()) return nullptr;
    const auto* attention = std::get_if<AttentionDevice>(&model_.ops[at_ + 1].detail);
    const bool is_its_own = attention != nullptr && rope.state >= 0 && rope.state == attention->state && rope.k >= 0 && rope.v >= 0 && (rope.q < 0 || rope.q_out == attention->q);
    return is_its_own ? attention : nullptr;
}

void Emitter::add(const RopeDevice& rope) {
    if (attention_behind(rope) != nullptr) {
        rope_in_front_ = &rope;
        return;
    }
    RopeWriteArgs args = rope_args(rope);
    if (rope.q >= 0) {
        args.q = floats(rope.q);
        args.q_stride = stride(rope.q);
    }
    args.tokens = tokens_;
    if (rope.state >= 0) args.state = states_[static_cast<std::size_t>(rope.state)].view;
    else args.state.head_dim = rope.head_dim;
    push(rope.state >= 0 ? "rope and state write" : "rope", args);
    for (int v : {rope.q, rope.k, rope.v}) done(v);
}

void Emitter::add(const AttentionDevice& attention) {
    AttentionCommon common;
    common.q = floats(attention.q);
    common.q_stride = stride(attention.q);
    common.n_heads = attention.op.n_heads;
    common.state = states_[static_cast<std::size_t>(attention.state)].view;
    common.tokens = tokens_;
    common.window = attention.op.window;
    common.scale = attention.op.scale;
    common.softcap = attention.op.softcap;
    make_result(attention.out, common);
    if (options_.attention == PromptAttention::cudnn && !shape_.segments.empty() && common.state.form == StateForm::bf16) {
        attend(common, attention.op.head_dim);
    } else if (shape_.attention == RunShape::Attention::prefill) {
        push("prefill attention", PrefillAttentionArgs{common, inputs_.tiles, shape_.n_tiles});
    } else {
        DecodeAttentionArgs args;
        args.common = common;
        args.n_splits = scratch_table().decode_attention_splits(options_.capacity, attention.op.n_kv_heads, *options_.launch);
        args.partials = scratch_.take_floats(scratch_table().decode_partial_floats(rows_, attention.op.n_heads, attention.op.head_dim, args.n_splits));
        args.arrivals = options_.arrivals;
        const RopeDevice* rope = std::exchange(rope_in_front_, nullptr);
        if (rope != nullptr) args.rope = rope_args(*rope);
        push(rope != nullptr ? "rope, state write and decode attention" : "decode attention", args);
        scratch_.give(args.partials);
        if (rope != nullptr)
            for (int v : {rope->q, rope->k, rope->v}) done(v);
    }
    done(attention.q);
}

void Emitter::attend(const AttentionCommon& common, std::int64_t head_dim) {
    const std::int64_t width = common.n_heads * head_dim;
    const auto row_bytes = [&](std::int64_t n) { return scratch_table().operand_bytes(OperandForm::rows, n, width); };
    std::int64_t n_rows = rows_, first = 0;
    for (const Segment& segment : shape_.segments) {
        n_rows = std::max(n_rows, first + segment.n_rows);
        first += segment.n_tokens;
    }
    auto* q = static_cast<std::byte*>(scratch_.take(row_bytes(n_rows)));
    auto* y = static_cast<std::byte*>(scratch_.take(row_bytes(n_rows)));
    ElementLaunchArgs narrow;
    narrow.kind = ElementKind::scale;
    narrow.a = common.q;
    narrow.a_stride = common.q_stride;
    narrow.n_tokens = rows_;
    narrow.n_columns = width;
    narrow.factor = 1;
    narrow.operand = {OperandForm::rows, q, width};
    push("operand", narrow);
    first = 0;
    const std::int32_t* lengths = inputs_.segment_lengths;
    for (const Segment& segment : shape_.segments) {
        SequenceAttentionArgs args;
        args.q = q + row_bytes(first);
        args.y = y + row_bytes(first);
        args.n_rows = segment.n_rows;
        args.n_heads = common.n_heads;
        args.state = common.state;
        args.sequence = segment.sequence;
        args.n_pages = segment.n_pages;
        args.n_pool_pages = options_.n_pool_pages;
        args.n_tokens = lengths;
        args.n_positions = lengths + 4;
        args.scale = common.scale;
        args.softcap = common.softcap;
        args.window = common.window;
        args.workspace = options_.workspace;
        args.workspace_bytes = options_.workspace_bytes;
        push("cudnn attention", args);
        first += segment.n_tokens;
        lengths += segment_stride;
    }
    push("rows of attention", WidenArgs{y, rows_, width, common.y, common.y_stride, common.operand});
    scratch_.give(q);
    scratch_.give(y);
}

}  // namespace skiff::cuda
