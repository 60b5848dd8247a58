#include "backend/cuda/device_model.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "backend/cuda/device_weights.h"

namespace skiff::cuda {
namespace {

struct Item {
    const Op* op = nullptr;
    std::vector<int> in;  // values, those behind the selection of rows where it stands in the head
    bool done = false;
};

// q or k on its way into the attention: perhaps a norm of heads, perhaps a rotation.
struct HeadChain {
    int value = -1;  // where it begins
    const NormOp* norm = nullptr;
    const RopeOp* rope = nullptr;
    std::vector<std::size_t> items;
};

class ModelBuilder {
public:
    ModelBuilder(const ModelSpec& spec, const WeightSource& source, Device& device, const DeviceModelOptions& options)
        : spec_(spec), options_(options), device_(device), weights_(spec, source, device, options.pool) {}

    Result<DeviceModel> build() {
        SKIFF_CHECK(flatten());
        find_readers();
        find_gates();
        for (std::size_t i = 0; i < items_.size(); ++i) {
            if (select_at_ == i) push("select", SelectDevice{select_in_, select_out_});
            if (items_[i].done) continue;
            items_[i].done = true;
            Status status = std::visit([&](const auto& detail) { return add(i, detail); }, items_[i].op->detail);
            if (!status.ok()) return status.take_error().with_context(items_[i].op->name);
            if (options_.progress && block_ends_.count(i)) options_.progress({"load", block_ends_.at(i), i + 1, items_.size()});
            if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted while loading", {}};
        }
        finish();
        return std::move(model_);
    }

private:
    bool fuse() const { return options_.fuse == DeviceModelOptions::Fuse::on; }
    DeviceValue& value(int v) { return model_.values[static_cast<std::size_t>(v)]; }
    std::int64_t width(int v) const { return model_.values[static_cast<std::size_t>(v)].width; }
    int new_value(const std::string& name, std::int64_t width_of) {
        model_.values.push_back({name, width_of});
        return static_cast<int>(model_.values.size()) - 1;
    }
    template <class Detail>
    void push(std::string name, Detail detail) {
        model_.ops.push_back({std::move(name), std::move(detail)});
    }

