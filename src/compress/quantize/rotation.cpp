#include "compress/quantize/rotation.h"

#include <algorithm>
#include <set>

#include "compress/algebra/algebra.h"
#include "compress/quantize/orthogonal.h"
#include "model/arch/arch.h"
#include "model/axes.h"

namespace skiff {
namespace {

const LinearOp* plain_linear(const Op& op) {
    const auto* linear = std::get_if<LinearOp>(&op.detail);
    const bool plain = linear != nullptr && linear->transform.kind == InputTransform::Kind::none && linear->terms.size() == 1 && linear->terms[0].kind == LinearTerm::Kind::packed;
    return plain ? linear : nullptr;
}

std::vector<float> floats_of(const Weight& weight) {
    std::vector<float> values(static_cast<std::size_t>(element_count(weight.shape)));
    for (std::int64_t row = 0; row < weight.n_rows(); ++row) weight.row(row, values.data() + row * weight.n_columns());
    return values;
}

}  // namespace

class RotationPlanner {
public:
    RotationPlanner(const Checkpoint& parent, const RotationOptions& options) : parent_(parent), spec_(parent.spec), options_(options) {
        for (const Block& block : spec_.blocks)
            for (const Op& op : block.ops) {
                for (ValueId in : op.in) readers_[in].push_back(&op);
                producer_[op.out] = &op;
                Op copy = op;
                for_each_tensor_ref(copy, [&](const TensorRef& ref) { ++n_uses_[ref.key]; });
            }
    }

    Result<Rotation> run() {
        if (options_.what != RotationOptions::What::heads) SKIFF_CHECK(rotate_residual());
        if (options_.what != RotationOptions::What::residual) SKIFF_CHECK(rotate_heads());
        for (const auto& [key, n] : n_marks_)
            if (n != n_uses_.at(key) && key != rotation_.table_) return unsupported("the tensor " + key + " is also used where its columns may not be rotated");
        for (auto& [order, matrix] : rotation_.matrices_) {
            SKIFF_TRY(auto made, random_orthogonal(order, options_.seed * 1'000'003 + static_cast<std::uint64_t>(order)));
            if (made.kind == "random") rotation_.remarks_.push_back("no Hadamard matrix of order " + std::to_string(order) + " is known here: a random rotation takes its place");
            matrix = std::move(made.matrix);
        }
        return std::move(rotation_);
    }

private:
    Error in_the_way(const Op& op, const std::string& why) const { return unsupported("the residual stream of this model cannot be rotated: " + op.name + " (" + op_kind_name(op.detail) + ") " + why + "; --what heads rotates the attention heads alone"); }

    void use_matrix(std::int64_t order) { rotation_.matrices_[order]; }

    Status set_inputs(const TensorRef& ref, std::int64_t order, const std::string& norm, float offset) {
        TensorRotation& tensor = rotation_.tensors_[ref.key];
        const bool marked = n_marks_[ref.key]++ > 0;
        if (marked && (tensor.inputs_order != order || tensor.inputs_norm != norm)) return unsupported("the tensor " + ref.key + " is used in two places that want different rotations");
        tensor.inputs_order = order;
        tensor.inputs_norm = norm;
        tensor.inputs_norm_offset = offset;
        tensor.transposed = ref.transposed;
        use_matrix(order);
        return {};
    }

    void add_outputs(const TensorRef& ref, std::int64_t order, bool is_vector) {
        TensorRotation& tensor = rotation_.tensors_[ref.key];
        tensor.outputs.push_back({order, ref.rows});
        tensor.is_vector = is_vector;
        tensor.transposed = ref.transposed;
        use_matrix(order);
    }

    // Values of the stream: what decoder blocks take and give, and whatever is added to it.
    void find_stream() {
        for (std::size_t i = 1; i + 1 < spec_.blocks.size(); ++i) stream_.insert({spec_.blocks[i].in, spec_.blocks[i].out});
        for (std::size_t before = 0; before != stream_.size();) {
            before = stream_.size();
            for (const auto& [out, op] : producer_) {
                std::vector<ValueId> same = {out};
                if (std::holds_alternative<AddOp>(op->detail)) same.insert(same.end(), op->in.begin(), op->in.end());
                else if (std::holds_alternative<ScaleOp>(op->detail) || std::holds_alternative<GateOp>(op->detail)) same.push_back(op->in[0]);
                if (std::any_of(same.begin(), same.end(), [&](ValueId id) { return stream_.count(id) != 0; })) stream_.insert(same.begin(), same.end());
            }
        }
    }

