#include "compress/onnx/onnx_operators.h"

#include <cmath>

#include "compress/onnx/onnx_nodes.h"

namespace skiff {
namespace {

std::set<std::string> embedded_keys(const ModelSpec& spec) {
    std::set<std::string> keys;
    for (const Block& block : spec.blocks)
        for (const Op& op : block.ops)
            if (const auto* embed = std::get_if<EmbedOp>(&op.detail)) keys.insert(embed->table.key);
    return keys;
}

}  // namespace

OnnxOperators::OnnxOperators(OnnxGraphBuilder& graph, const OnnxExportOptions& options, const ModelSpec& spec, std::shared_ptr<const WeightSource> weights)
    : graph_(graph), options_(options), spec_(spec), weights_(std::move(weights)), forms_(graph, options, embedded_keys(spec)) {}

// Values are (batch * sequence, width) throughout, so that matrices are Gemm's and biases come with them; attention alone knows sequences.
Status OnnxOperators::add_model() {
    if (spec_.n_vocab < 1) return unsupported("the model has a vocabulary of " + std::to_string(spec_.n_vocab) + " tokens: there is nothing to embed");
    declare_inputs();
    graph_.output("logits", OnnxType::float32, {"batch_size", "sequence_length", width(spec_.logits)});
    for (const Block& block : spec_.blocks)
        for (const Op& op : block.ops) SKIFF_CHECK(add(op));
    graph_.set_scope("logits");
    const std::string logits = graph_.node("Reshape", {name_of(spec_.logits), split_shape({width(spec_.logits)})});
    graph_.identity(cast(logits, options_.real, OnnxType::float32), "logits");
    return {};
}

// Only those that something reads; states follow with their operators.
void OnnxOperators::declare_inputs() {
    bool sees = false, counts = false;
    for (const Block& block : spec_.blocks)
        for (const Op& op : block.ops) {
            const auto* embed = std::get_if<EmbedOp>(&op.detail);
            const auto* rope = std::get_if<RopeOp>(&op.detail);
            sees = sees || std::holds_alternative<AttentionOp>(op.detail);
            counts = counts || (embed != nullptr && embed->index == EmbedOp::Index::position) || (rope != nullptr && !rope->inv_freq.empty());
        }
    graph_.input("input_ids", OnnxType::int64, {"batch_size", "sequence_length"});
    if (sees) graph_.input("attention_mask", OnnxType::int64, {"batch_size", "total_sequence_length"});
    if (counts) graph_.input("position_ids", OnnxType::int64, {"batch_size", "sequence_length"});
}

Status OnnxOperators::add(const Op& op) {
    graph_.set_scope(op.name);
    auto made = std::visit([&](const auto& detail) { return emit(op, detail); }, op.detail);
    if (!made.ok()) return made.take_error().with_context(op.name);
    names_[op.out] = graph_.name_last(*made, spec_.values[static_cast<std::size_t>(op.out)].name);
    return {};
}

std::string OnnxOperators::cast(const std::string& x, OnnxType from, OnnxType to) {
    return from == to ? x : graph_.node("Cast", {x}, {{"to", static_cast<std::int64_t>(to)}});
}

Result<std::string> OnnxOperators::vector(const std::string& op, const TensorRef& ref, std::int64_t size, float offset, OnnxType type) {
    SKIFF_TRY(auto values, load_onnx_vector(spec_, *weights_, ref, size, offset));
    return graph_.floats(ref.rows.block == 0 ? ref.key : op + (ref.key.ends_with(".bias") ? ".bias" : ".vector"), type, {size}, std::move(values));
}

OnnxOperators::Named OnnxOperators::emit(const Op& op, const EmbedOp& detail) {
    std::string ids = detail.index == EmbedOp::Index::token ? token_ids() : positions();
    if (detail.offset != 0) ids = graph_.node("Add", {ids, graph_.integer(detail.offset)});
    const auto declared = spec_.tensors.find(detail.table.key);
    if (declared == spec_.tensors.end()) return corrupt("tensor " + detail.table.key + " is not declared");
    const std::int64_t n_rows = detail.table.rows.block == 0 ? spec_.shape(declared->second)[0] : detail.table.rows.n_rows();
    SKIFF_TRY(const auto table, matrix(detail.table, n_rows, width(op.out)));
    SKIFF_TRY(auto rows, forms_.rows(table, op.name, ids));
    return detail.scale == 1 ? rows : graph_.node("Mul", {rows, real(detail.scale)});
}

// Sums of squares are taken in float32, whatever the type of values.
OnnxOperators::Named OnnxOperators::emit(const Op& op, const NormOp& detail) {
    constexpr OnnxType f32 = OnnxType::float32;
    const std::int64_t group = detail.group_width > 0 ? detail.group_width : width(op.out);
    std::string x = in(op, 0), weight, bias;
    if (!detail.weight.empty()) {
        SKIFF_TRY(weight, vector(op.name, detail.weight, group, detail.weight_offset, f32));
    }
    if (!detail.bias.empty()) {
        SKIFF_TRY(bias, vector(op.name, detail.bias, group, 0, f32));
    }
    if (detail.group_width > 0) x = graph_.node("Reshape", {x, graph_.integers({-1, width(op.out) / group, group})});
    x = cast(x, options_.real, f32);
    if (detail.kind == NormKind::layer && weight.empty()) weight = graph_.floats("ones_" + std::to_string(group), f32, {group}, std::vector<float>(static_cast<std::size_t>(group), 1.0f));
    x = norm_nodes(graph_, {detail.kind, detail.eps, weight, bias}, x);
    x = cast(x, f32, options_.real);
    return detail.group_width > 0 ? graph_.node("Reshape", {x, graph_.integers({-1, width(op.out)})}) : x;
}

OnnxOperators::Named OnnxOperators::transformed(const Op& op, const InputTransform& transform) {
    const std::int64_t n = width(op.in[0]);
    if (transform.kind == InputTransform::Kind::none) return in(op, 0);
    if (transform.kind == InputTransform::Kind::hadamard) return unsupported("a Hadamard transform of the input has no form in ONNX here");
    if (transform.kind == InputTransform::Kind::scale) {
        SKIFF_TRY(const auto scale, vector(op.name, transform.data, n, 0, options_.real));
        return graph_.node("Mul", {in(op, 0), scale});
    }
    SKIFF_TRY(const auto order, load_onnx_vector(spec_, *weights_, transform.data, n, 0));
    Shape columns;
    for (const float index : order) {
        if (!(index >= 0 && index < static_cast<float>(n))) return corrupt("tensor " + transform.data.key + ": a permutation entry is out of range");
        columns.push_back(static_cast<std::int64_t>(index));
    }
    std::string bytes(reinterpret_cast<const char*>(columns.data()), columns.size() * sizeof(std::int64_t));
    const std::string indices = graph_.initializer(transform.data.key, OnnxType::int64, {n}, [bytes](const OnnxDataSink& sink) { return sink(bytes_of(bytes)); });
    return graph_.node("Gather", {in(op, 0), indices}, {{"axis", std::int64_t{1}}});
}

OnnxOperators::Named OnnxOperators::emit(const Op& op, const LinearOp& detail) {
    SKIFF_TRY(const auto x, transformed(op, detail.transform));
    const std::int64_t n_in = width(op.in[0]), n_out = width(op.out);
    std::string bias, sum;
    if (!detail.bias.empty()) {
        SKIFF_TRY(bias, vector(op.name, detail.bias, n_out, 0, options_.real));
    }
    for (const LinearTerm& term : detail.terms) {
        std::string source = x;
        std::int64_t n_source = n_in;
        if (term.kind == LinearTerm::Kind::sparse) return unsupported("a sparse term has no form in ONNX here");
        if (term.kind == LinearTerm::Kind::low_rank) {
            const auto declared = spec_.tensors.find(term.down.key);
            if (declared == spec_.tensors.end()) return corrupt("tensor " + term.down.key + " is not declared");
            n_source = spec_.shape(declared->second)[0];
            SKIFF_TRY(const auto down, matrix(term.down, n_source, n_in));
            SKIFF_TRY(source, forms_.linear(down, op.name, x, ""));
        }
        SKIFF_TRY(const auto weight, matrix(term.weight, n_out, n_source));
        SKIFF_TRY(const auto product, forms_.linear(weight, op.name, source, sum.empty() ? bias : ""));
        sum = sum.empty() ? product : graph_.node("Add", {sum, product});
    }
    if (sum.empty()) return corrupt("a linear operator without terms");
    return sum;
}

OnnxOperators::Named OnnxOperators::emit(const Op& op, const ActivationOp& detail) { return activation_nodes(graph_, detail.kind, in(op, 0), options_.real); }
OnnxOperators::Named OnnxOperators::emit(const Op& op, const MultiplyOp&) { return graph_.node("Mul", {in(op, 0), in(op, 1)}); }
OnnxOperators::Named OnnxOperators::emit(const Op& op, const AddOp&) { return graph_.node("Add", {in(op, 0), in(op, 1)}); }
OnnxOperators::Named OnnxOperators::emit(const Op& op, const ScaleOp& detail) { return graph_.node("Mul", {in(op, 0), real(detail.factor)}); }
OnnxOperators::Named OnnxOperators::emit(const Op& op, const SoftcapOp& detail) {
    return graph_.node("Mul", {graph_.node("Tanh", {graph_.node("Div", {in(op, 0), real(detail.cap)})}), real(detail.cap)});
}

// The chosen experts' weights at their places, zeros elsewhere.
OnnxOperators::Named OnnxOperators::emit(const Op& op, const RouteOp& detail) {
    const std::string& x = in(op, 0);
    const std::vector<OnnxAttribute> last = {{"axis", std::int64_t{-1}}};
    const bool top_first = detail.rule == RouteOp::Rule::top_then_softmax;
    const auto top = graph_.nodes("TopK", {top_first ? x : graph_.node("Softmax", {x}, last), graph_.integers({detail.n_used})}, last, 2);
    std::string weights = top[0];
    if (top_first) weights = graph_.node("Softmax", {weights}, last);
    else if (detail.normalize)
        weights = graph_.node("Div", {weights, graph_.node("ReduceSum", {weights, graph_.integers({-1})}, {{"keepdims", std::int64_t{1}}})});
    return graph_.node("ScatterElements", {graph_.node("Mul", {x, real(0)}), top[1], weights}, last);
}

OnnxOperators::Named OnnxOperators::emit(const Op& op, const GateOp& detail) {
    const std::string weight = graph_.node("Gather", {in(op, 1), graph_.integers({detail.column})}, {{"axis", std::int64_t{1}}});
    return graph_.node("Mul", {in(op, 0), weight});
}

}  // namespace skiff
