#include "backend/cuda/device_model.h"

#include <algorithm>

#include "backend/cuda/model_builder.h"

namespace skiff::cuda {

Result<DeviceModel> ModelBuilder::build() {
    SKIFF_CHECK(flatten());
    find_readers();
    find_gates();
    find_mixtures();
    for (std::size_t i = 0; i < items_.size(); ++i) {
        SKIFF_CHECK(enter_block(items_[i].block));
        if (select_at_ == i) push("select", SelectDevice{select_in_, select_out_});
        if (items_[i].done) continue;
        items_[i].done = true;
        Status status = std::visit([&](const auto& detail) { return add(i, detail); }, items_[i].op->detail);
        if (!status.ok()) return status.take_error().with_context(items_[i].op->name);
        if (options_.progress && block_ends_.count(i)) options_.progress({"load", block_ends_.at(i), i + 1, items_.size()});
        if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted while loading", {}};
    }
    SKIFF_CHECK(find_taps());
    finish();
    SKIFF_CHECK(place_streamed());
    return std::move(model_);
}

// Nothing that works in place may have a tapped value.
Status ModelBuilder::find_taps() {
    for (const std::string& name : options_.taps) {
        const auto found = std::find_if(model_.values.begin(), model_.values.end(), [&](const DeviceValue& each) { return each.name == name; });
        const auto v = static_cast<int>(found - model_.values.begin());
        if (found == model_.values.end() || producer_.count(v) == 0) return usage_error("there is no value " + name + " in this stretch of the model");
        bool in_place = fuse();
        for (const DeviceOp& op : model_.ops)
            if (const auto* rope = std::get_if<RopeDevice>(&op.detail); rope != nullptr && rope->q_out >= 0 && rope->q_out != rope->q) in_place = in_place || rope->q == v;
        if (in_place) return unsupported("the value " + name + " cannot be looked at on a device, which works on it in place; run with --device cpu");
        model_.taps.push_back(v);
    }
    return {};
}

// The embedding and the head stay on the device, and what is shared with what is there already does.
Status ModelBuilder::enter_block(std::size_t block) {
    if (block == block_) return {};
    block_ = block;
    const bool streams = block >= options_.stream_from && block > 0 && block + 1 < spec_.blocks.size();
    if (streams && !model_.stream) model_.stream = std::make_unique<WeightStream>(device_);
    streamed_ = -1;
    weights_.stream_to(streams ? model_.stream.get() : nullptr);
    if (!streams) return {};
    SKIFF_TRY(streamed_, model_.stream->begin_block());
    return {};
}

Status ModelBuilder::place_streamed() {
    if (!model_.stream) return {};
    SKIFF_CHECK(model_.stream->place());
    for (DeviceOp& op : model_.ops) {
        if (op.streamed < 0) continue;
        const auto place = [&](GpuWeight& weight) {
            if (is_imaginary(weight)) relocate(weight, model_.stream->base(op.streamed));
        };
        if (auto* linear = std::get_if<LinearDevice>(&op.detail); linear != nullptr)
            for (MatrixDevice& matrix : linear->matrices) place(matrix.weight);
        if (auto* experts = std::get_if<ExpertsDevice>(&op.detail); experts != nullptr) place(experts->gate_up), place(experts->down);
    }
    const auto n = static_cast<std::size_t>(model_.stream->n_blocks());
    model_.remarks.push_back("the weights of " + std::to_string(n) + " of " + std::to_string(spec_.blocks.size() - 2) + " layers are copied to the device when they are used, while the layer before them computes");
    return {};
}

int ModelBuilder::new_value(const std::string& name, std::int64_t width_of) {
    model_.values.push_back({name, width_of});
    return static_cast<int>(model_.values.size()) - 1;
}

Status ModelBuilder::flatten() {
    for (const Value& declared : spec_.values) model_.values.push_back({declared.name, spec_.width(declared.dimension)});
    if (spec_.blocks.empty() || options_.first_block >= spec_.blocks.size()) return usage_error("the stretch's first block is behind the model's last");
    const std::size_t last = std::min(options_.last_block, spec_.blocks.size() - 1);
    for (std::size_t b = options_.first_block; b <= last; ++b) {
        const Block& block = spec_.blocks[b];
        const bool head = b + 1 == spec_.blocks.size() && block.in != no_value;
        if (head) {
            select_at_ = items_.size();
            select_in_ = block.in;
            select_out_ = new_value("selected", width(block.in));
        }
        for (const Op& op : block.ops) {
            Item item{&op, {op.in.begin(), op.in.end()}, false, b};
            for (int& in : item.in)
                if (head && in == block.in) in = select_out_;
            items_.push_back(std::move(item));
        }
        if (!block.ops.empty()) block_ends_[items_.size() - 1] = block.name;
    }
    model_.input = options_.first_block == 0 ? -1 : spec_.blocks[options_.first_block].in;
    model_.output = last + 1 == spec_.blocks.size() ? static_cast<int>(spec_.logits) : spec_.blocks[last].out;
    model_.output_width = width(model_.output);
    model_.input_width = model_.input >= 0 ? width(model_.input) : 0;
    return {};
}

void ModelBuilder::find_readers() {
    readers_.resize(model_.values.size());
    for (std::size_t i = 0; i < items_.size(); ++i)
        for (int in : items_[i].in) readers_[static_cast<std::size_t>(in)].push_back(i);
    if (select_in_ >= 0) readers_[static_cast<std::size_t>(select_in_)].push_back(select_at_);
    for (std::size_t i = 0; i < items_.size(); ++i) producer_[items_[i].op->out] = i;
}

int ModelBuilder::only_reader(int v) const {
    const auto& readers = readers_[static_cast<std::size_t>(v)];
    if (v == model_.output || readers.size() != 1) return -1;
    return v == select_in_ ? -1 : static_cast<int>(readers[0]);
}

bool ModelBuilder::is_simple(std::size_t i) const {
    const auto* linear = std::get_if<LinearOp>(&items_[i].op->detail);
    return linear != nullptr && linear->terms.size() == 1 && linear->terms[0].kind == LinearTerm::Kind::packed;
}

// The same terms, but for numbers kept aside, which any may have.
bool ModelBuilder::same_terms(std::size_t a, std::size_t b) const {
    const auto count = [&](std::size_t i, LinearTerm::Kind kind) {
        const auto& terms = std::get<LinearOp>(items_[i].op->detail).terms;
        return std::count_if(terms.begin(), terms.end(), [&](const LinearTerm& term) { return term.kind == kind; });
    };
    for (const auto kind : {LinearTerm::Kind::packed, LinearTerm::Kind::low_rank})
        if (count(a, kind) > 1 || count(a, kind) != count(b, kind)) return false;
    return count(a, LinearTerm::Kind::packed) + count(a, LinearTerm::Kind::low_rank) > 0;
}

bool ModelBuilder::aside_fits(const std::vector<std::size_t>& group) const {
    std::vector<WeightRows> parts;
    bool any = false;
    for (std::size_t i : group) {
        TensorRef ref;
        for (const LinearTerm& term : std::get<LinearOp>(items_[i].op->detail).terms) {
            if (term.kind != LinearTerm::Kind::sparse) continue;
            if (!ref.empty()) return false;  // two of them
            ref = term.weight;
        }
        any |= !ref.empty();
        parts.push_back({ref, width(items_[i].op->out), width(items_[i].in[0])});
    }
    if (!any) return true;
    const auto packed = weights_.pack_sparse(parts);
    return packed.ok() && packed->has_value();  // an error comes again where it is loaded
}

bool ModelBuilder::share_input(std::size_t a, std::size_t b) const {
    return items_[a].in[0] == items_[b].in[0] && std::get<LinearOp>(items_[a].op->detail).transform == std::get<LinearOp>(items_[b].op->detail).transform;
}

bool ModelBuilder::all_multiply(int v) const {
    if (v == model_.output || v == select_in_) return false;
    const auto& readers = readers_[static_cast<std::size_t>(v)];
    return std::all_of(readers.begin(), readers.end(), [&](std::size_t reader) {
        const auto* linear = reader < items_.size() ? std::get_if<LinearOp>(&items_[reader].op->detail) : nullptr;
        return linear != nullptr && linear->transform.kind == InputTransform::Kind::none;
    });
}

void ModelBuilder::find_gates() {
    if (!fuse()) return;
    for (std::size_t m = 0; m < items_.size(); ++m) {
        if (!std::get_if<MultiplyOp>(&items_[m].op->detail)) continue;
        for (int first = 0; first < 2; ++first) {
            const int activated = items_[m].in[static_cast<std::size_t>(first)], up = items_[m].in[static_cast<std::size_t>(1 - first)];
            const auto a = producer_.find(activated), u = producer_.find(up);
            if (a == producer_.end() || u == producer_.end() || !std::get_if<ActivationOp>(&items_[a->second].op->detail)) continue;
            const auto g = producer_.find(items_[a->second].in[0]);
            if (g == producer_.end() || !is_simple(g->second) || !is_simple(u->second) || g->second == u->second || !share_input(g->second, u->second)) continue;
            if (only_reader(activated) < 0 || only_reader(up) < 0 || only_reader(items_[a->second].in[0]) < 0 || !all_multiply(items_[m].op->out)) continue;
            gates_[std::min(g->second, u->second)] = {g->second, u->second, a->second, m};
            gated_.insert({g->second, u->second});
            break;
        }
    }
}

void ModelBuilder::reads(int v, bool as_operand) {
    if (v < 0) return;
    (as_operand ? value(v).as_operand : value(v).as_floats) = true;
    ++value(model_.root(v)).readers;
}

void ModelBuilder::finish() {
    for (const DeviceOp& op : model_.ops) std::visit([&](const auto& detail) { count_reads(detail); }, op.detail);
    if (model_.output >= 0) reads(model_.output, false);
    for (int tapped : model_.taps) reads(tapped, false);
    for (std::size_t i = 0; i < model_.ops.size() && fuse(); ++i) {
        const auto* norm = std::get_if<NormDevice>(&model_.ops[i].detail);
        if (norm == nullptr || norm->kind != NormKind::rms || norm->bias != nullptr || norm->residual >= 0 || norm->second_out >= 0 || norm->group_width != width(norm->out)) continue;
        if (value(norm->out).as_floats || value(norm->x).parent >= 0 || value(norm->x).norm_behind >= 0) continue;
        value(norm->x).norm_behind = static_cast<int>(i);
    }
    model_.weight_bytes = weights_.weight_bytes();
    if (weights_.n_written_out() > 0)
        model_.remarks.push_back("the zeros of " + std::to_string(weights_.n_written_out()) + " pruned matrices are written out on the device, whose kernels read whole tiles: they take the memory and the time of dense ones");
}

void ModelBuilder::count_reads(const RopeDevice& d) {
    for (int v : {d.q, d.k, d.v}) reads(v, false);
}

std::vector<MatrixDevice> matrices_of(const DeviceOp& op) {
    if (const auto* linear = std::get_if<LinearDevice>(&op.detail)) return linear->matrices;
    std::vector<MatrixDevice> matrices;
    if (const auto* experts = std::get_if<ExpertsDevice>(&op.detail))
        for (std::int64_t e = 0; e < experts->n_experts; ++e)
            for (const GpuWeight& all : {experts->gate_up, experts->down}) matrices.push_back({part_of(all, e, experts->n_experts), nullptr, 0});
    return matrices;
}

std::string missing_on_device(const ModelSpec& spec, const Table& table) {
    const auto sentence = [](const Op& op, const std::string& what) {
        return "operator " + std::string(op_kind_name(op.detail)) + " (" + op.name + what + ") of this model has no CUDA row; run with --device cpu";
    };
    for (const Block& block : spec.blocks)
        for (const Op& op : block.ops) {
            if (const auto* linear = std::get_if<LinearOp>(&op.detail); linear != nullptr && linear->transform.kind == InputTransform::Kind::hadamard) return sentence(op, " with a Hadamard transform of its input");
            if (const auto* attention = std::get_if<AttentionOp>(&op.detail); attention != nullptr && !table.attention_takes(attention->head_dim, StateForm::bf16))
                return sentence(op, " with heads of " + std::to_string(attention->head_dim));
        }
    return {};
}

Result<DeviceModel> build_device_model(const ModelSpec& spec, const WeightSource& weights, Device& device, const DeviceModelOptions& options) {
    if (const std::string missing = missing_on_device(spec, device.table()); !missing.empty()) return unsupported(missing);
    return ModelBuilder(spec, weights, device, options).build();
}

}  // namespace skiff::cuda