    Status rotate_residual() {
        find_stream();
        for (const auto& [out, op] : producer_)
            if (stream_.count(out) != 0) SKIFF_CHECK(writer(*op));
        for (ValueId value : stream_)
            for (const Op* op : readers_[value]) SKIFF_CHECK(reader(*op, value));
        return {};
    }

    static bool passes(const Op& op) { return std::holds_alternative<AddOp>(op.detail) || std::holds_alternative<ScaleOp>(op.detail) || std::holds_alternative<GateOp>(op.detail); }

    Status writer(const Op& op) {
        if (passes(op)) return {};
        if (const auto* embed = std::get_if<EmbedOp>(&op.detail)) return set_inputs(embed->table, spec_.d_model, "", 0);  // its rows are vectors of the stream
        const LinearOp* linear = plain_linear(op);
        if (linear == nullptr) return in_the_way(op, "writes it and is no plain linear operator");
        if (linear->terms[0].weight.rows.block != 0 && !linear->terms[0].weight.rows.contiguous()) return in_the_way(op, "writes it with scattered rows");
        add_outputs(linear->terms[0].weight, spec_.d_model, false);
        if (!linear->bias.empty()) add_outputs(linear->bias, spec_.d_model, true);
        return {};
    }

    Status reader(const Op& op, ValueId value) {
        if (passes(op)) return std::holds_alternative<GateOp>(op.detail) && op.in[0] != value ? Status(in_the_way(op, "is steered by it")) : Status();
        if (const LinearOp* linear = plain_linear(op)) return read_by_linear(*linear, "", 0);
        const auto* norm = std::get_if<NormOp>(&op.detail);
        if (norm == nullptr) return in_the_way(op, "reads it");
        if (norm->kind != NormKind::rms || norm->group_width != 0) return in_the_way(op, "is no RMS norm of the whole stream");
        if (!norm->bias.empty()) return in_the_way(op, "has a bias");
        if (stream_.count(op.out) != 0) return in_the_way(op, "writes it");
        for (const Op* next : readers_[op.out]) {
            const LinearOp* linear = plain_linear(*next);
            if (linear == nullptr) return in_the_way(*next, "reads a norm of it");
            SKIFF_CHECK(read_by_linear(*linear, norm->weight.key, norm->weight_offset));
        }
        if (norm->weight.empty()) return {};
        if (n_uses_[norm->weight.key] != 1) return in_the_way(op, "shares its weight");
        TensorRotation& tensor = rotation_.tensors_[norm->weight.key];
        tensor.becomes_ones = true;
        tensor.ones_minus = norm->weight_offset;
        return {};
    }

    Status read_by_linear(const LinearOp& linear, const std::string& norm, float offset) {
        const TensorRef& weight = linear.terms[0].weight;
        const auto found = rotation_.tensors_.find(weight.key);
        const bool is_table = found != rotation_.tensors_.end() && n_marks_[weight.key] > 0 && found->second.inputs_norm.empty() && !norm.empty();
        if (!is_table) return set_inputs(weight, spec_.d_model, norm, offset);
        // The table is read as vectors of the stream, and as a head behind the last norm: with the norm's weight it is another tensor.
        Json config = parent_.config;
        config.set("tie_word_embeddings", false);
        SKIFF_TRY(const auto untied, build_spec(config));
        std::vector<std::string> added;
        for (const auto& [key, tensor] : untied.tensors)
            if (spec_.tensors.count(key) == 0) added.push_back(key);
        if (parent_.kind != Checkpoint::Kind::folder || added.size() != 1) return unsupported("the head shares the tensor " + weight.key + " with the embedding, and this architecture cannot part them; --what heads rotates the attention heads alone");
        rotation_.new_head_ = added[0];
        rotation_.table_ = weight.key;
        TensorRotation head;
        head.inputs_order = spec_.d_model;
        head.inputs_norm = norm;
        head.inputs_norm_offset = offset;
        rotation_.tensors_[added[0]] = head;
        rotation_.remarks_.push_back("the head no longer shares the tensor of the embedding, since the last norm's weight went into it: the model has " + std::to_string(element_count(spec_.shape(spec_.tensors.at(weight.key)))) + " weights more");
        return {};
    }

