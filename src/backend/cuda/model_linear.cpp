// Matrices of a device model: which of them are one product, what the product does besides.
#include "backend/cuda/model_builder.h"

namespace skiff::cuda {

Result<int> ModelBuilder::transformed(std::size_t i, const InputTransform& transform) {
    const int x = items_[i].in[0];
    if (transform.kind == InputTransform::Kind::none || scaled_.count(x)) return x;
    if (transform.kind == InputTransform::Kind::hadamard) return unsupported("Hadamard input transforms have no CUDA row; run with --device cpu");
    for (const auto& [known_x, known, target] : transformed_)
        if (known_x == x && *known == transform) return target;
    SKIFF_TRY(const auto numbers, weights_.numbers(transform.data, width(x)));
    ElementDevice element;
    element.a = x;
    if (transform.kind == InputTransform::Kind::scale) {
        element.kind = ElementKind::column_scale;
        SKIFF_TRY(element.columns, weights_.vector(numbers));
    } else {
        element.kind = ElementKind::permute;
        std::vector<std::int32_t> order;
        for (float index : numbers) {
            if (!(index >= 0 && index < static_cast<float>(width(x)))) return corrupt("tensor " + transform.data.key + ": a permutation entry is out of range");
            order.push_back(static_cast<std::int32_t>(index));
        }
        SKIFF_TRY(element.order, device_.upload_new(order, "a permutation"));
    }
    element.out = new_value(items_[i].op->name + ".input", width(x));
    push("input of " + items_[i].op->name, element);
    transformed_.push_back({x, &transform, element.out});
    return element.out;
}

WeightRows ModelBuilder::rows_of(std::size_t i) const {
    const auto& linear = std::get<LinearOp>(items_[i].op->detail);
    return {linear.terms[0].weight, width(items_[i].op->out), width(items_[i].in[0])};
}

Status ModelBuilder::add(std::size_t i, const LinearOp&) {
    if (const auto gate = gates_.find(i); gate != gates_.end()) {
        SKIFF_TRY(const bool done, add_gate(gate->second));
        if (done) return {};
    }
    std::vector<std::size_t> group = {i};
    bool simple = is_simple(i);
    if (fuse() && is_linear(i))
        for (std::size_t j = i + 1; j < items_.size() && is_linear(j) && !items_[j].done && gated_.count(j) == gated_.count(i) && same_terms(i, j) && share_input(i, j); ++j) {
            group.push_back(j);
            simple = simple && is_simple(j);
        }
    if (group.size() > 1 && simple) return add_merged(group);
    if (group.size() > 1 && !aside_fits(group)) group = {i};
    return add_terms(group);
}

Result<bool> ModelBuilder::add_gate(const Gate& gate) {
    SKIFF_TRY(const auto weights, weights_.matrices({rows_of(gate.gate), rows_of(gate.up)}, Interleave::gate_up));
    if (weights.empty()) return false;  // of different schemes
    LinearDevice linear;
    SKIFF_TRY(linear.x, transformed(gate.gate, std::get<LinearOp>(items_[gate.gate].op->detail).transform));
    SKIFF_TRY(auto gate_bias, bias_of(gate.gate));
    SKIFF_TRY(auto up_bias, bias_of(gate.up));
    const float* bias = nullptr;
    if (!gate_bias.empty() || !up_bias.empty()) {
        gate_bias.resize(static_cast<std::size_t>(width(items_[gate.gate].op->out)));
        up_bias.resize(gate_bias.size());
        SKIFF_TRY(bias, weights_.vector(pair_bias(gate_bias, up_bias)));
    }
    linear.matrices = {{weights[0], bias, 0}};
    linear.write = GemvWrite::gate;
    linear.activation = std::get<ActivationOp>(items_[gate.activation].op->detail).kind;
    linear.out = items_[gate.multiply].op->out;
    count(weights[0]);
    for (std::size_t i : {gate.gate, gate.up, gate.activation, gate.multiply}) items_[i].done = true;
    push(items_[gate.gate].op->name + " + " + items_[gate.up].op->name + " + " + items_[gate.activation].op->name + " + " + items_[gate.multiply].op->name, linear);
    return true;
}

Status ModelBuilder::add_merged(const std::vector<std::size_t>& group) {
    std::vector<WeightRows> parts;
    std::vector<float> biases;
    bool any_bias = false;
    std::string name;
    std::int64_t total = 0;
    for (std::size_t i : group) {
        parts.push_back(rows_of(i));
        SKIFF_TRY(auto bias, bias_of(i));
        any_bias |= !bias.empty();
        bias.resize(static_cast<std::size_t>(width(items_[i].op->out)));
        biases.insert(biases.end(), bias.begin(), bias.end());
        name += (name.empty() ? "" : " + ") + items_[i].op->name;
        total += width(items_[i].op->out);
        items_[i].done = true;
    }
    LinearDevice linear;
    SKIFF_TRY(linear.x, transformed(group[0], std::get<LinearOp>(items_[group[0]].op->detail).transform));
    SKIFF_TRY(const auto weights, weights_.matrices(parts));
    linear.out = new_value(name, total);
    std::int64_t offset = 0;
    for (std::size_t i : group) {
        DeviceValue& member = value(items_[i].op->out);
        member.parent = linear.out;
        member.offset = offset;
        offset += member.width;
    }
    offset = 0;
    for (const GpuWeight& weight : weights) {
        const float* bias = nullptr;
        if (any_bias) {
            SKIFF_TRY(bias, weights_.vector({biases.begin() + offset, biases.begin() + offset + weight.n_rows}));
        }
        linear.matrices.push_back({weight, bias, offset});
        offset += weight.n_rows;
        count(weight);
    }
    push(name, linear);
    return {};
}

ModelBuilder::Tail ModelBuilder::tail_of(int out, bool may_scale) {
    Tail tail;
    tail.out = out;
    if (!fuse()) return tail;
    int reader = -1;
    const auto take = [&] {
        Item& item = items_[static_cast<std::size_t>(reader)];
        item.done = true;
        tail.out = item.op->out;
        tail.name += " + " + item.op->name;
    };
    if (const auto* activation = reader_as<ActivationOp>(tail.out, reader); activation != nullptr && may_scale && all_multiply(items_[static_cast<std::size_t>(reader)].op->out)) {
        tail.activation = activation;
        take();
        return tail;
    }
    if (const auto* scale = reader_as<ScaleOp>(tail.out, reader); scale != nullptr && may_scale) {
        tail.factor = scale->factor;
        take();
    }
    if (const auto* softcap = reader_as<SoftcapOp>(tail.out, reader); softcap != nullptr && may_scale) {
        tail.softcap = softcap->cap;
        take();
        return tail;
    }
    if (reader_as<AddOp>(tail.out, reader) != nullptr) {
        const Item& sum = items_[static_cast<std::size_t>(reader)];
        const int other = sum.in[0] == tail.out ? sum.in[1] : sum.in[0];
        const bool alone = other != tail.out && other != model_.output && value(other).parent < 0 && (other == model_.input || made(other));
        bool last = alone;
        if (alone)
            for (std::size_t r : readers_[static_cast<std::size_t>(other)]) last = last && (static_cast<int>(r) == reader || (r < items_.size() && r != select_at_ && items_[r].done));
        if (last && other != select_in_) {
            tail.adds_to = other;
            take();
        }
    }
    return tail;
}

bool ModelBuilder::made(int v) const {
    const auto found = producer_.find(v);
    return v == select_out_ || (found != producer_.end() && items_[found->second].done);
}

}  // namespace skiff::cuda
