#include "model/spec.h"

namespace skiff {

const Axis* ModelSpec::find_axis(const std::string& name) const {
    for (const Axis& axis : axes)
        if (axis.name == name) return &axis;
    return nullptr;
}

std::int64_t ModelSpec::width(const Dimension& dimension) const {
    std::int64_t total = 0;
    for (const AxisPart& part : dimension) {
        const Axis* axis = find_axis(part.axis);
        if (axis != nullptr) total += axis->size * part.unit;
    }
    return total;
}

Shape ModelSpec::shape(const TensorDecl& tensor) const {
    Shape shape;
    for (const Dimension& dimension : tensor.dimensions) shape.push_back(width(dimension));
    return shape;
}

std::int64_t ModelSpec::n_parameters() const {
    std::int64_t total = 0;
    for (const auto& [key, tensor] : tensors) total += element_count(shape(tensor));
    return total;
}

std::int64_t ModelSpec::multiply_adds_per_token() const {
    std::int64_t total = 0;
    for (const Block& block : blocks)
        for (const Op& op : block.ops)
            if (const auto* linear = std::get_if<LinearOp>(&op.detail))
                for (const LinearTerm& term : linear->terms) total += term.kind == LinearTerm::Kind::low_rank ? shape(tensors.at(term.down.key))[0] * (width(op.in[0]) + width(op.out)) : width(op.in[0]) * width(op.out);
            else if (const auto* conv = std::get_if<CausalConvOp>(&op.detail)) total += conv->kernel * width(op.out);
    return total;
}

std::int64_t ModelSpec::state_elements_per_token() const {
    std::int64_t total = 0;
    for (const Block& block : blocks)
        for (const Op& op : block.ops)
            if (auto* attention = std::get_if<AttentionOp>(&op.detail)) total += attention->state.key_width + attention->state.value_width;
    return total;
}

std::set<std::string> keys_stored_as_columns(const ModelSpec& spec) {
    std::set<std::string> keys;
    for (const Block& block : spec.blocks)
        for (const Op& op : block.ops)
            if (const auto* linear = std::get_if<LinearOp>(&op.detail))
                for (const LinearTerm& term : linear->terms)
                    if (term.weight.transposed) keys.insert(term.weight.key);
    return keys;
}

const char* op_kind_name(const OpDetail& detail) {
    static constexpr const char* names[] = {"embed",    "norm", "linear", "rope",    "attention", "activation",
                                            "multiply", "add",  "scale",  "softcap", "route",     "gate", "causal_conv"};
    static_assert(std::variant_size_v<OpDetail> == sizeof names / sizeof names[0]);
    return names[detail.index()];
}

}  // namespace skiff
