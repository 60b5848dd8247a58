#include "compress/structure/cut_axes.h"

#include <algorithm>

#include "compress/calibrate/walk.h"

namespace skiff {
namespace {

const AxisPart& part_of(const ModelSpec& spec, ValueId value) { return spec.values[static_cast<std::size_t>(value)].dimension.front(); }

// Fills in the operator that reads a value; there must be exactly one, and it must be a plain product.
Status set_reader(const ModelSpec& spec, const Block& block, ValueId value, CutAxis& axis) {
    const Op* reader = nullptr;
    for (const Op& op : block.ops) {
        if (std::find(op.in.begin(), op.in.end(), value) == op.in.end()) continue;
        if (reader != nullptr) return unsupported(axis.axis + ": several operators read its values");
        reader = &op;
    }
    const auto* linear = reader != nullptr ? std::get_if<LinearOp>(&reader->detail) : nullptr;
    if (linear == nullptr) return unsupported(axis.axis + ": no linear operator reads its values");
    if (linear->terms.size() != 1 || linear->terms[0].kind != LinearTerm::Kind::packed || linear->transform.kind != InputTransform::Kind::none)
        return unsupported(axis.axis + ": " + reader->name + " is a sum of terms or has a transformed input; cut the model before that is done to it");
    if (linear->terms[0].weight.rows.block != 0) return unsupported(axis.axis + ": " + reader->name + " is a part of a larger weight");
    axis.reader = linear->terms[0].weight.key;
    axis.bias = linear->bias.key;
    axis.transposed = linear->terms[0].weight.transposed;
    axis.value = value;
    axis.unit_columns = spec.width(value) / axis.n_units;
    return {};
}

// The values that feed-forwards are as wide as inside: what a block's activation gives, times the other half where it is gated.
Status add_neurons(const ModelSpec& spec, std::size_t index, std::vector<CutAxis>& axes) {
    const Block& block = spec.blocks[index];
    for (const Op& op : block.ops) {
        const auto* activation = std::get_if<ActivationOp>(&op.detail);
        if (activation == nullptr) continue;
        ValueId value = op.out;
        for (const Op& gate : block.ops)
            if (std::holds_alternative<MultiplyOp>(gate.detail) && std::find(gate.in.begin(), gate.in.end(), value) != gate.in.end()) value = gate.out;
        const AxisPart& part = part_of(spec, value);
        if (part.unit != 1 || std::any_of(axes.begin(), axes.end(), [&](const CutAxis& seen) { return seen.axis == part.axis; })) continue;
        CutAxis axis;
        axis.axis = part.axis;
        axis.block = index;
        axis.n_units = axis.n_kept = spec.width(value);
        axis.activation = activation->kind;
        SKIFF_CHECK(set_reader(spec, block, value, axis));
        axes.push_back(std::move(axis));
    }
    return {};
}

Status add_heads(const ModelSpec& spec, std::size_t index, UnitKind units, std::vector<CutAxis>& axes) {
    const Block& block = spec.blocks[index];
    for (const Op& op : block.ops) {
        const auto* attention = std::get_if<AttentionOp>(&op.detail);
        if (attention == nullptr) continue;
        // A query head without others beside it goes with its KV head.
        const bool by_group = units == UnitKind::kv_groups || attention->n_heads == attention->n_kv_heads;
        CutAxis axis;
        axis.axis = part_of(spec, op.in[by_group ? 1 : 0]).axis;
        axis.block = index;
        axis.n_units = axis.n_kept = by_group ? attention->n_kv_heads : attention->n_heads;
        axis.n_groups = by_group ? 1 : attention->n_kv_heads;
        if (std::any_of(axes.begin(), axes.end(), [&](const CutAxis& seen) { return seen.axis == axis.axis; })) continue;
        SKIFF_CHECK(set_reader(spec, block, op.out, axis));
        axes.push_back(std::move(axis));
    }
    return {};
}

}  // namespace

Result<std::vector<CutAxis>> find_cut_axes(const ModelSpec& spec, UnitKind units) {
    std::vector<CutAxis> axes;
    for (std::size_t i = 0; i < spec.blocks.size(); ++i) {
        if (units == UnitKind::neurons) SKIFF_CHECK(add_neurons(spec, i, axes));
        else SKIFF_CHECK(add_heads(spec, i, units, axes));
    }
    if (axes.empty()) return unsupported(std::string("the model has no ") + unit_kind_name(units));
    return axes;
}

Result<std::vector<float>> reader_matrix(const CutAxis& axis, const WeightSource& weights, ThreadPool& pool) {
    SKIFF_TRY(const auto weight, weights.load(axis.reader));
    Weight floats = as_floats(weight, pool);
    if (axis.transposed && weight.plain() != nullptr) floats = transposed(floats);
    if (floats.shape.size() != 2 || floats.shape[1] != axis.n_units * axis.unit_columns) return corrupt("tensor " + axis.reader + " has shape " + shape_text(weight.shape) + ", not what config.json implies");
    std::vector<float> values;
    if (!to_floats(*floats.plain(), values)) return unsupported("tensor " + axis.reader + " holds no numbers");
    return values;
}

std::vector<std::int64_t> first_units(const CutAxis& axis) {
    std::vector<std::int64_t> units;
    const std::int64_t per_group = axis.n_units / axis.n_groups, kept = axis.n_kept / axis.n_groups;
    for (std::int64_t group = 0; group < axis.n_groups; ++group)
        for (std::int64_t i = 0; i < kept; ++i) units.push_back(group * per_group + i);
    return units;
}

std::vector<std::int64_t> columns_of(const CutAxis& axis, const std::vector<std::int64_t>& units) {
    std::vector<std::int64_t> columns;
    for (const std::int64_t unit : units)
        for (std::int64_t i = 0; i < axis.unit_columns; ++i) columns.push_back(unit * axis.unit_columns + i);
    return columns;
}

}  // namespace skiff
