// Embedding, norms, and what works element by element or row by row.
#include <algorithm>

#include "backend/cuda/model_builder.h"

namespace skiff::cuda {

Status ModelBuilder::add(std::size_t i, const EmbedOp& detail) {
    const Op& op = *items_[i].op;
    EmbedDevice embed;
    const auto declared = spec_.tensors.find(detail.table.key);
    if (declared == spec_.tensors.end()) return corrupt("tensor " + detail.table.key + " is not declared");
    const std::int64_t n_rows = spec_.shape(declared->second)[0];
    SKIFF_TRY(const auto tables, weights_.matrices({{detail.table, n_rows, width(op.out)}}));
    embed.table = tables[0];
    embed.index = detail.index;
    embed.offset = detail.offset;
    embed.scale = detail.scale;
    embed.out = op.out;
    if (detail.index == EmbedOp::Index::position) model_.max_positions = std::min(model_.max_positions, n_rows - detail.offset);
    model_.decode_read_bytes += weights_.bytes_of(embed.table) / static_cast<std::uint64_t>(std::max<std::int64_t>(1, n_rows));
    std::string name = op.name;
    int reader = -1;
    if (fuse() && reader_as<AddOp>(op.out, reader) != nullptr) {
        Item& sum = items_[static_cast<std::size_t>(reader)];
        const int other = sum.in[0] == op.out ? sum.in[1] : sum.in[0];
        const auto made = producer_.find(other);
        if (other != op.out && made != producer_.end() && items_[made->second].done && std::get_if<EmbedOp>(&items_[made->second].op->detail) && only_reader(other) == reader) {
            embed.adds_to = other;
            embed.out = sum.op->out;
            sum.done = true;
            name += " + " + sum.op->name;
        }
    }
    push(name, embed);
    return {};
}

Status ModelBuilder::add(std::size_t i, const NormOp& detail) {
    if (detail.group_width > 0 && belongs_to_attention(i)) {
        items_[i].done = false;  // the attention takes it
        return {};
    }
    NormDevice norm;
    norm.x = items_[i].in[0];
    std::string name = items_[i].op->name;
    SKIFF_TRY(const bool ends, add_behind(i, detail, norm, name));
    if (!ends) {
        SKIFF_CHECK(fill(norm, items_[i].op->out, detail));
        SKIFF_CHECK(add_second(i, detail, norm, name));
    }
    push(name, norm);
    return {};
}

// A norm behind a half of a layer, the sum with the residual stream, and the norm of that sum are one pass over a row.
Result<bool> ModelBuilder::add_behind(std::size_t i, const NormOp& detail, NormDevice& norm, std::string& name) {
    int reader = -1;
    if (!fuse() || detail.group_width > 0 || reader_as<AddOp>(items_[i].op->out, reader) == nullptr) return false;
    Item& sum = items_[static_cast<std::size_t>(reader)];
    const int other = sum.in[0] == items_[i].op->out ? sum.in[1] : sum.in[0];
    if (other == items_[i].op->out || !(other == model_.input || made(other)) || value(other).parent >= 0 || value(norm.x).parent >= 0) return false;
    const std::int64_t width_of = width(norm.x);
    NormDevice behind;
    SKIFF_CHECK(fill(behind, items_[i].op->out, detail));
    norm.behind = {NormLaunchArgs::Behind::Is::there, behind.kind, behind.eps, behind.weight, behind.bias};
    norm.residual = other;
    norm.sum = sum.op->out;
    norm.group_width = width_of;
    sum.done = true;
    name += " + " + sum.op->name;
    for (std::size_t r : readers_[static_cast<std::size_t>(norm.sum)]) {
        const auto* next = r < items_.size() && !items_[r].done && !items_[r].in.empty() ? std::get_if<NormOp>(&items_[r].op->detail) : nullptr;
        if (next == nullptr || next->group_width > 0 || items_[r].in[0] != norm.sum) continue;
        SKIFF_CHECK(fill(norm, items_[r].op->out, *next));
        items_[r].done = true;
        name += " + " + items_[r].op->name;
        break;
    }
    return true;
}

// Halves of a layer side by side have norms of the same numbers.
Status ModelBuilder::add_second(std::size_t i, const NormOp& detail, NormDevice& norm, std::string& name) {
    if (!fuse() || detail.group_width > 0) return {};
    for (std::size_t r : readers_[static_cast<std::size_t>(norm.x)]) {
        const auto* other = r != i && r < items_.size() && !items_[r].done && !items_[r].in.empty() ? std::get_if<NormOp>(&items_[r].op->detail) : nullptr;
        if (other == nullptr || other->group_width > 0 || other->kind != detail.kind || other->eps != detail.eps || items_[r].in[0] != norm.x || !all_multiply(items_[r].op->out)) continue;
        NormDevice second;
        SKIFF_CHECK(fill(second, items_[r].op->out, *other));
        norm.second_weight = second.weight;
        norm.second_bias = second.bias;
        norm.second_out = second.out;
        items_[r].done = true;
        name += " + " + items_[r].op->name;
        return {};
    }
    return {};
}

Status ModelBuilder::fill(NormDevice& norm, int out, const NormOp& detail) {
    const std::int64_t group = detail.group_width > 0 ? detail.group_width : width(out);
    SKIFF_TRY(auto weight, weights_.numbers(detail.weight, group, detail.weight_offset));
    SKIFF_TRY(auto bias, weights_.numbers(detail.bias, group));
    if (detail.group_width == 0) SKIFF_CHECK(fold_input_scale(out, weight, bias));
    SKIFF_TRY(norm.weight, weights_.vector(weight));
    SKIFF_TRY(norm.bias, weights_.vector(bias));
    norm.kind = detail.kind;
    norm.eps = detail.eps;
    norm.group_width = group;
    norm.out = out;
    return {};
}

Status ModelBuilder::fold_input_scale(int out, std::vector<float>& weight, std::vector<float>& bias) {
    if (!fuse() || out == model_.output || out == select_in_) return {};
    const InputTransform* shared = nullptr;
    for (std::size_t reader : readers_[static_cast<std::size_t>(out)]) {
        if (reader >= items_.size()) return {};
        const auto* linear = std::get_if<LinearOp>(&items_[reader].op->detail);
        if (linear == nullptr || linear->transform.kind != InputTransform::Kind::scale || (shared != nullptr && !(*shared == linear->transform))) return {};
        shared = &linear->transform;
    }
    if (shared == nullptr) return {};
    SKIFF_TRY(const auto scale, weights_.numbers(shared->data, width(out)));
    if (weight.empty()) weight.assign(scale.size(), 1.0f);
    for (std::size_t c = 0; c < scale.size(); ++c) weight[c] *= scale[c];
    for (std::size_t c = 0; c < bias.size(); ++c) bias[c] *= scale[c];
    scaled_.insert(out);
    return {};
}

Status ModelBuilder::element(std::size_t i, ElementKind kind, float factor, Activation activation) {
    ElementDevice element;
    element.kind = kind;
    element.a = items_[i].in[0];
    element.b = items_[i].in.size() > 1 ? items_[i].in[1] : -1;
    element.factor = factor;
    element.activation = activation;
    element.out = items_[i].op->out;
    push(items_[i].op->name, element);
    return {};
}

Status ModelBuilder::add(std::size_t i, const ActivationOp& detail) {
    int reader = -1;
    if (fuse() && reader_as<MultiplyOp>(items_[i].op->out, reader) != nullptr) {
        Item& product = items_[static_cast<std::size_t>(reader)];
        const int other = product.in[0] == items_[i].op->out ? product.in[1] : product.in[0];
        if (other != items_[i].op->out && made(other)) {
            ElementDevice both;
            both.kind = ElementKind::activate_mul;
            both.a = items_[i].in[0];
            both.b = other;
            both.activation = detail.kind;
            both.out = product.op->out;
            product.done = true;
            push(items_[i].op->name + " + " + product.op->name, both);
            return {};
        }
    }
    return element(i, ElementKind::activation, 1, detail.kind);
}

Status ModelBuilder::add(std::size_t i, const AddOp&) {
    // A norm of the sum is done in the same pass over it.
    const int out = items_[i].op->out;
    for (std::size_t r : readers_[static_cast<std::size_t>(out)]) {
        if (!fuse() || r >= items_.size() || items_[r].done || items_[r].in.empty() || items_[r].in[0] != out) continue;
        const auto* norm = std::get_if<NormOp>(&items_[r].op->detail);
        if (norm == nullptr || norm->group_width > 0) continue;
        NormDevice both;
        both.residual = items_[i].in[0];
        both.x = items_[i].in[1];
        both.sum = out;
        SKIFF_CHECK(fill(both, items_[r].op->out, *norm));
        items_[r].done = true;
        push(items_[i].op->name + " + " + items_[r].op->name, both);
        return {};
    }
    return element(i, ElementKind::add);
}

Status ModelBuilder::add(std::size_t i, const RouteOp& detail) {
    const std::int64_t n_experts = width(items_[i].op->out);
    if (detail.n_used < 1 || detail.n_used > n_experts) return corrupt("experts used per token: " + std::to_string(detail.n_used) + " of " + std::to_string(n_experts));
    if (const auto mixture = mixtures_.find(i); mixture != mixtures_.end()) {
        SKIFF_TRY(const bool done, add_mixture(i, mixture->second));
        if (done) return {};
    }
    push(items_[i].op->name, RouteDevice{detail, items_[i].in[0], items_[i].op->out});
    return {};
}

Status ModelBuilder::add(std::size_t i, const GateOp& detail) {
    ElementDevice gate;
    gate.kind = ElementKind::gate;
    gate.a = items_[i].in[0];
    gate.b = items_[i].in[1];
    gate.b_column = detail.column;
    gate.out = items_[i].op->out;
    push(items_[i].op->name, gate);
    return {};
}

Status ModelBuilder::add(std::size_t i, const MultiplyOp&) {
    int reader = -1;
    if (!fuse() || reader_as<CausalConvOp>(items_[i].op->out, reader) == nullptr) return element(i, ElementKind::multiply);
    items_[static_cast<std::size_t>(reader)].done = true;
    return add_conv(static_cast<std::size_t>(reader), items_[i].in[0], items_[i].in[1], items_[i].op->name + " + ");
}

Status ModelBuilder::add_conv(std::size_t i, int x, int gate_in, std::string name) {
    const auto& detail = std::get<CausalConvOp>(items_[i].op->detail);
    ConvDevice conv;
    const std::int64_t n_columns = width(items_[i].op->out);
    SKIFF_TRY(const auto weight, weights_.numbers(detail.weight, n_columns * detail.kernel));
    std::vector<float> taps(weight.size());
    for (std::int64_t c = 0; c < n_columns; ++c)
        for (std::int64_t j = 0; j < detail.kernel; ++j) taps[static_cast<std::size_t>(j * n_columns + c)] = weight[static_cast<std::size_t>(c * detail.kernel + j)];
    SKIFF_TRY(const auto bias, weights_.numbers(detail.bias, n_columns));
    SKIFF_TRY(conv.taps, weights_.vector(taps));
    SKIFF_TRY(conv.bias, weights_.vector(bias));
    conv.n_taps = detail.kernel;
    conv.x = x;
    conv.gate_in = gate_in;
    conv.out = items_[i].op->out;
    conv.state = static_cast<int>(model_.states.size());
    model_.states.push_back({detail.state, items_[i].op->name, 0, 0, 0});
    name += items_[i].op->name;
    int reader = -1;
    if (fuse() && reader_as<MultiplyOp>(conv.out, reader) != nullptr) {
        Item& product = items_[static_cast<std::size_t>(reader)];
        const int other = product.in[0] == conv.out ? product.in[1] : product.in[0];
        if (other != conv.out && made(other)) {
            conv.gate_out = other;
            conv.out = product.op->out;
            product.done = true;
            name += " + " + product.op->name;
        }
    }
    push(name, conv);
    return {};
}

}  // namespace skiff::cuda
