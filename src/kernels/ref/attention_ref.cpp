#include <algorithm>
#include <cmath>
#include <cstring>
#include <tuple>
#include <vector>

#include "base/checked.h"
#include "kernels/ref/ref.h"

namespace skiff {
namespace {

// Where one number of a head's block is: the byte of its code, and whether that is a high nibble.
struct CodePlace {
    std::int64_t byte;
    bool high_nibble;
};
CodePlace code_place(const StateLayout& layout, StatePart part, std::int64_t position, std::int64_t i) {
    const StateSchemeInfo& info = state_scheme_info(layout.scheme);
    const StateBlock& block = layout.part(part);
    const std::int64_t p = position % attention_chunk;
    std::int64_t lane = part == StatePart::keys ? p : i, run = part == StatePart::keys ? i : p;  // across and along the panels
    if (layout.scheme != StateScheme::int4)
        return {lane / state_lanes * block.panel_bytes + run / info.interleave * block.step_bytes +
                    (lane % state_lanes * info.interleave + run % info.interleave) * info.bits / 8,
                false};
    if (part == StatePart::keys) return {lane / state_lanes * block.panel_bytes + run / 8 * block.step_bytes + lane % state_lanes * 4 + run % 4, run % 8 >= 4};
    return {lane / 32 * block.panel_bytes + run / 4 * block.step_bytes + lane % 16 * 4 + run % 4, lane % 32 >= 16};
}

float clamped(float x, float low, float high) { return !(x >= low) ? low : x > high ? high : x; }

// Codes of zero behind the last dimension, where a step or a panel of two needs them.
std::int64_t written_dims(const StateLayout& layout, StatePart part) {
    if (layout.scheme < StateScheme::int8) return layout.head_dim;
    if (part == StatePart::keys) return round_up<std::int64_t>(layout.head_dim, state_scheme_info(layout.scheme).interleave);
    return layout.scheme == StateScheme::int4 ? round_up<std::int64_t>(layout.head_dim, state_group) : layout.head_dim;
}

void store_head(const StateLayout& layout, StatePart part, std::byte* block, std::int64_t position, std::vector<float> x) {
    if (layout.scheme == StateScheme::int4) rotate_head(x.data(), layout.head_dim);
    const std::int64_t d = written_dims(layout, part);
    x.resize(static_cast<std::size_t>(d));
    auto* scales = reinterpret_cast<std::uint16_t*>(block + layout.part(part).scales_offset) + position % attention_chunk;
    const std::int64_t group = layout.scheme == StateScheme::int4 ? state_group : d;
    for (std::int64_t begin = 0; begin < d; begin += group) {
        const std::int64_t end = std::min(d, begin + group);
        float highest = 0, lowest = 0;
        for (std::int64_t i = begin; i < end; ++i) highest = std::max(highest, x[static_cast<std::size_t>(i)]), lowest = std::min(lowest, x[static_cast<std::size_t>(i)]);
        const StateScale scale = layout.scheme == StateScheme::int4 ? state_scale_int4(highest, lowest) : state_scale_int8(std::max(highest, -lowest));
        if (layout.scheme >= StateScheme::int8) scales[begin / group * attention_chunk] = scale.bits;
        for (std::int64_t i = begin; i < end; ++i) {
            const CodePlace place = code_place(layout, part, position, i);
            std::byte* target = block + place.byte;
            const float value = x[static_cast<std::size_t>(i)];
            const auto put = [&](auto bits) { std::memcpy(target, &bits, sizeof bits); };
            switch (layout.scheme) {
                case StateScheme::f32: put(value); break;
                case StateScheme::f16: put(float_to_f16(std::isnan(value) ? value : clamped(value, -65504, 65504))); break;
                case StateScheme::bf16: put(float_to_bf16(value)); break;
                case StateScheme::int8: put(static_cast<std::uint8_t>(clamped(std::nearbyint(value * scale.inverse), -127, 127) + 128)); break;
                case StateScheme::int4: {
                    const auto code = static_cast<std::uint8_t>(clamped(std::nearbyint(value * scale.inverse), -8, 7) + 8);
                    const auto old = static_cast<std::uint8_t>(*target);
                    put(static_cast<std::uint8_t>(place.high_nibble ? (old & 0x0f) | code << 4 : (old & 0xf0) | code));
                    break;
                }
            }
        }
    }
}

// One position of a head as floats; of int4 the rotated ones. // x: (head_dim)
void load_head(const StateLayout& layout, StatePart part, const std::byte* block, std::int64_t position, float* x) {
    const auto* scales = reinterpret_cast<const std::uint16_t*>(block + layout.part(part).scales_offset) + position % attention_chunk;
    for (std::int64_t i = 0; i < layout.head_dim; ++i) {
        const CodePlace place = code_place(layout, part, position, i);
        const std::byte* source = block + place.byte;
        float& value = x[i];
        std::uint16_t half = 0;
        std::memcpy(&half, source, layout.scheme == StateScheme::f16 || layout.scheme == StateScheme::bf16 ? 2 : 1);
        switch (layout.scheme) {
            case StateScheme::f32: std::memcpy(&value, source, 4); break;
            case StateScheme::f16: value = f16_to_float(half); break;
            case StateScheme::bf16: value = bf16_to_float(half); break;
            case StateScheme::int8: value = static_cast<float>(static_cast<int>(*source) - 128) * f16_to_float(scales[0]); break;
            case StateScheme::int4:
                value = static_cast<float>((static_cast<int>(*source) >> (place.high_nibble ? 4 : 0) & 15) - 8) * f16_to_float(scales[i / state_group * attention_chunk]);
                break;
        }
    }
}

std::int64_t block_offset(const StateLayout& layout, StatePart part, std::int64_t position, std::int64_t head) {
    return (position / attention_chunk * layout.n_kv_heads + head) * layout.part(part).size_bytes;
}

Range seen_positions(const AttentionArgs& args, std::int64_t token) {
    const std::int64_t end = args.positions[token] + 1;
    return {args.window > 0 ? std::max<std::int64_t>(0, end - args.window) : 0, end};
}

// Keys and values of one head, which all queries of a tile read.
struct HeadRows {
    std::int64_t first_position = 0, head_dim = 0;
    std::vector<float> keys, values;  // (n_positions, head_dim)