    Status rotate_heads() {
        std::size_t n_rotated = 0;
        std::set<std::string> turned_values;
        for (const auto& [out, op] : producer_) {
            const auto* attention = std::get_if<AttentionOp>(&op->detail);
            if (attention == nullptr) continue;
            const Op* source = producer_.count(op->in[2]) != 0 ? producer_.at(op->in[2]) : nullptr;
            const LinearOp* v = source != nullptr ? plain_linear(*source) : nullptr;
            const auto& after = readers_[op->out];
            const LinearOp* o = after.size() == 1 ? plain_linear(*after[0]) : nullptr;
            if (v == nullptr || o == nullptr || readers_[op->in[2]].size() != 1) continue;
            // Layers may share their weights: what has been turned for one is turned for all.
            const bool turned = !turned_values.insert(v->terms[0].weight.key).second;
            if (!turned) add_outputs(v->terms[0].weight, attention->head_dim, false);
            if (!turned && !v->bias.empty()) add_outputs(v->bias, attention->head_dim, true);
            SKIFF_CHECK(set_inputs(o->terms[0].weight, attention->head_dim, "", 0));
            ++n_rotated;
        }
        return n_rotated > 0 ? Status() : Status(unsupported("no attention of this model gets its values from a linear operator and gives them to one"));
    }

    const Checkpoint& parent_;
    const ModelSpec& spec_;
    const RotationOptions& options_;
    std::map<ValueId, std::vector<const Op*>> readers_;
    std::map<ValueId, const Op*> producer_;
    std::map<std::string, int> n_uses_, n_marks_;
    std::set<ValueId> stream_;
    Rotation rotation_;
};

Result<Rotation> Rotation::plan(const Checkpoint& parent, const RotationOptions& options) {
    SKIFF_CHECK(algebra_available());
    return RotationPlanner(parent, options).run();
}

Json Rotation::config(const Json& parent) const {
    Json config = parent;
    if (!new_head_.empty()) config.set("tie_word_embeddings", false);
    return config;
}

const TensorRotation* Rotation::of(const std::string& key) const {
    const auto found = tensors_.find(key);
    return found != tensors_.end() && found->second.any() ? &found->second : nullptr;
}

Result<Weight> Rotation::make(const std::string& key, const WeightSource& weights, ThreadPool& pool) const {
    const TensorRotation& how = tensors_.at(key);
    SKIFF_TRY(const auto stored, weights.load(key == new_head_ ? table_ : key));
    if (how.becomes_ones) return make_float_weight(stored.shape, std::vector<float>(static_cast<std::size_t>(element_count(stored.shape)), 1 - how.ones_minus));
    const bool turned = how.transposed && stored.shape.size() == 2;
    const Weight oriented = turned ? transposed(stored) : stored;
    const std::int64_t n_rows = oriented.n_rows(), n_columns = oriented.n_columns();
    std::vector<float> values = floats_of(oriented);
    if (!how.inputs_norm.empty()) {
        SKIFF_TRY(const auto norm, weights.load(how.inputs_norm));
        const auto factors = floats_of(norm);
        for (std::int64_t i = 0; i < n_rows * n_columns; ++i) values[static_cast<std::size_t>(i)] *= factors[static_cast<std::size_t>(i % n_columns)] + how.inputs_norm_offset;
    }
    if (how.inputs_order != 0) {
        const std::int64_t n = how.inputs_order;
        std::vector<float> rotated(values.size());
        for (std::int64_t begin = 0; begin < n_columns; begin += n)
            multiply({.m = n_rows, .n = n, .k = n, .a = values.data() + begin, .a_stride = n_columns, .b = matrices_.at(n).data(), .b_stride = n, .c = rotated.data() + begin, .c_stride = n_columns}, pool);
        values = std::move(rotated);
    }
    for (const TensorRotation::Side& side : how.outputs) {
        const std::int64_t n = side.order, n_mapped = side.rows.block == 0 ? n_rows : side.rows.n_rows();
        std::vector<float> before(static_cast<std::size_t>(n * n_columns)), after(before);
        for (std::int64_t begin = 0; begin < n_mapped; begin += n) {
            const auto row_of = [&](std::int64_t i) { return values.data() + (side.rows.block == 0 ? begin + i : side.rows.at(begin + i)) * n_columns; };
            for (std::int64_t i = 0; i < n; ++i) std::copy_n(row_of(i), n_columns, before.data() + i * n_columns);
            multiply({.m = n, .n = n_columns, .k = n, .a = matrices_.at(n).data(), .a_stride = n, .a_as = Product::As::transposed, .b = before.data(), .b_stride = n_columns, .c = after.data(), .c_stride = n_columns}, pool);
            for (std::int64_t i = 0; i < n; ++i) std::copy_n(after.data() + i * n_columns, n_columns, row_of(i));
        }
    }
    Weight made = make_float_weight(oriented.shape, std::move(values));
    return turned ? transposed(made) : made;
}

}  // namespace skiff
