#include "plan/steps.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <unordered_map>
#include <utility>

#include "base/checked.h"

namespace skiff {
namespace {

Range my_share(std::int64_t n, const RunContext& context, std::int64_t unit = 1) { return share_of(n, context.thread, context.n_threads, unit); }

// Where the corner of a tile is, and how far it is from a token to the next.
struct Corner {
    float* data;
    std::int64_t stride;
    float* row(std::int64_t i) const { return data + i * stride; }
};
Corner corner_of(int value, std::int64_t width, const Tile& tile, const RunContext& context) {
    float* buffer = context.buffers[value];
    if (context.own[value]) return {buffer, tile.columns.end - tile.columns.begin};
    return {buffer + tile.tokens.begin * width + tile.columns.begin, width};
}

std::int64_t tile_tokens(const Tile& tile) { return tile.tokens.end - tile.tokens.begin; }
std::int64_t tile_columns(const Tile& tile) { return tile.columns.end - tile.columns.begin; }

}  // namespace

std::int64_t count(const Step& step, const RunContext& context) { return step.tokens == StepTokens::all ? context.n_tokens : context.n_selected; }

Tile token_share(const Step& step, const RunContext& context) { return {my_share(count(step, context), context), {0, step.width()}}; }

void EmbedStep::run_tile(const RunContext& context, const Tile& tile) const {
    const Corner y = corner_of(out, width(), tile, context);
    for (std::int64_t i = 0; i < tile_tokens(tile); ++i) {
        const std::int64_t token = tile.tokens.begin + i;
        const std::int64_t row = index == EmbedOp::Index::token ? context.tokens[token] : context.positions[token] + offset;
        table->layout->row(*table, row, y.row(i));
        if (scale != 1.0f)
            for (std::int64_t c = 0; c < width(); ++c) y.row(i)[c] *= scale;
    }
}

void SelectStep::run_tile(const RunContext& context, const Tile& tile) const {
    const Corner y = corner_of(out, n_columns, tile, context);
    for (std::int64_t i = 0; i < tile_tokens(tile); ++i)
        std::memcpy(y.row(i), context.buffers[in] + context.selected[tile.tokens.begin + i] * n_columns, static_cast<std::size_t>(n_columns) * sizeof(float));
}

void NormStep::run(const RunContext& context) const {
    NormArgs args{context.buffers[in], data_or_null(weight), data_or_null(bias), context.buffers[out], group_width, eps, norm_kind};
    fn(args, my_share(count(*this, context) * n_groups, context));
}

void NormStep::run_tile(const RunContext& context, const Tile& tile) const {
    const Corner x = corner_of(in, width(), tile, context), y = corner_of(out, width(), tile, context);
    for (std::int64_t i = 0; i < tile_tokens(tile); ++i)
        fn({x.row(i), data_or_null(weight), data_or_null(bias), y.row(i), group_width, eps, norm_kind}, {0, tile_columns(tile) / group_width});
}

std::int64_t prepared_bytes_per_token(std::int64_t padded_columns) { return padded_columns + padded_columns / 32 * 12; }

PreparedActivation prepared_view(std::byte* buffer, std::int64_t n_tokens, std::int64_t n_columns, std::int64_t padded_columns) {
    auto* codes = reinterpret_cast<std::int8_t*>(buffer);
    auto* scales = reinterpret_cast<float*>(buffer + n_tokens * padded_columns);
    auto* sums = reinterpret_cast<std::int16_t*>(scales + n_tokens * (padded_columns / 32));
    return {nullptr, codes, scales, sums, n_columns, padded_columns};
}

void PrepareStep::run_tile(const RunContext& context, const Tile& tile) const {
    const Corner x = corner_of(in, n_columns, tile, context);
    const PreparedActivation view = prepared_view(context.prepared[out], count(*this, context), n_columns, padded_columns);
    const std::int64_t n_blocks = padded_columns / 32, n = tile_columns(tile);
    const std::int64_t padded = tile.columns.end == n_columns ? padded_columns - tile.columns.begin : n;
    auto args_at = [&](std::int64_t i) {
        const std::int64_t token = tile.tokens.begin + i, block = token * n_blocks + tile.columns.begin / 32;
        return QuantizeArgs{x.row(i),
                            const_cast<std::int8_t*>(view.codes) + token * padded_columns + tile.columns.begin,
                            const_cast<float*>(view.scales) + block,
                            const_cast<std::int16_t*>(view.sums) + block * 4,
                            n,
                            padded,
                            fixed_scale};
    };
    if (padded == padded_columns && x.stride == n_columns) return fn(args_at(0), {0, tile_tokens(tile)});
    for (std::int64_t i = 0; i < tile_tokens(tile); ++i) fn(args_at(i), {0, 1});
}

Uses LinearStep::uses() {
    Uses uses;
    for (LinearSegment& segment : segments) {
        if (segment.in >= 0) uses.reads.push_back(&segment.in);
        if (segment.prepared >= 0) uses.reads.push_back(&segment.prepared);
        if (segment.write == LinearArgs::Write::add) uses.reads.push_back(&segment.out);
        uses.writes.push_back(&segment.out);
    }
    return uses;
}

// Rows [begin, end) of a segment for all tokens; y is where row 0 of token 0 would be.
static void multiply_rows(const LinearSegment& segment, const RunContext& context, std::int64_t n, Range rows, float* y, std::int64_t y_stride) {
    if (n == 0 || rows.begin >= rows.end) return;
    LinearArgs args{};
    args.weight = segment.weight.get();
    if (segment.prepared >= 0)
        args.x = prepared_view(context.prepared[segment.prepared], n, segment.weight->n_columns, padded_for_codes(segment.weight->n_columns));
    if (segment.in >= 0) args.x.f32 = context.buffers[segment.in];
    args.x.n_columns = segment.weight->n_columns;
    args.bias = data_or_null(segment.bias);
    args.y = y;
    args.y_stride = y_stride;
    args.n_tokens = n;
    args.write = segment.write;
    if (n >= least_tiled_tokens) args.tiles = segment.tiles[tile_bucket_of(n)];
    args.epoch = context.epoch;
    segment.kernels[static_cast<std::size_t>(bucket_of(n))]->fn(args, rows);
}

void LinearStep::run(const RunContext& context) const {
    for (const LinearSegment& segment : segments) {
        const std::int64_t n_rows = segment.weight->n_rows;
        multiply_rows(segment, context, count(*this, context), my_share(n_rows, context, segment.weight->layout->row_unit), context.buffers[segment.out], n_rows);
    }
}

void LinearStep::run_tile(const RunContext& context, const Tile& tile) const {
    const Corner y = corner_of(segments[0].out, width(), tile, context);
    multiply_rows(segments[0], context, tile_tokens(tile), tile.columns, y.data - tile.columns.begin, y.stride);
}

void RopeStep::run_tile(const RunContext& context, const Tile& tile) const {
    const Corner x = corner_of(in, width(), tile, context), y = corner_of(out, width(), tile, context);
    const std::vector<float>& table = !long_inv_freq.empty() && context.capacity > long_above ? long_inv_freq : inv_freq;
    for (std::int64_t i = 0; i < tile_tokens(tile); ++i) {
        if (x.data != y.data) std::memcpy(y.row(i), x.row(i), static_cast<std::size_t>(tile_columns(tile)) * sizeof(float));
        fn({y.row(i), context.positions + tile.tokens.begin + i, table.data(), tile_columns(tile) / head_dim, head_dim,
            static_cast<std::int64_t>(table.size()) * 2, magnitude, style},
           {0, 1});
    }
}

Uses StateWriteStep::uses() {
    Uses uses;
    for (int* value : {&keys, &values})
        if (*value >= 0) uses.reads.push_back(value);
    return uses;
}

void StateWriteStep::run(const RunContext& context) const { run_tile(context, {my_share(context.n_tokens, context), {0, width()}}); }

void StateWriteStep::run_tile(const RunContext& context, const Tile& tile) const {
    if (keys >= 0 && values >= 0) {  // whole tokens
        write_tile(context, {tile.tokens, {0, key_width}}, StatePart::keys);
        write_tile(context, {tile.tokens, {0, value_width}}, StatePart::values);
    } else {
        write_tile(context, tile, keys >= 0 ? StatePart::keys : StatePart::values);
    }
}

void StateWriteStep::write_tile(const RunContext& context, const Tile& tile, StatePart part) const {
    const bool key = part == StatePart::keys;
    const std::int64_t row_width = key ? key_width : value_width;
    const Corner x = corner_of(key ? keys : values, row_width, tile, context);
    StateWriteArgs args{};
    args.x = x.data;
    args.x_stride = x.stride;
    args.rows = (key ? context.keys : context.values)[state] + tile.tokens.begin;
    args.positions = context.positions + tile.tokens.begin;
    args.n_kv_heads = row_width / head_dim;
    args.head_dim = head_dim;
    args.heads = {tile.columns.begin / head_dim, tile.columns.end / head_dim};
    args.scheme = context.state_schemes[state];
    args.part = part;
    fn(args, {0, tile_tokens(tile)});
}

static AttentionArgs attention_args(const AttentionOp& op, int state, const float* q, float* y, const RunContext& context) {
    AttentionArgs args{};
    args.q = q;
    args.keys = const_cast<const std::byte* const*>(context.keys[state]);
    args.values = const_cast<const std::byte* const*>(context.values[state]);
    args.positions = context.positions;
    args.y = y;
    args.n_tokens = context.n_tokens;
    args.n_heads = op.n_heads;
    args.n_kv_heads = op.n_kv_heads;
    args.head_dim = op.head_dim;
    args.window = op.window;
    args.scale = op.scale;
    args.softcap = op.softcap;
    args.scheme = context.state_schemes[state];
    args.partials = context.attention_partials;
    args.arrivals = context.attention_arrivals;
    return args;
}

void AttentionStep::run(const RunContext& context) const {
    const AttentionArgs args = attention_args(op, state, context.buffers[q], context.buffers[out], context);
    fn(args, attention_share(args, context.thread, context.n_threads));
}

// All units of some KV heads, of some tokens.
void AttentionStep::run_tile(const RunContext& context, const Tile& tile) const {
    const std::int64_t token_width = op.n_heads * op.head_dim, first = tile.tokens.begin, unit = column_unit();
    AttentionArgs args = attention_args(op, state, context.buffers[q] + first * token_width, context.buffers[out] + first * token_width, context);
    args.keys += first, args.values += first, args.positions += first;
    args.n_tokens = tile_tokens(tile);
    const std::int64_t units_of_head = attention_n_units(args) / op.n_kv_heads;
    fn(args, {tile.columns.begin / unit * units_of_head, tile.columns.end / unit * units_of_head});
}

void CausalConvStep::run(const RunContext& context) const {
    run_tile(context, {{0, context.n_tokens}, share_of(n_columns, context.thread, context.n_threads, 16)});
}

void CausalConvStep::run_tile(const RunContext& context, const Tile& tile) const {
    const float* x = context.buffers[in];
    float* y = context.buffers[out];
    std::vector<const float*> rows(static_cast<std::size_t>(n_taps));
    const auto ring = [&](std::int64_t token, std::int64_t position) { return reinterpret_cast<float*>(context.keys[state][token]) + position % n_ring_rows * n_columns; };
    // The token of this run in front of each in its sequence; -1: an earlier run had it. Mostly the neighbour, but a batch may name a sequence twice.
    std::vector<std::int64_t> before(static_cast<std::size_t>(context.n_tokens), -1);
    std::unordered_map<const std::byte*, std::int64_t> last;
    for (std::int64_t token = 0; token < context.n_tokens; ++token) {
        const auto [found, is_first] = last.try_emplace(context.keys[state][token], token);
        if (!is_first) before[static_cast<std::size_t>(token)] = std::exchange(found->second, token);
    }
    for (std::int64_t token = 0; token < context.n_tokens; ++token) {
        const std::int64_t position = context.positions[token];
        std::int64_t from = token;
        for (std::int64_t back = 0; back < n_taps; ++back) {
            rows[static_cast<std::size_t>(n_taps - 1 - back)] = back > position ? nullptr : from >= 0 ? x + from * n_columns : ring(token, position - back);
            if (from >= 0) from = before[static_cast<std::size_t>(from)];
        }
        fn({rows.data(), taps->data(), data_or_null(bias), y + token * n_columns, n_taps, n_columns}, tile.columns);
    }
    const std::size_t size_bytes = static_cast<std::size_t>(tile.columns.end - tile.columns.begin) * sizeof(float);
    for (std::int64_t token = 0; token < context.n_tokens; ++token) {
        const std::int64_t later = token + n_ring_rows;  // that takes the same row, if it follows in the same sequence
        if (later < context.n_tokens && context.keys[state][later] == context.keys[state][token] && context.positions[later] == context.positions[token] + n_ring_rows) continue;
        std::memcpy(ring(token, context.positions[token]) + tile.columns.begin, x + token * n_columns + tile.columns.begin, size_bytes);
    }
}

void ElementStep::run(const RunContext& context) const {
    ElementArgs args{context.buffers[a], b >= 0 ? context.buffers[b] : nullptr, context.buffers[out], factor, activation};
    fn(args, my_share(count(*this, context) * n_columns, context, 16));
}

void ElementStep::run_tile(const RunContext& context, const Tile& tile) const {
    const Corner x = corner_of(a, n_columns, tile, context), y = corner_of(out, n_columns, tile, context);
    const Corner z = b >= 0 ? corner_of(b, n_columns, tile, context) : Corner{nullptr, 0};
    for (std::int64_t i = 0; i < tile_tokens(tile); ++i)
        fn({x.row(i), b >= 0 ? z.row(i) : nullptr, y.row(i), factor, activation}, {0, tile_columns(tile)});
}

void ColumnScaleStep::run_tile(const RunContext& context, const Tile& tile) const {
    const Corner x = corner_of(in, n_columns, tile, context), y = corner_of(out, n_columns, tile, context);
    for (std::int64_t i = 0; i < tile_tokens(tile); ++i)
        multiply({x.row(i), scale->data() + tile.columns.begin, y.row(i), 1, Activation::silu}, {0, tile_columns(tile)});
}

void PermuteStep::run_tile(const RunContext& context, const Tile& tile) const {
    const Corner x = corner_of(in, width(), tile, context), y = corner_of(out, width(), tile, context);
    for (std::int64_t i = 0; i < tile_tokens(tile); ++i)
        for (std::size_t c = 0; c < order.size(); ++c) y.row(i)[c] = x.row(i)[order[c]];
}

void TopStep::run(const RunContext& context) const {
    if (context.top != nullptr) run_tile(context, {{0, count(*this, context)}, my_share(n_columns, context, 16)});
}

void TopStep::run_tile(const RunContext& context, const Tile& tile) const {
    if (context.top == nullptr) return;
    const Corner x = corner_of(logits, n_columns, tile, context);
    TopList* lists = context.top->lists + context.thread * context.n_selected + tile.tokens.begin;
    for (std::int64_t i = 0; i < tile_tokens(tile); ++i) lists[i].add(static_cast<std::int32_t>(tile.columns.begin), {x.row(i), static_cast<std::size_t>(tile_columns(tile))});
}

// Shazeer et al. 2017, section 2.1: softmax over the chosen; or softmax over all, then the chosen (Qwen, DeepSeek).
void RouteStep::run_tile(const RunContext& context, const Tile& tile) const {
    const Corner x = corner_of(in, n_experts, tile, context), y = corner_of(out, n_experts, tile, context);
    std::vector<std::int64_t> order(static_cast<std::size_t>(n_experts));
    for (std::int64_t token = 0; token < tile_tokens(tile); ++token) {
        const float* logits = x.row(token);
        float* weights = y.row(token);
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

void GateStep::run_tile(const RunContext& context, const Tile& tile) const {
    const Corner x = corner_of(in, n_columns, tile, context), y = corner_of(out, n_columns, tile, context);
    const Corner shares = corner_of(weights, n_experts, {tile.tokens, {0, n_experts}}, context);
    for (std::int64_t i = 0; i < tile_tokens(tile); ++i) {
        const float factor = shares.row(i)[column];
        for (std::int64_t c = 0; c < tile_columns(tile); ++c) y.row(i)[c] = x.row(i)[c] * factor;
    }
}

}  // namespace skiff