    HeadRows(const AttentionArgs& args, const StateLayout& layout, const AttentionTile& tile, std::int64_t kv_head) : head_dim(args.head_dim) {
        Range seen = seen_positions(args, tile.first_token);
        for (std::int64_t token = tile.first_token; token < tile.first_token + tile.n_tokens; ++token) {
            const Range own = seen_positions(args, token);
            seen = {std::min(seen.begin, own.begin), std::max(seen.end, own.end)};
        }
        first_position = seen.begin;
        for (auto [part, bases, rows] : {std::tuple(StatePart::keys, args.keys, &keys), std::tuple(StatePart::values, args.values, &values)}) {
            rows->resize(static_cast<std::size_t>((seen.end - seen.begin) * head_dim));
            for (std::int64_t p = seen.begin; p < seen.end; ++p)
                load_head(layout, part, bases[tile.first_token] + block_offset(layout, part, p, kv_head), p, rows->data() + (p - first_position) * head_dim);
        }
    }
    const float* key(std::int64_t position) const { return keys.data() + (position - first_position) * head_dim; }
    const float* value(std::int64_t position) const { return values.data() + (position - first_position) * head_dim; }
};

// softmax(q k^T * scale) v, one token and one query head at a time, two passes, sums in double.
void attend(const AttentionArgs& args, const HeadRows& rows, std::int64_t token, std::int64_t kv_head) {
    const std::int64_t group = args.n_heads / args.n_kv_heads;
    const Range seen = seen_positions(args, token);
    const bool rotated = args.scheme == StateScheme::int4;
    std::vector<float> q(static_cast<std::size_t>(args.head_dim));
    std::vector<double> scores, sum(q.size());
    for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        std::copy_n(args.q + (token * args.n_heads + head) * args.head_dim, args.head_dim, q.data());
        if (rotated) rotate_head(q.data(), args.head_dim);
        scores.clear();
        double highest = -INFINITY;
        for (std::int64_t p = seen.begin; p < seen.end; ++p) {
            const float* key = rows.key(p);
            double score = 0;
            for (std::size_t i = 0; i < q.size(); ++i) score += static_cast<double>(q[i]) * key[i];
            score *= args.scale;
            if (args.softcap > 0) score = args.softcap * std::tanh(score / args.softcap);
            highest = std::max(highest, score);
            scores.push_back(score);
        }
        double total = 0;
        std::fill(sum.begin(), sum.end(), 0.0);
        for (std::int64_t p = seen.begin; p < seen.end; ++p) {
            const double weight = std::exp(scores[static_cast<std::size_t>(p - seen.begin)] - highest);
            total += weight;
            const float* value = rows.value(p);
            for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += weight * value[i];
        }
        float* y = args.y + (token * args.n_heads + head) * args.head_dim;
        for (std::size_t i = 0; i < sum.size(); ++i) y[i] = static_cast<float>(sum[i] / total);
        if (rotated) rotate_head(y, args.head_dim);
    }
}

}  // namespace

void state_write_ref(const StateWriteArgs& args, Range tokens) {
    const StateLayout layout = state_layout(args.scheme, args.n_kv_heads, args.head_dim);
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token)
        for (std::int64_t head = args.heads.begin; head < args.heads.end; ++head) {
            const float* x = args.x + token * args.x_stride + (head - args.heads.begin) * args.head_dim;
            store_head(layout, args.part, args.rows[token] + block_offset(layout, args.part, args.positions[token], head), args.positions[token], {x, x + args.head_dim});
        }
}

// A tile and head is worked on as a whole by who has its last unit; the reference needs no partial results.
void attention_ref(const AttentionArgs& args, Range units) {
    const StateLayout layout = state_layout(args.scheme, args.n_kv_heads, args.head_dim);
    std::int64_t unit = 0;
    for (std::int64_t kv_head = 0; kv_head < args.n_kv_heads; ++kv_head)
        for (std::int64_t token = 0; token < args.n_tokens;) {
            const AttentionTile tile = attention_tile(args, token);
            unit += tile.n_chunks;
            if (unit - 1 >= units.begin && unit - 1 < units.end) {
                const HeadRows rows(args, layout, tile, kv_head);
                for (std::int64_t own = token; own < token + tile.n_tokens; ++own) attend(args, rows, own, kv_head);
            }
            token += tile.n_tokens;
        }
}

}  // namespace skiff
