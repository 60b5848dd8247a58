// Mixtures of experts of a device model: a router, and all experts' matrices in two.
#include <algorithm>

#include "backend/cuda/model_builder.h"

namespace skiff::cuda {

void ModelBuilder::find_mixtures() {
    if (!fuse()) return;
    for (std::size_t i = 0; i < items_.size(); ++i) {
        if (!std::holds_alternative<RouteOp>(items_[i].op->detail)) continue;
        if (auto mixture = mixture_of(i)) mixtures_.emplace(i, std::move(*mixture));
    }
}

// Nothing where the experts are not all of one form: a gate and its partner over the router's own input, a second matrix, the router's weight, a sum in their order.
std::optional<ModelBuilder::Mixture> ModelBuilder::mixture_of(std::size_t route) const {
    const int shares = items_[route].op->out;
    const auto n_experts = static_cast<std::size_t>(width(shares));
    const auto& detail = std::get<RouteOp>(items_[route].op->detail);
    const auto& readers = readers_[static_cast<std::size_t>(shares)];
    if (readers.size() != n_experts || width(shares) > max_routed_experts || detail.n_used > max_chosen_experts) return std::nullopt;
    const auto plain = [&](std::size_t i) {
        const auto* linear = std::get_if<LinearOp>(&items_[i].op->detail);
        return linear != nullptr && is_simple(i) && linear->bias.empty() && linear->transform.kind == InputTransform::Kind::none;
    };
    Mixture mixture;
    for (std::size_t e = 0; e < n_experts; ++e) {
        const std::size_t weighted = readers[e];
        const auto* gate = weighted < items_.size() ? std::get_if<GateOp>(&items_[weighted].op->detail) : nullptr;
        if (gate == nullptr || gate->column != static_cast<std::int64_t>(e) || items_[weighted].in[1] != shares || only_reader(items_[weighted].in[0]) < 0) return std::nullopt;
        const auto down = producer_.find(items_[weighted].in[0]);
        if (down == producer_.end() || !plain(down->second)) return std::nullopt;
        const int hidden = items_[down->second].in[0];
        const auto found = std::find_if(gates_.begin(), gates_.end(), [&](const auto& each) { return items_[each.second.multiply].op->out == hidden; });
        if (found == gates_.end() || only_reader(hidden) < 0 || !plain(found->second.gate) || !plain(found->second.up)) return std::nullopt;
        if (e > 0 && !share_input(found->second.gate, mixture.gates[0].gate)) return std::nullopt;
        mixture.gates.push_back(found->second);
        mixture.downs.push_back(down->second);
        mixture.rest.push_back(weighted);
        if (e == 0) {
            mixture.out = items_[weighted].op->out;
            continue;
        }
        const int reader = only_reader(mixture.out);
        if (reader < 0 || reader != only_reader(items_[weighted].op->out) || !std::holds_alternative<AddOp>(items_[static_cast<std::size_t>(reader)].op->detail)) return std::nullopt;
        mixture.rest.push_back(static_cast<std::size_t>(reader));
        mixture.out = items_[static_cast<std::size_t>(reader)].op->out;
    }
    return mixture;
}

// False where their schemes or sizes differ: then one after another.
Result<bool> ModelBuilder::add_mixture(std::size_t route, const Mixture& mixture) {
    std::vector<WeightRows> firsts, seconds;
    for (std::size_t e = 0; e < mixture.gates.size(); ++e) {
        for (const std::size_t i : {mixture.gates[e].gate, mixture.gates[e].up}) firsts.push_back(rows_of(i));
        seconds.push_back(rows_of(mixture.downs[e]));
        if (firsts.back().n_rows != firsts[0].n_rows || seconds.back().n_rows != seconds[0].n_rows || firsts.back().n_columns != firsts[0].n_columns || seconds.back().n_columns != seconds[0].n_columns) return false;
        const auto kind = [&](std::size_t i) { return std::get<ActivationOp>(items_[i].op->detail).kind; };
        if (kind(mixture.gates[e].activation) != kind(mixture.gates[0].activation)) return false;
    }
    if (firsts[0].n_rows == 0) return false;
    SKIFF_TRY(const bool merge_seconds, weights_.can_be_one(seconds));
    if (!merge_seconds) return false;
    SKIFF_TRY(const auto gate_up, weights_.matrices(firsts, Interleave::gate_up));
    if (gate_up.empty()) return false;
    SKIFF_TRY(const auto down, weights_.matrices(seconds, Interleave::tiles));
    const Op& op = *items_[route].op;
    ExpertsDevice experts;
    experts.x = items_[mixture.gates[0].gate].in[0];
    experts.logits = items_[route].in[0];
    experts.route = std::get<RouteOp>(op.detail);
    experts.n_experts = width(op.out);
    experts.gate_up = gate_up[0];
    experts.down = down[0];
    experts.activation = std::get<ActivationOp>(items_[mixture.gates[0].activation].op->detail).kind;
    experts.shares = op.out;
    experts.hidden = new_value(op.name + ".hidden", firsts[0].n_rows);
    experts.result = new_value(op.name + ".result", seconds[0].n_rows);
    for (const Gate& gate : mixture.gates)
        for (const std::size_t i : {gate.gate, gate.up, gate.activation, gate.multiply}) items_[i].done = true;
    for (const auto* all : {&mixture.downs, &mixture.rest})
        for (const std::size_t i : *all) items_[i].done = true;
    const Tail tail = tail_of(mixture.out, false);
    experts.adds_to = tail.adds_to;
    experts.out = tail.out;
    // Of what a token reads, the chosen ones' share.
    for (const GpuWeight& weight : {experts.gate_up, experts.down}) model_.decode_read_bytes += weights_.bytes_of(weight) * static_cast<std::uint64_t>(experts.route.n_used) / static_cast<std::uint64_t>(experts.n_experts);
    push(op.name + " + " + std::to_string(experts.n_experts) + " experts" + tail.name, experts);
    return true;
}

}  // namespace skiff::cuda
