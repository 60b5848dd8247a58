#include "compress/quantize/couplings.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "model/axes.h"

namespace skiff {
namespace {

// What a block's operators do to its values.
class BlockGraph {
public:
    BlockGraph(const ModelSpec& spec, const Block& block) : block_(block) {
        for (const Op& op : block.ops) {
            producer_[op.out] = &op;
            for (ValueId in : op.in) readers_[in].push_back(&op);
        }
        for (const Block& each : spec.blocks)
            for (const Op& op : each.ops) {
                Op copy = op;
                for_each_tensor_ref(copy, [&](const TensorRef& ref) { users_[ref.key].insert(&op); });
            }
    }

    const Op* producer(ValueId value) const {
        const auto found = producer_.find(value);
        return found == producer_.end() ? nullptr : found->second;
    }
    const std::vector<const Op*>& readers(ValueId value) const {
        static const std::vector<const Op*> none;
        const auto found = readers_.find(value);
        return found == readers_.end() ? none : found->second;
    }
    bool leaves_block(ValueId value) const { return value == block_.out || value == block_.in; }
    bool only_reader(ValueId value, const Op* op) const { return !leaves_block(value) && readers(value).size() == 1 && readers(value)[0] == op; }
    // Whether nothing else in the model uses the tensor.
    bool used_only_by(const std::string& key, const std::vector<const Op*>& ops) const {
        const auto& users = users_.at(key);
        return std::all_of(users.begin(), users.end(), [&](const Op* user) { return std::find(ops.begin(), ops.end(), user) != ops.end(); });
    }

private:
    const Block& block_;
    std::map<ValueId, const Op*> producer_;
    std::map<ValueId, std::vector<const Op*>> readers_;
    std::map<std::string, std::set<const Op*>> users_;
};

// A linear operator of one matrix, whose input is what its columns are multiplied with.
const LinearOp* plain_linear(const Op* op) {
    const auto* linear = op == nullptr ? nullptr : std::get_if<LinearOp>(&op->detail);
    const bool plain = linear != nullptr && linear->transform.kind == InputTransform::Kind::none && linear->terms.size() == 1 && linear->terms[0].kind == LinearTerm::Kind::packed;
    return plain ? linear : nullptr;
}

// All that reads the value are linear operators whose weights nothing else uses.
bool collect_readers(const BlockGraph& graph, ValueId value, std::vector<TensorRef>& readers) {
    if (graph.leaves_block(value) || graph.readers(value).empty()) return false;
    std::set<std::string> seen;
    for (const Op* op : graph.readers(value)) {
        const LinearOp* linear = plain_linear(op);
        if (linear == nullptr || !graph.used_only_by(linear->terms[0].weight.key, graph.readers(value))) return false;
        if (seen.insert(linear->terms[0].weight.key).second) readers.push_back(linear->terms[0].weight);
    }
    return true;
}

// The linear operator whose rows scale `value`, which `reader` alone reads.
const LinearOp* source_linear(const BlockGraph& graph, ValueId value, const Op* reader) {
    const Op* op = graph.producer(value);
    const LinearOp* linear = plain_linear(op);
    if (linear == nullptr || !graph.only_reader(value, reader)) return nullptr;
    // Rows of a fused matrix may be scaled, but not those of a matrix that is used twice.
    std::vector<const Op*> of_block = graph.readers(op->in[0]);
    return graph.used_only_by(linear->terms[0].weight.key, of_block) ? linear : nullptr;
}

bool find_source(const ModelSpec& spec, const BlockGraph& graph, InputCoupling& coupling) {
    const Op* op = graph.producer(coupling.value);
    if (op == nullptr) return false;
    if (const auto* norm = std::get_if<NormOp>(&op->detail)) {
        if (norm->weight.empty() || norm->group_width != 0 || !graph.used_only_by(norm->weight.key, {op})) return false;
        if (!norm->bias.empty() && !graph.used_only_by(norm->bias.key, {op})) return false;
        coupling.norm = norm;
        coupling.n_sources = coupling.n_columns;
        return true;
    }
    if (std::holds_alternative<MultiplyOp>(op->detail)) {
        for (ValueId factor : op->in)
            if (const LinearOp* linear = source_linear(graph, factor, op)) coupling.linear = linear;
        coupling.n_sources = coupling.n_columns;
    } else if (const auto* activation = std::get_if<ActivationOp>(&op->detail)) {
        if (activation->kind != Activation::relu) return false;  // f(x / s) = f(x) / s
        coupling.linear = source_linear(graph, op->in[0], op);
        coupling.n_sources = coupling.n_columns;
    } else if (const auto* attention = std::get_if<AttentionOp>(&op->detail)) {
        coupling.linear = source_linear(graph, op->in[2], op);
        coupling.head_dim = attention->head_dim;
        coupling.n_repeats = attention->n_heads / attention->n_kv_heads;
        coupling.n_sources = spec.width(op->in[2]);
    }
    return coupling.linear != nullptr;
}

struct Floats {
    Shape shape;
    std::vector<float> values;
};

Result<Floats> load_floats(const EditedWeights& weights, const std::string& key) {
    SKIFF_TRY(const auto weight, weights.load(key));
    Floats floats{weight.shape, std::vector<float>(static_cast<std::size_t>(element_count(weight.shape)))};
    for (std::int64_t row = 0; row < weight.n_rows(); ++row) weight.row(row, floats.values.data() + row * weight.n_columns());
    return floats;
}

enum class Side : std::uint8_t { rows, columns };

// Multiplies the rows or columns, as the operator sees them, by factors.
Status multiply_side(const TensorRef& ref, Side side, const std::vector<float>& factors, EditedWeights& weights) {
    SKIFF_TRY(auto floats, load_floats(weights, ref.key));
    const std::int64_t n_rows = floats.shape[0], n_columns = floats.shape.size() > 1 ? floats.shape[1] : 1;
    const bool by_stored_rows = (side == Side::rows) != (ref.transposed && floats.shape.size() > 1);
    const auto n = static_cast<std::int64_t>(factors.size());
    std::vector<float> whole(static_cast<std::size_t>(by_stored_rows ? n_rows : n_columns), 1.0f);
    const bool mapped = side == Side::rows && ref.rows.block != 0;
    for (std::int64_t i = 0; i < n; ++i) whole[static_cast<std::size_t>(mapped ? ref.rows.at(i) : i)] = factors[static_cast<std::size_t>(i)];
    for (std::int64_t row = 0; row < n_rows; ++row)
        for (std::int64_t column = 0; column < n_columns; ++column)
            floats.values[static_cast<std::size_t>(row * n_columns + column)] *= whole[static_cast<std::size_t>(by_stored_rows ? row : column)];
    weights.replace(ref.key, make_float_weight(floats.shape, std::move(floats.values)));
    return {};
}

// Divides a norm's weight, and says by what it was divided in the end.
Status divide_norm(const NormOp& norm, std::vector<float>& scales, EditedWeights& weights) {
    SKIFF_TRY(const auto stored, weights.load(norm.weight.key));
    if (stored.plain() == nullptr) return unsupported("the norm " + norm.weight.key + " is quantized");
    const DTypeInfo& type = dtype_info(stored.plain()->dtype);
    SKIFF_TRY(auto floats, load_floats(weights, norm.weight.key));
    for (std::size_t i = 0; i < scales.size(); ++i) {
        const float whole = floats.values[i] + norm.weight_offset;
        float divided = whole / scales[i] - norm.weight_offset;
        std::uint64_t bits = 0;
        type.from_float(&divided, 1, &bits);
        type.to_float(&bits, 1, &divided);
        const float scale = whole / (divided + norm.weight_offset);
        const bool usable = std::isfinite(scale) && scale > 0;
        scales[i] = usable ? scale : 1;
        if (usable) floats.values[i] = divided;
    }
    weights.replace(norm.weight.key, make_float_weight(floats.shape, std::move(floats.values)));
    if (norm.bias.empty()) return {};
    std::vector<float> inverse;
    for (float scale : scales) inverse.push_back(1 / scale);
    return multiply_side(norm.bias, Side::rows, inverse, weights);
}

}  // namespace

std::vector<InputCoupling> find_couplings(const ModelSpec& spec, std::size_t block) {
    const BlockGraph graph(spec, spec.blocks.at(block));
    std::vector<InputCoupling> couplings;
    std::set<ValueId> seen;
    for (const Op& op : spec.blocks.at(block).ops) {
        if (plain_linear(&op) == nullptr || !seen.insert(op.in[0]).second) continue;
        InputCoupling coupling;
        coupling.value = op.in[0];
        coupling.n_columns = spec.width(coupling.value);
        if (collect_readers(graph, coupling.value, coupling.readers) && find_source(spec, graph, coupling)) couplings.push_back(std::move(coupling));
    }
    return couplings;
}

InputStatistics divided(const InputStatistics& inputs, const std::vector<float>& scales) {
    InputStatistics result = inputs;
    const std::size_t n = scales.size();
    for (std::size_t i = 0; i < n; ++i) {
        const float inverse = 1 / scales[i];
        result.mean[i] *= inverse;
        result.mean_absolute[i] *= inverse;
        result.mean_square[i] *= inverse * inverse;
        result.largest[i] *= inverse;
        for (std::size_t j = 0; !result.gram.empty() && j < n; ++j) result.gram[i * n + j] *= inverse / scales[j];
    }
    return result;
}

Status scale_inputs(const InputCoupling& coupling, std::vector<float> scales, const ScaledBlock& block) {
    if (coupling.norm != nullptr) SKIFF_CHECK(divide_norm(*coupling.norm, scales, block.weights));
    if (coupling.linear != nullptr) {
        std::vector<float> inverse;
        for (float scale : scales) inverse.push_back(1 / scale);
        SKIFF_CHECK(multiply_side(coupling.linear->terms[0].weight, Side::rows, inverse, block.weights));
        if (!coupling.linear->bias.empty()) SKIFF_CHECK(multiply_side(coupling.linear->bias, Side::rows, inverse, block.weights));
    }
    std::vector<float> columns(static_cast<std::size_t>(coupling.n_columns));
    for (std::int64_t i = 0; i < coupling.n_columns; ++i) columns[static_cast<std::size_t>(i)] = scales[static_cast<std::size_t>(coupling.source_of(i))];
    for (const TensorRef& reader : coupling.readers) SKIFF_CHECK(multiply_side(reader, Side::columns, columns, block.weights));
    std::map<const InputStatistics*, std::shared_ptr<const InputStatistics>> done;  // readers share theirs
    for (const TensorRef& reader : coupling.readers) {
        auto found = block.inputs.find(reader.key);
        if (found == block.inputs.end()) continue;
        auto& scaled = done[found->second.get()];
        if (!scaled) scaled = std::make_shared<InputStatistics>(divided(*found->second, columns));
        found->second = scaled;
    }
    return {};
}

}  // namespace skiff
