// Attention over a state that goes in and out, rope, and what a graph knows of sequences: the shape of the batch, positions, the mask.
#include <cmath>
#include <limits>

#include "base/hash.h"
#include "compress/onnx/onnx_operators.h"

namespace skiff {

std::string OnnxOperators::token_ids() {
    return shared("token ids", [&] { return graph_.node("Reshape", {"input_ids", graph_.integers({-1})}); });
}

std::string OnnxOperators::positions() {
    return shared("positions", [&] { return graph_.node("Reshape", {"position_ids", graph_.integers({-1})}); });
}

std::string OnnxOperators::sequence_shape() {
    return shared("sequence shape", [&] { return graph_.node("Shape", {"input_ids"}); });
}

std::string OnnxOperators::split_shape(const Shape& tail) {
    return shared("split shape " + shape_text(tail), [&] { return graph_.node("Concat", {sequence_shape(), graph_.integers(tail)}, {{"axis", std::int64_t{0}}}); });
}

// Query i of a sequence stands in slot past + i and sees the slots up to its own, of those that the mask allows.
std::string OnnxOperators::seen_positions(std::int64_t window) {
    const auto node = [&](const char* type, std::vector<std::string> inputs, std::vector<OnnxAttribute> attributes = {}) {
        return graph_.node(type, std::move(inputs), std::move(attributes));
    };
    const std::string slots = shared("slots", [&] {
        const std::string total = node("Gather", {node("Shape", {"attention_mask"}), graph_.integer(1)});
        return node("Range", {graph_.integer(0), total, graph_.integer(1)});
    });
    const std::string queries = shared("queries", [&] {
        const std::string total = node("Gather", {node("Shape", {"attention_mask"}), graph_.integer(1)});
        const std::string past = node("Sub", {total, node("Gather", {sequence_shape(), graph_.integer(1)})});
        return node("Unsqueeze", {node("Range", {past, total, graph_.integer(1)}), graph_.integers({1})});
    });
    const std::string valid = shared("valid", [&] {
        const std::string is_text = node("Cast", {"attention_mask"}, {{"to", static_cast<std::int64_t>(OnnxType::boolean)}});
        return node("Unsqueeze", {is_text, graph_.integers({1, 2})});
    });
    std::string seen = node("And", {node("LessOrEqual", {slots, queries}), valid});
    if (window > 0) seen = node("And", {seen, node("Greater", {slots, node("Sub", {queries, graph_.integer(window)})})});
    return seen;
}

std::string OnnxOperators::mask(std::int64_t window) {
    return shared("mask " + std::to_string(window), [&] {
        const OnnxType f32 = OnnxType::float32;  // a sum of it and a score must stay finite, so that a query that sees nothing gives no NaN
        return graph_.node("Where", {seen_positions(window), graph_.real(0, f32), graph_.real(-1e30f, f32)});
    });
}

// Tables by position: as many as sequences may have, of the frequencies that such a length asks for.
OnnxOperators::Named OnnxOperators::rope_table(const RopeOp& detail, const char* part) {
    const std::int64_t n_positions = options_.context > 0 ? options_.context : spec_.max_positions;
    if (n_positions < 1) return usage_error("the model does not say how many positions it has; --context N does");
    const bool is_long = !detail.long_inv_freq.empty() && n_positions > detail.long_above;
    const std::vector<float>& frequencies = is_long ? detail.long_inv_freq : detail.inv_freq;
    const auto half = static_cast<std::int64_t>(frequencies.size());
    if (n_positions > (std::int64_t{1} << 28) / std::max<std::int64_t>(1, half))
        return resource_error("a table of " + std::to_string(n_positions) + " positions for rope has more than 1 GiB; --context N makes it shorter");
    const bool cosine = std::string_view(part) == "cos";
    std::string hashed(reinterpret_cast<const char*>(frequencies.data()), frequencies.size() * sizeof(float));
    hashed += std::to_string(detail.magnitude);
    const std::string key = std::string("rope_") + part + "_" + hex64(hash64(bytes_of(hashed))).substr(0, 8);
    const OnnxType type = options_.real;
    const float magnitude = detail.magnitude;
    return shared("rows of " + key, [&] {
        const std::string table = graph_.initializer(key, type, {n_positions, half}, [=](const OnnxDataSink& sink) -> Status {
            std::vector<float> row(static_cast<std::size_t>(half));
            std::string bytes;
            for (std::int64_t position = 0; position < n_positions; ++position) {
                for (std::size_t i = 0; i < row.size(); ++i) {
                    const float angle = static_cast<float>(position) * frequencies[i];
                    row[i] = (cosine ? std::cos(angle) : std::sin(angle)) * magnitude;
                }
                bytes.clear();
                append_onnx_floats(row, type, bytes);
                SKIFF_CHECK(sink(bytes_of(bytes)));
            }
            return {};
        });
        return graph_.node("Unsqueeze", {graph_.node("Gather", {table, positions()}), graph_.integers({1})});
    });
}

std::vector<std::string> OnnxOperators::split(const std::string& x, const Shape& sizes) {
    return graph_.nodes("Split", {x, graph_.integers(sizes)}, {{"axis", std::int64_t{-1}}}, sizes.size());
}

// RoFormer (Su et al. 2021), eq. 34. // x: (n, n_heads, rotary_dim)
std::string OnnxOperators::rotated(const RopeOp& detail, const std::string& x, const std::string& cosine, const std::string& sine) {
    const auto half = static_cast<std::int64_t>(detail.inv_freq.size());
    const auto mul = [&](const std::string& a, const std::string& b) { return graph_.node("Mul", {a, b}); };
    const bool pairs = detail.style == RopeStyle::interleaved;
    const Shape sizes = pairs ? Shape{1, 1} : Shape{half, half};
    const std::string source = pairs ? graph_.node("Reshape", {x, graph_.integers({0, 0, half, 2})}) : x;
    auto parts = split(source, sizes);
    if (pairs)
        for (std::string& part : parts) part = graph_.node("Squeeze", {part, graph_.integers({3})});
    std::string first = graph_.node("Sub", {mul(parts[0], cosine), mul(parts[1], sine)});
    std::string second = graph_.node("Add", {mul(parts[1], cosine), mul(parts[0], sine)});
    if (!pairs) return graph_.node("Concat", {first, second}, {{"axis", std::int64_t{-1}}});
    first = graph_.node("Unsqueeze", {first, graph_.integers({3})});
    second = graph_.node("Unsqueeze", {second, graph_.integers({3})});
    const std::string both = graph_.node("Concat", {first, second}, {{"axis", std::int64_t{-1}}});
    return graph_.node("Reshape", {both, graph_.integers({0, 0, 2 * half})});
}

OnnxOperators::Named OnnxOperators::emit(const Op& op, const RopeOp& detail) {
    const std::int64_t head_dim = detail.n_heads_unit, rotary = 2 * static_cast<std::int64_t>(detail.inv_freq.size()), n = width(op.out);
    if (rotary == 0) return in(op, 0);
    SKIFF_TRY(const auto cosine, rope_table(detail, "cos"));
    SKIFF_TRY(const auto sine, rope_table(detail, "sin"));
    const std::string heads = graph_.node("Reshape", {in(op, 0), graph_.integers({-1, n / head_dim, head_dim})});
    std::string turned;
    if (rotary < head_dim) {
        const Shape sizes = {rotary, head_dim - rotary};
        const auto parts = split(heads, sizes);
        turned = graph_.node("Concat", {rotated(detail, parts[0], cosine, sine), parts[1]}, {{"axis", std::int64_t{-1}}});
    } else {
        turned = rotated(detail, heads, cosine, sine);
    }
    return graph_.node("Reshape", {turned, graph_.integers({-1, n})});
}

// The query heads of a KV head are rows of one product with it, so no key or value is copied for its group.
OnnxOperators::Named OnnxOperators::emit(const Op& op, const AttentionOp& detail) {
    if (detail.state.kind != StateSpec::Kind::per_token) return unsupported("a recurrent state has no form in ONNX here");
    const std::int64_t n_heads = detail.n_heads, n_kv = detail.n_kv_heads, d = detail.head_dim;
    if (n_heads < 1 || n_kv < 1 || n_heads % n_kv != 0)
        return unsupported("attention with " + std::to_string(n_heads) + " heads over " + std::to_string(n_kv) + " KV heads");
    const OnnxType type = options_.real, f32 = OnnxType::float32;
    const auto node = [&](const char* name, std::vector<std::string> inputs, std::vector<OnnxAttribute> attributes = {}) {
        return graph_.node(name, std::move(inputs), std::move(attributes));
    };
    const OnnxAttribute by_head = {"perm", Shape{0, 2, 1, 3}}, transposed = {"perm", Shape{0, 1, 3, 2}};
    const auto heads = [&](const std::string& x, std::int64_t n) { return node("Transpose", {node("Reshape", {x, split_shape({n, d})})}, {by_head}); };

    const std::string number = std::to_string(n_states_++);
    const auto with_past = [&](const std::string& now, const std::string& part) {
        const std::string past = "past_key_values." + number + "." + part, present = "present." + number + "." + part;
        graph_.input(past, type, {"batch_size", n_kv, "past_sequence_length", d});
        graph_.output(present, type, {"batch_size", n_kv, "total_sequence_length", d});
        graph_.identity(node("Concat", {past, now}, {{"axis", std::int64_t{2}}}), present);
        return present;
    };
    const std::string added = mask(detail.window);
    const std::string q = node("Reshape", {node("Mul", {heads(in(op, 0), n_heads), real(detail.scale)}), graph_.integers({0, n_kv, -1, d})});
    const std::string keys = with_past(heads(in(op, 1), n_kv), "key"), values = with_past(heads(in(op, 2), n_kv), "value");
    std::string scores = cast(node("MatMul", {q, node("Transpose", {keys}, {transposed})}), type, f32);
    if (detail.softcap > 0)
        scores = node("Mul", {node("Tanh", {node("Div", {scores, graph_.real(detail.softcap, f32)})}), graph_.real(detail.softcap, f32)});
    scores = node("Reshape", {scores, graph_.integers({0, n_heads, -1, 0})});
    std::string weights = node("Softmax", {node("Add", {scores, added})}, {{"axis", std::int64_t{-1}}});
    weights = node("Reshape", {cast(weights, f32, type), graph_.integers({0, n_kv, -1, 0})});
    const std::string mixed = node("Reshape", {node("MatMul", {weights, values}), graph_.integers({0, n_heads, -1, d})});
    return node("Reshape", {node("Transpose", {mixed}, {by_head}), graph_.integers({-1, n_heads * d})});
}

}  // namespace skiff
