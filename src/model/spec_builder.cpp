#include "model/spec_builder.h"

#include <utility>

namespace skiff {

void SpecBuilder::add_axis(std::string name, std::int64_t size, std::int64_t multiple_of) {
    if (spec_.find_axis(name) == nullptr) spec_.axes.push_back({std::move(name), size, multiple_of});
}

TensorRef SpecBuilder::tensor(const std::string& key, std::vector<Dimension> dimensions, TensorDecl::Role role) {
    if (key.empty()) return {};
    spec_.tensors.emplace(key, TensorDecl{key, std::move(dimensions), role, TensorDecl::Need::required});
    TensorRef ref;
    ref.key = key;
    return ref;
}

void SpecBuilder::begin_block(std::string name, ValueId in) { spec_.blocks.push_back({std::move(name), {}, in, no_value}); }
void SpecBuilder::end_block(ValueId out) { spec_.blocks.back().out = out; }

ValueId SpecBuilder::push(const std::string& name, OpDetail detail, std::vector<ValueId> in, Dimension width) {
    auto out = static_cast<ValueId>(spec_.values.size());
    spec_.values.push_back({name, std::move(width)});
    spec_.blocks.back().ops.push_back({name, std::move(detail), std::move(in), out});
    return out;
}

ValueId SpecBuilder::embed(const std::string& name, EmbedOp op, const Dimension& width) { return push(name, std::move(op), {}, width); }

ValueId SpecBuilder::norm(const std::string& name, ValueId x, NormOp op) {
    return push(name, std::move(op), {x}, spec_.values[static_cast<std::size_t>(x)].dimension);
}

ValueId SpecBuilder::linear(const std::string& name, ValueId x, TensorRef weight, TensorRef bias, const Dimension& out) {
    LinearOp op;
    op.terms.push_back({LinearTerm::Kind::packed, std::move(weight), {}});
    op.bias = std::move(bias);
    return push(name, std::move(op), {x}, out);
}

ValueId SpecBuilder::rope(const std::string& name, ValueId x, RopeOp op) {
    return push(name, std::move(op), {x}, spec_.values[static_cast<std::size_t>(x)].dimension);
}

ValueId SpecBuilder::attention(const std::string& name, ValueId q, ValueId k, ValueId v, AttentionOp op) {
    return push(name, std::move(op), {q, k, v}, spec_.values[static_cast<std::size_t>(q)].dimension);
}

ValueId SpecBuilder::causal_conv(const std::string& name, ValueId x, CausalConvOp op) {
    return push(name, std::move(op), {x}, spec_.values[static_cast<std::size_t>(x)].dimension);
}

ValueId SpecBuilder::activation(const std::string& name, ValueId x, Activation kind) {
    return push(name, ActivationOp{kind}, {x}, spec_.values[static_cast<std::size_t>(x)].dimension);
}

ValueId SpecBuilder::multiply(const std::string& name, ValueId a, ValueId b) {
    return push(name, MultiplyOp{}, {a, b}, spec_.values[static_cast<std::size_t>(a)].dimension);
}

ValueId SpecBuilder::add(const std::string& name, ValueId a, ValueId b) {
    return push(name, AddOp{}, {a, b}, spec_.values[static_cast<std::size_t>(a)].dimension);
}

ValueId SpecBuilder::scale(const std::string& name, ValueId x, float factor) {
    return push(name, ScaleOp{factor}, {x}, spec_.values[static_cast<std::size_t>(x)].dimension);
}

ValueId SpecBuilder::softcap(const std::string& name, ValueId x, float cap) {
    return push(name, SoftcapOp{cap}, {x}, spec_.values[static_cast<std::size_t>(x)].dimension);
}

ValueId SpecBuilder::route(const std::string& name, ValueId logits, RouteOp op) {
    return push(name, op, {logits}, spec_.values[static_cast<std::size_t>(logits)].dimension);
}

ValueId SpecBuilder::gate(const std::string& name, ValueId x, ValueId weights, std::int64_t column) {
    return push(name, GateOp{column}, {x, weights}, spec_.values[static_cast<std::size_t>(x)].dimension);
}

ModelSpec SpecBuilder::finish(ValueId logits) {
    spec_.logits = logits;
    return std::move(spec_);
}

}  // namespace skiff