    Status flatten() {
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
                Item item{&op, {op.in.begin(), op.in.end()}};
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

    void find_readers() {
        readers_.resize(model_.values.size());
        for (std::size_t i = 0; i < items_.size(); ++i)
            for (int in : items_[i].in) readers_[static_cast<std::size_t>(in)].push_back(i);
        if (select_in_ >= 0) readers_[static_cast<std::size_t>(select_in_)].push_back(select_at_);
        for (std::size_t i = 0; i < items_.size(); ++i) producer_[items_[i].op->out] = i;
    }
    // The one operator that reads it, if it does nothing but that; else -1.
    int only_reader(int v) const {
        const auto& readers = readers_[static_cast<std::size_t>(v)];
        if (v == model_.output || readers.size() != 1) return -1;
        return v == select_in_ ? -1 : static_cast<int>(readers[0]);
    }
    template <class Detail>
    const Detail* reader_as(int v, int& reader) const {
        reader = only_reader(v);
        return reader < 0 ? nullptr : std::get_if<Detail>(&items_[static_cast<std::size_t>(reader)].op->detail);
    }
    bool is_simple(std::size_t i) const {
        const auto* linear = std::get_if<LinearOp>(&items_[i].op->detail);
        return linear != nullptr && linear->terms.size() == 1 && linear->terms[0].kind == LinearTerm::Kind::packed;
    }
    bool share_input(std::size_t a, std::size_t b) const {
        return items_[a].in[0] == items_[b].in[0] && std::get<LinearOp>(items_[a].op->detail).transform == std::get<LinearOp>(items_[b].op->detail).transform;
    }

    // Whether a value is wanted as the operand of matrices and never as floats: a gated product leaves nothing else.
    bool all_multiply(int v) const {
        if (v == model_.output || v == select_in_) return false;
        const auto& readers = readers_[static_cast<std::size_t>(v)];
        return std::all_of(readers.begin(), readers.end(), [&](std::size_t reader) {
            const auto* linear = reader < items_.size() ? std::get_if<LinearOp>(&items_[reader].op->detail) : nullptr;
            return linear != nullptr && linear->transform.kind == InputTransform::Kind::none;
        });
    }

    // multiply(activation(gate x), up x)
    struct Gate {
        std::size_t gate, up, activation, multiply;
    };
    void find_gates() {
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

    // ---- embedding
    Status add(std::size_t i, const EmbedOp& detail) {
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

    // ---- norms
    Status add(std::size_t i, const NormOp& detail) {
        if (detail.group_width > 0 && belongs_to_attention(i)) {
            items_[i].done = false;  // the attention takes it
            return {};
        }
        NormDevice norm;
        norm.x = items_[i].in[0];
        SKIFF_CHECK(fill(norm, items_[i].op->out, detail));
        push(items_[i].op->name, norm);
        return {};
    }
    Status fill(NormDevice& norm, int out, const NormOp& detail) {
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
    // A scale of the input (AWQ, Lin et al. 2024) that all readers of a norm share is part of the norm.
    Status fold_input_scale(int out, std::vector<float>& weight, std::vector<float>& bias) {
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

    // ---- linear
    Result<int> transformed(std::size_t i, const InputTransform& transform) {
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
    WeightRows rows_of(std::size_t i) const {
        const auto& linear = std::get<LinearOp>(items_[i].op->detail);
        return {linear.terms[0].weight, width(items_[i].op->out), width(items_[i].in[0])};
    }
    Result<std::vector<float>> bias_of(std::size_t i) { return weights_.numbers(std::get<LinearOp>(items_[i].op->detail).bias, width(items_[i].op->out)); }
    void count(const GpuWeight& weight) { model_.decode_read_bytes += weights_.bytes_of(weight); }

    Status add(std::size_t i, const LinearOp& detail) {
        if (const auto gate = gates_.find(i); gate != gates_.end()) {
            SKIFF_TRY(const bool done, add_gate(gate->second));
            if (done) return {};
        }
        std::vector<std::size_t> group = {i};
        if (fuse() && is_simple(i) && !items_[i].in.empty())
            for (std::size_t j = i + 1; j < items_.size() && is_simple(j) && !items_[j].done && gated_.count(j) == gated_.count(i) && share_input(i, j); ++j) group.push_back(j);
        if (group.size() > 1) return add_merged(group);
        return add_single(i, detail);
    }

    Result<bool> add_gate(const Gate& gate) {
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

    // Matrices with one input: one product where their schemes allow it, and always one buffer.
    Status add_merged(const std::vector<std::size_t>& group) {
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

    // What stands behind a product and is done by it: a factor, a soft cap, the addition to the residual stream.
    struct Tail {
        float factor = 1, softcap = 0;
        int adds_to = -1, out = -1;
        std::string name;
    };
    Tail tail_of(int out, bool may_scale) {
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
    bool made(int v) const {
        const auto found = producer_.find(v);
        return v == select_out_ || (found != producer_.end() && items_[found->second].done);
    }

    // LinearOp::input_scale, the fixed range of 8-bit codes of the input, has no use here: no kernel codes its input in 8 bits. Up to eight tokens are multiplied with 16
    // significant bits, more with the eight of bf16, which have no range to fix; the sums are those of unrounded inputs, not those that the codes would give.
    Status add_single(std::size_t i, const LinearOp& detail) {
        const Op& op = *items_[i].op;
        SKIFF_TRY(const int x, transformed(i, detail.transform));
        const std::int64_t n_in = width(items_[i].in[0]), n_out = width(op.out);
        SKIFF_TRY(const auto bias_numbers, bias_of(i));
        SKIFF_TRY(const float* bias, weights_.vector(bias_numbers));
        if (detail.terms.empty()) return corrupt("a linear operator without terms");
        const Tail tail = tail_of(op.out, detail.terms.size() == 1);
        int sum = tail.adds_to;
        for (std::size_t t = 0; t < detail.terms.size(); ++t) {
            const LinearTerm& term = detail.terms[t];
            LinearDevice linear;
            linear.x = x;
            std::int64_t n_source = n_in;
            if (term.kind == LinearTerm::Kind::low_rank) {
                const auto declared = spec_.tensors.find(term.down.key);
                if (declared == spec_.tensors.end()) return corrupt("tensor " + term.down.key + " is not declared");
                n_source = spec_.shape(declared->second)[0];
                LinearDevice down;
                down.x = x;
                SKIFF_TRY(const auto weight, weights_.matrices({{term.down, n_source, n_in}}));
                down.matrices = {{weight[0], nullptr, 0}};
                down.out = linear.x = new_value(op.name + ".rank", n_source);
                count(weight[0]);
                push("down of " + op.name, down);
            }
            SKIFF_TRY(const auto weight, weights_.matrices({{term.weight, n_out, n_source}}));
            linear.matrices = {{weight[0], t == 0 ? bias : nullptr, 0}};
            count(weight[0]);
            linear.write = sum >= 0 ? GemvWrite::add : GemvWrite::replace;
            linear.adds_to = sum;
            linear.factor = tail.factor;
            linear.softcap = tail.softcap;
            const bool last = t + 1 == detail.terms.size();
            linear.out = last ? tail.out : new_value(op.name + ".part", n_out);
            sum = linear.out;
            push(op.name + (last ? tail.name : ""), linear);
        }
        return {};
    }

    // ---- attention
    bool belongs_to_attention(std::size_t i) const {
        if (!fuse()) return false;
        int v = items_[i].op->out, reader = only_reader(v);
        if (reader >= 0 && std::get_if<RopeOp>(&items_[static_cast<std::size_t>(reader)].op->detail)) {
            v = items_[static_cast<std::size_t>(reader)].op->out;
            reader = only_reader(v);
        }
        if (reader < 0) return false;
        const Item& item = items_[static_cast<std::size_t>(reader)];
        const auto* attention = std::get_if<AttentionOp>(&item.op->detail);
        if (attention == nullptr || (item.in[0] != v && item.in[1] != v) || item.in[2] == v) return false;
        const auto* norm = std::get_if<NormOp>(&items_[i].op->detail);
        return norm == nullptr || (norm->kind == NormKind::rms && norm->bias.empty() && norm->group_width == attention->head_dim);
    }
    Status add(std::size_t i, const RopeOp& detail) {
        if (belongs_to_attention(i)) {
            items_[i].done = false;
            return {};
        }
        // A rotation of its own: in place where nobody else reads what it rotates.
        RopeDevice rope;
        rope.q = items_[i].in[0];
        rope.head_dim = detail.n_heads_unit;
        rope.n_heads = width(rope.q) / rope.head_dim;
        rope.q_out = items_[i].op->out;
        if (only_reader(rope.q) < 0) return unsupported("operator rope over a value that others read too has no CUDA row; run with --device cpu");
        SKIFF_CHECK(rotate(rope, detail));
        keep_place(rope.q_out, rope.q);
        push(items_[i].op->name, rope);
        return {};
    }
    Status rotate(RopeDevice& rope, const RopeOp& detail) {
        const auto& table = !detail.long_inv_freq.empty() && options_.capacity > detail.long_above ? detail.long_inv_freq : detail.inv_freq;
        SKIFF_TRY(rope.inv_freq, weights_.vector(table));
        rope.rotary_dim = 2 * static_cast<std::int64_t>(table.size());
        rope.magnitude = detail.magnitude;
        rope.style = detail.style;
        return {};
    }
    // The value becomes what stands in the place of another, which nobody reads any more.
    void keep_place(int out, int in) {
        value(out).parent = value(in).parent >= 0 ? value(in).parent : in;
        value(out).offset = value(in).parent >= 0 ? value(in).offset : 0;
    }

    HeadChain chain_of(int v) const {
        HeadChain chain;
        chain.value = v;
        for (int step = 0; step < 2; ++step) {
            const auto found = producer_.find(chain.value);
            if (found == producer_.end() || items_[found->second].done || only_reader(chain.value) < 0) break;
            const OpDetail& detail = items_[found->second].op->detail;
            if (const auto* rope = std::get_if<RopeOp>(&detail); rope != nullptr && step == 0) chain.rope = rope;
            else if (const auto* norm = std::get_if<NormOp>(&detail); norm != nullptr) chain.norm = norm;
            else break;
            chain.items.push_back(found->second);
            chain.value = items_[found->second].in[0];
            if (chain.norm != nullptr) break;
        }
        return chain;
    }
    Result<const float*> head_norm(const NormOp* norm, std::int64_t head_dim) {
        if (norm == nullptr) return static_cast<const float*>(nullptr);
        SKIFF_TRY(auto weight, weights_.numbers(norm->weight, head_dim, norm->weight_offset));
        if (weight.empty()) weight.assign(static_cast<std::size_t>(head_dim), 1.0f);
        return weights_.vector(weight);
    }

    Status add(std::size_t i, const AttentionOp& detail) {
        const Op& op = *items_[i].op;
        const int state = static_cast<int>(model_.states.size());
        model_.states.push_back({detail.state, op.name, detail.n_heads, detail.n_kv_heads, detail.head_dim});
        HeadChain q = chain_of(items_[i].in[0]), k = chain_of(items_[i].in[1]);
        const int v = items_[i].in[2];
        for (const HeadChain* chain : {&q, &k})
            for (std::size_t item : chain->items) items_[item].done = true;
        const auto part = [&](const HeadChain& chain) -> Result<RopeDevice> {
            RopeDevice rope;
            rope.head_dim = detail.head_dim;
            if (chain.rope != nullptr) SKIFF_CHECK(rotate(rope, *chain.rope));
            return rope;
        };
        const auto same_rope = [](const RopeOp* a, const RopeOp* b) { return a == b || (a != nullptr && b != nullptr && a->inv_freq == b->inv_freq && a->long_inv_freq == b->long_inv_freq &&
                                                                                       a->long_above == b->long_above && a->magnitude == b->magnitude && a->style == b->style); };
        const bool together = fuse() && same_rope(q.rope, k.rope) && (q.norm == nullptr || k.norm == nullptr || q.norm->eps == k.norm->eps) &&
                              model_.root(q.value) == model_.root(k.value) && model_.root(k.value) == model_.root(v);
        const bool q_changes = q.rope != nullptr || q.norm != nullptr;
        const auto fill_q = [&](RopeDevice& rope) -> Status {
            SKIFF_TRY(rope.q_norm, head_norm(q.norm, detail.head_dim));
            if (q.norm != nullptr) rope.norm_eps = q.norm->eps;
            rope.q = q.value;
            rope.n_heads = detail.n_heads;
            rope.q_out = items_[i].in[0];
            if (rope.q_out != rope.q) keep_place(rope.q_out, rope.q);
            return {};
        };
        const auto fill_k = [&](RopeDevice& rope) -> Status {
            SKIFF_TRY(rope.k_norm, head_norm(k.norm, detail.head_dim));
            if (k.norm != nullptr) rope.norm_eps = k.norm->eps;
            rope.k = k.value;
            rope.state = state;
            return {};
        };
        if (together) {
            SKIFF_TRY(auto rope, part(k));
            if (q_changes) SKIFF_CHECK(fill_q(rope));
            SKIFF_CHECK(fill_k(rope));
            rope.v = v;
            push("rotate and keep " + op.name, rope);
        } else {
            if (q_changes) {
                SKIFF_TRY(auto rope, part(q));
                SKIFF_CHECK(fill_q(rope));
                push("rotate q of " + op.name, rope);
            }
            SKIFF_TRY(auto keys, part(k));
            SKIFF_CHECK(fill_k(keys));
            push("rotate and keep k of " + op.name, keys);
            RopeDevice values;
            values.head_dim = detail.head_dim;
            values.v = v;
            values.state = state;
            push("keep v of " + op.name, values);
        }
        push(op.name, AttentionDevice{items_[i].in[0], state, detail, op.out});
        return {};
    }

    // ---- element by element
    Status element(std::size_t i, ElementKind kind, float factor = 1, Activation activation = Activation::silu) {
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
    Status add(std::size_t i, const ActivationOp& detail) {
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
    Status add(std::size_t i, const MultiplyOp&) { return element(i, ElementKind::multiply); }
    Status add(std::size_t i, const ScaleOp& detail) { return element(i, ElementKind::scale, detail.factor); }
    Status add(std::size_t i, const SoftcapOp& detail) { return element(i, ElementKind::softcap, detail.cap); }
    Status add(std::size_t i, const AddOp&) {
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
    Status add(std::size_t i, const RouteOp& detail) {
        const std::int64_t n_experts = width(items_[i].op->out);
        if (detail.n_used < 1 || detail.n_used > n_experts) return corrupt("experts used per token: " + std::to_string(detail.n_used) + " of " + std::to_string(n_experts));
        push(items_[i].op->name, RouteDevice{detail, items_[i].in[0], items_[i].op->out});
        return {};
    }
    Status add(std::size_t i, const GateOp& detail) {
        ElementDevice gate;
        gate.kind = ElementKind::gate;
        gate.a = items_[i].in[0];
        gate.b = items_[i].in[1];
        gate.b_column = detail.column;
        gate.out = items_[i].op->out;
        push(items_[i].op->name, gate);
        return {};
    }
    Status add(std::size_t i, const CausalConvOp& detail) {
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
        conv.x = items_[i].in[0];
        conv.out = items_[i].op->out;
        conv.state = static_cast<int>(model_.states.size());
        model_.states.push_back({detail.state, items_[i].op->name, 0, 0, 0});
        push(items_[i].op->name, conv);
        return {};
    }

    // ---- who reads what
    void reads(int v, bool as_operand) {
        if (v < 0) return;
        (as_operand ? value(v).as_operand : value(v).as_floats) = true;
        ++value(model_.root(v)).readers;
    }
    void finish() {
        for (const DeviceOp& op : model_.ops) std::visit([&](const auto& detail) { count_reads(detail); }, op.detail);
        if (model_.output >= 0) reads(model_.output, false);
        for (std::size_t i = 0; i < model_.ops.size() && fuse(); ++i) {
            const auto* norm = std::get_if<NormDevice>(&model_.ops[i].detail);
            if (norm == nullptr || norm->kind != NormKind::rms || norm->bias != nullptr || norm->residual >= 0 || norm->group_width != width(norm->out)) continue;
            if (value(norm->out).as_floats || value(norm->x).parent >= 0 || value(norm->x).norm_behind >= 0) continue;
            value(norm->x).norm_behind = static_cast<int>(i);
        }
        model_.weight_bytes = weights_.weight_bytes();
    }
    void count_reads(const EmbedDevice& d) { reads(d.adds_to, false); }
    void count_reads(const NormDevice& d) { reads(d.x, false), reads(d.residual, false); }
    void count_reads(const LinearDevice& d) { reads(d.x, true), reads(d.adds_to, false); }
    void count_reads(const RopeDevice& d) {
        for (int v : {d.q, d.k, d.v}) reads(v, false);
    }
    void count_reads(const AttentionDevice& d) { reads(d.q, false); }
    void count_reads(const ElementDevice& d) { reads(d.a, false), reads(d.b, false); }
    void count_reads(const SelectDevice& d) { reads(d.x, false); }
    void count_reads(const RouteDevice& d) { reads(d.logits, false); }
    void count_reads(const ConvDevice& d) { reads(d.x, false); }

    const ModelSpec& spec_;
    const DeviceModelOptions& options_;
    Device& device_;
    DeviceWeights weights_;
    DeviceModel model_;
    std::vector<Item> items_;
    std::vector<std::vector<std::size_t>> readers_;
    std::map<int, std::size_t> producer_;
    std::map<std::size_t, std::string> block_ends_;
    std::map<std::size_t, Gate> gates_;
    std::set<std::size_t> gated_;
    std::set<int> scaled_;
    std::vector<std::tuple<int, const InputTransform*, int>> transformed_;
    std::size_t select_at_ = SIZE_MAX;
    int select_in_ = -1, select_out_ = -1;
};

}  // namespace

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
