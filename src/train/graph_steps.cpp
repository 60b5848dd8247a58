#include "train/graph_steps.h"

#include <map>
#include <mutex>

#include <ATen/Parallel.h>

namespace skiff::train {
namespace {

// Rope tables of the last lengths and settings; every layer of a model asks for the same one.
Rotation rotation_of(const RopeOp& op, std::int64_t n_tokens, at::Device device) {
    const std::vector<float>& inv_freq = op.long_above > 0 && n_tokens > op.long_above && !op.long_inv_freq.empty() ? op.long_inv_freq : op.inv_freq;
    struct Entry {
        std::vector<float> inv_freq;
        float magnitude;
        RopeStyle style;
        std::int64_t n_tokens;
        at::Device device;
        Rotation rotation;
    };
    static std::mutex mutex;
    static std::vector<Entry> entries;
    const std::lock_guard lock(mutex);
    for (const Entry& entry : entries)
        if (entry.n_tokens == n_tokens && entry.magnitude == op.magnitude && entry.style == op.style && entry.device == device && entry.inv_freq == inv_freq)
            return entry.rotation;
    if (entries.size() >= 16) entries.erase(entries.begin());
    entries.push_back({inv_freq, op.magnitude, op.style, n_tokens, device, make_rotation(inv_freq, op.magnitude, op.style, n_tokens, device)});
    return entries.back().rotation;
}

at::Tensor element(const ActivationOp& op, const at::Tensor& a, const at::Tensor&) { return activate(a, op.kind); }
at::Tensor element(const MultiplyOp&, const at::Tensor& a, const at::Tensor& b) { return a * b; }
at::Tensor element(const AddOp&, const at::Tensor& a, const at::Tensor& b) { return a + b; }
at::Tensor element(const ScaleOp& op, const at::Tensor& a, const at::Tensor&) { return a * op.factor; }
at::Tensor element(const SoftcapOp& op, const at::Tensor& a, const at::Tensor&) { return at::tanh(a / op.cap) * op.cap; }
at::Tensor element(const GateOp& op, const at::Tensor& a, const at::Tensor& weights) { return a * weights.narrow(1, op.column, 1).to(a.scalar_type()); }
template <class Other>
at::Tensor element(const Other&, const at::Tensor& a, const at::Tensor&) {
    return a;  // build_graph makes no ElementGraphStep of other operators
}

// What a linear operator multiplies with a weight.
at::Tensor as_read(const at::Tensor& x, const Parameter& weight) {
    if (weight.inputs == InputForm::floats) return x;
    return weight.inputs == InputForm::fixed ? weight.input_scale->rounded(x) : rounded_inputs(x, weight.inputs);
}

}  // namespace

at::Tensor Values::get(ValueId value) const {
    const Slice& slice = slices[static_cast<std::size_t>(value)];
    if (slice.column == 0 && slice.tensor.size(1) == slice.width) return slice.tensor;
    return slice.tensor.narrow(1, slice.column, slice.width);
}
void Values::set(ValueId value, at::Tensor tensor) {
    const std::int64_t width = tensor.size(1);
    slices[static_cast<std::size_t>(value)] = {std::move(tensor), 0, width};
}

void EmbedGraphStep::run(Values& values) const {
    const at::Tensor table = parameters->matrix(op.table);
    at::Tensor rows = values.tokens;
    if (op.index == EmbedOp::Index::position)
        rows = (at::arange(values.n_tokens, values.tokens.options()) + op.offset).repeat({values.tokens.size(0) / values.n_tokens});
    at::Tensor y = at::embedding(table, rows);
    if (op.scale != 1) y = y * op.scale;
    values.set(out, y);
}

void NormGraphStep::run(Values& values) const {
    at::Tensor weight = parameters->vector(op.weight);
    if (weight.defined() && op.weight_offset != 0) weight = weight + op.weight_offset;
    values.set(out, norm(values.get(in), weight, parameters->vector(op.bias), settings, form));
}

void LinearGraphStep::run(Values& values) const {
    std::vector<at::Tensor> weights, biases;
    for (const Part& part : parts) {
        weights.push_back(parameters->matrix(part.weight));
        if (!part.bias.empty()) biases.push_back(parameters->vector(part.bias));
    }
    const at::Tensor x = as_read(values.get(in).to(numbers), *parameters->find(parts[0].weight.key));
    const at::Tensor y = merged_linear(x, weights, biases, form);
    std::int64_t column = 0;
    for (const Part& part : parts) {
        values.slices[static_cast<std::size_t>(part.out)] = {y, column, part.width};
        column += part.width;
    }
}

void TermsGraphStep::run(Values& values) const {
    at::Tensor x = values.get(in);
    if (op.transform.kind == InputTransform::Kind::scale) x = x * parameters->vector(op.transform.data);
    if (op.transform.kind == InputTransform::Kind::permutation) x = x.index_select(1, parameters->vector(op.transform.data).detach().to(at::kLong));
    x = x.to(numbers);
    const Parameter& first = *parameters->find(op.terms[0].weight.key);
    at::Tensor y;
    for (const LinearTerm& term : op.terms) {
        const std::vector<at::Tensor> bias = y.defined() || op.bias.empty() ? std::vector<at::Tensor>() : std::vector{parameters->vector(op.bias)};
        // A fixed scale is the operator's. Of a factored weight the second factor reads what the first gives, by its own form.
        const bool factored = term.kind == LinearTerm::Kind::low_rank;
        const Parameter &weight = *parameters->find(term.weight.key), &reader = factored ? *parameters->find(term.down.key) : weight;
        at::Tensor source = as_read(x, reader.inputs != InputForm::floats && first.inputs == InputForm::fixed ? first : reader);
        if (factored) source = as_read(merged_linear(source, {parameters->matrix(term.down)}, {}, form), weight);
        const auto found = parameters->adapters().find(term.weight.key);
        const bool adapted = found != parameters->adapters().end(), masked = adapted && weight.mask.defined();
        at::Tensor part = merged_linear(source, {masked ? parameters->merged_matrix(term.weight) : parameters->matrix(term.weight)}, bias, form);
        if (adapted && !masked) {
            const Adapter& adapter = found->second;
            at::Tensor up = adapter.up;
            if (term.weight.rows.block != 0 && term.weight.rows.n_rows() != up.size(0)) {
                std::vector<std::int64_t> rows;
                for (std::int64_t i = 0; i < term.weight.rows.n_rows(); ++i) rows.push_back(term.weight.rows.at(i));
                up = up.index_select(0, at::tensor(rows).to(up.device()));
            }
            part = part + merged_linear(merged_linear(source, {adapter.down}, {}, form), {up}, {}, form) * adapter.scale;
        }
        y = y.defined() ? y + part : part;
    }
    values.set(out, y);
}

void RopeGraphStep::run(Values& values) const {
    const at::Tensor x = values.get(in).contiguous();
    values.set(out, rotate(x, rotation_of(op, values.n_tokens, x.device()), values.n_tokens, op.n_heads_unit));
}

void AttentionGraphStep::run(Values& values) const {
    const Slice& slice_q = values.slices[static_cast<std::size_t>(qkv[0])];
    const Slice& slice_k = values.slices[static_cast<std::size_t>(qkv[1])];
    const Slice& slice_v = values.slices[static_cast<std::size_t>(qkv[2])];
    AttentionSettings settings{op.n_heads, op.n_kv_heads, op.head_dim, values.n_tokens, op.window, op.scale, op.softcap, {}, {}};
    if (q_rope != nullptr) settings.q_rotation = rotation_of(*q_rope, values.n_tokens, slice_q.tensor.device());
    if (k_rope != nullptr) settings.k_rotation = rotation_of(*k_rope, values.n_tokens, slice_k.tensor.device());
    const bool merged = slice_q.tensor.is_same(slice_k.tensor) && slice_q.tensor.is_same(slice_v.tensor) && slice_q.column == 0 &&
                        slice_k.column == slice_q.width && slice_v.column == slice_k.column + slice_k.width &&
                        slice_v.column + slice_v.width == slice_q.tensor.size(1);
    const std::vector<at::Tensor> inputs = merged ? std::vector{slice_q.tensor} : std::vector{values.get(qkv[0]), values.get(qkv[1]), values.get(qkv[2])};
    values.set(out, attention(inputs, settings, form));
}

// Each tap is a product with the window's rows moved down by so many tokens; zeros come in at the window's beginning.
void CausalConvGraphStep::run(Values& values) const {
    const at::Tensor x = values.get(in);
    const std::int64_t n_columns = x.size(1);
    const at::Tensor windows = x.reshape({-1, values.n_tokens, n_columns}), taps = parameters->vector(op.weight).reshape({n_columns, op.kernel});
    at::Tensor y;
    for (std::int64_t back = 0; back < std::min(op.kernel, values.n_tokens); ++back) {
        const at::Tensor moved = back == 0 ? windows : at::constant_pad_nd(windows.narrow(1, 0, values.n_tokens - back), {0, 0, back, 0});
        const at::Tensor part = moved * taps.select(1, op.kernel - 1 - back);
        y = y.defined() ? y + part : part;
    }
    if (!op.bias.empty()) y = y + parameters->vector(op.bias);
    values.set(out, y.reshape({-1, n_columns}));
}

void GatedGraphStep::run(Values& values) const {
    const Slice& slice_gate = values.slices[static_cast<std::size_t>(gate)];
    const Slice& slice_up = values.slices[static_cast<std::size_t>(up)];
    if (slice_gate.tensor.is_same(slice_up.tensor))
        values.set(out, gated(slice_gate.tensor, {activation, slice_gate.width, slice_gate.column, slice_up.column}, form));
    else
        values.set(out, activate(values.get(gate), activation) * values.get(up));
}

void ElementGraphStep::run(Values& values) const {
    const at::Tensor a = values.get(in[0]), b = in.size() > 1 ? values.get(in[1]) : at::Tensor();
    values.set(out, std::visit([&](const auto& detail) { return element(detail, a, b); }, op));
}

void RouteGraphStep::run(Values& values) const {
    const at::Tensor logits = values.get(in).to(at::kFloat);
    if (op.rule == RouteOp::Rule::top_then_softmax) {
        const auto [chosen, index] = logits.topk(op.n_used, 1);
        values.set(out, at::zeros_like(logits).scatter(1, index, at::softmax(chosen, 1)));
        return;
    }
    auto [chosen, index] = at::softmax(logits, 1).topk(op.n_used, 1);
    if (op.normalize) chosen = chosen / chosen.sum(1, true);
    values.set(out, at::zeros_like(logits).scatter(1, index, chosen));
}

}  // namespace skiff::train
