#include "plan/steps.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/checked.h"

namespace skiff {
namespace {

std::int64_t count(const Step& step, const RunContext& context) { return step.tokens == StepTokens::all ? context.n_tokens : context.n_selected; }

Range my_share(std::int64_t n, const RunContext& context, std::int64_t unit = 1) { return share_of(n, context.thread, context.n_threads, unit); }

}  // namespace

void EmbedStep::run(const RunContext& context) const {
    const std::int64_t width = table->n_columns;
    Range share = my_share(context.n_tokens, context);
    for (std::int64_t token = share.begin; token < share.end; ++token) {
        float* y = context.buffers[out] + token * width;
        const std::int64_t row = index == EmbedOp::Index::token ? context.tokens[token] : context.positions[token] + offset;
        table->layout->row(*table, row, y);
        if (scale != 1.0f)
            for (std::int64_t i = 0; i < width; ++i) y[i] *= scale;
    }
}

void SelectStep::run(const RunContext& context) const {
    Range share = my_share(context.n_selected, context);
    for (std::int64_t i = share.begin; i < share.end; ++i)
        std::memcpy(context.buffers[out] + i * width, context.buffers[in] + context.selected[i] * width,
                    static_cast<std::size_t>(width) * sizeof(float));
}

void NormStep::run(const RunContext& context) const {
    NormArgs args{context.buffers[in], data_or_null(weight), data_or_null(bias), context.buffers[out], width, eps, norm_kind};
    fn(args, my_share(count(*this, context) * n_groups, context));
}

std::int64_t prepared_bytes_per_token(std::int64_t padded_columns) { return padded_columns + padded_columns / 32 * 12; }

PreparedActivation prepared_view(std::byte* buffer, std::int64_t n_tokens, std::int64_t n_columns, std::int64_t padded_columns) {
    auto* codes = reinterpret_cast<std::int8_t*>(buffer);
    auto* scales = reinterpret_cast<float*>(buffer + n_tokens * padded_columns);
    auto* sums = reinterpret_cast<std::int16_t*>(scales + n_tokens * (padded_columns / 32));
    return {nullptr, codes, scales, sums, n_columns, padded_columns};
}

void PrepareStep::run(const RunContext& context) const {
    const std::int64_t n = count(*this, context);
    PreparedActivation view = prepared_view(context.prepared[out], n, n_columns, padded_columns);
    QuantizeArgs args{
        context.buffers[in], const_cast<std::int8_t*>(view.codes), const_cast<float*>(view.scales), const_cast<std::int16_t*>(view.sums), n_columns,
        padded_columns};
    fn(args, my_share(n, context));
}

void LinearStep::run(const RunContext& context) const {
    const std::int64_t n = count(*this, context);
    if (n == 0) return;
    for (const LinearSegment& segment : segments) {
        LinearArgs args{};
        args.weight = segment.weight.get();
        if (segment.prepared >= 0)
            args.x = prepared_view(context.prepared[segment.prepared], n, segment.weight->n_columns,
                                   padded_for_codes(segment.weight->n_columns));
        args.x.f32 = context.buffers[segment.in];
        args.x.n_columns = segment.weight->n_columns;
        args.bias = data_or_null(segment.bias);
        args.y = context.buffers[segment.out];
        args.y_stride = segment.weight->n_rows;
        args.n_tokens = n;
        args.write = segment.write;
        Range rows = my_share(segment.weight->n_rows, context, segment.weight->layout->row_unit);
        if (rows.begin < rows.end) segment.kernels[static_cast<std::size_t>(bucket_of(n))]->fn(args, rows);
    }
}

void RopeStep::run(const RunContext& context) const {
    const std::int64_t width = n_heads * head_dim;
    Range share = my_share(context.n_tokens, context);
    if (share.begin >= share.end) return;
    if (in != out)
        std::memcpy(context.buffers[out] + share.begin * width, context.buffers[in] + share.begin * width,
                    static_cast<std::size_t>((share.end - share.begin) * width) * sizeof(float));
    const std::vector<float>& table = !long_inv_freq.empty() && context.capacity > long_above ? long_inv_freq : inv_freq;
    RopeArgs args{
        context.buffers[out], context.positions, table.data(), n_heads, head_dim, static_cast<std::int64_t>(table.size()) * 2, magnitude, style};
    fn(args, share);
}

void StateWriteStep::run(const RunContext& context) const {
    Range share = my_share(context.n_tokens, context);
    fn({context.buffers[keys], context.keys[state], context.positions, key_width, context.state_dtype}, share);
    fn({context.buffers[values], context.values[state], context.positions, value_width, context.state_dtype}, share);
}

void AttentionStep::run(const RunContext& context) const {
    AttentionArgs args{};
    args.q = context.buffers[q];
    args.keys = const_cast<const std::byte* const*>(context.keys[state]);
    args.values = const_cast<const std::byte* const*>(context.values[state]);
    args.positions = context.positions;
    args.y = context.buffers[out];
    args.n_tokens = context.n_tokens;
    args.n_heads = op.n_heads;
    args.n_kv_heads = op.n_kv_heads;
    args.head_dim = op.head_dim;
    args.window = op.window;
    args.scale = op.scale;
    args.softcap = op.softcap;
    args.state_dtype = context.state_dtype;
    // Later tokens see more positions: deal the tokens round-robin, so that threads finish together. One token: split its heads.
    const std::int64_t n = context.n_tokens, n_kv = op.n_kv_heads;
    if (n < context.n_threads * 2) {
        fn(args, my_share(n * n_kv, context));
        return;
    }
    for (std::int64_t token = context.thread; token < n; token += context.n_threads) fn(args, {token * n_kv, (token + 1) * n_kv});
}

void ElementStep::run(const RunContext& context) const {
    ElementArgs args{context.buffers[a], b >= 0 ? context.buffers[b] : nullptr, context.buffers[out], factor, activation};
    fn(args, my_share(count(*this, context) * width, context, 16));
}

void ColumnScaleStep::run(const RunContext& context) const {
    Range share = my_share(count(*this, context), context);
    for (std::int64_t token = share.begin; token < share.end; ++token)
        multiply({context.buffers[in] + token * width, scale->data(), context.buffers[out] + token * width, 1, Activation::silu}, {0, width});
}

void PermuteStep::run(const RunContext& context) const {
    const auto width = static_cast<std::int64_t>(order.size());
    Range share = my_share(count(*this, context), context);
    for (std::int64_t token = share.begin; token < share.end; ++token)
        for (std::int64_t c = 0; c < width; ++c)
            context.buffers[out][token * width + c] = context.buffers[in][token * width + order[static_cast<std::size_t>(c)]];
}

// Shazeer et al. 2017, section 2.1: softmax over the chosen; or softmax over all, then the chosen (Qwen, DeepSeek).
void RouteStep::run(const RunContext& context) const {
    Range share = my_share(context.n_tokens, context);
    std::vector<std::int64_t> order(static_cast<std::size_t>(n_experts));
    for (std::int64_t token = share.begin; token < share.end; ++token) {
        const float* logits = context.buffers[in] + token * n_experts;
        float* weights = context.buffers[out] + token * n_experts;
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return logits[a] > logits[b]; });
        const bool top_first = op.rule == RouteOp::Rule::top_then_softmax;
        const std::int64_t n_in_softmax = top_first ? op.n_used : n_experts;
        std::vector<float> chosen(static_cast<std::size_t>(n_in_softmax));
        float total = 0, kept = 0;
        for (std::int64_t i = 0; i < n_in_softmax; ++i) {
            chosen[static_cast<std::size_t>(i)] = std::exp(logits[order[static_cast<std::size_t>(i)]] - logits[order[0]]);
            total += chosen[static_cast<std::size_t>(i)];
            if (i < op.n_used) kept += chosen[static_cast<std::size_t>(i)];
        }
        const float divisor = !top_first && op.normalize ? kept : total;
        std::vector<float> result(static_cast<std::size_t>(n_experts), 0.0f);
        for (std::int64_t i = 0; i < op.n_used; ++i)
            result[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])] = chosen[static_cast<std::size_t>(i)] / divisor;
        std::copy(result.begin(), result.end(), weights);
    }
}

void GateStep::run(const RunContext& context) const {
    Range share = my_share(context.n_tokens, context);
    for (std::int64_t token = share.begin; token < share.end; ++token) {
        const float factor = context.buffers[weights][token * n_experts + column];
        for (std::int64_t i = 0; i < width; ++i) context.buffers[out][token * width + i] = context.buffers[in][token * width + i] * factor;
    }
}

}  // namespace skiff
