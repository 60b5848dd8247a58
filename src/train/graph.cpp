#include "train/graph.h"

#include <map>

#include "train/graph_steps.h"

namespace skiff::train {
namespace {

class GraphBuilder {
public:
    GraphBuilder(const ModelSpec& spec, const ParameterView& parameters, const GraphOptions& options) : spec_(spec), parameters_(parameters), options_(options) {
        for (const Block& block : spec.blocks)
            for (const Op& op : block.ops) {
                producer_[op.out] = &op;
                for (ValueId value : op.in) ++n_uses_[value];
            }
    }

    Result<GraphBlock> block(const Block& block) {
        steps_.clear();
        for (const Op& op : block.ops) {
            Status status = std::visit([&](const auto& detail) { return add(op, detail); }, op.detail);
            if (!status.ok()) return status.take_error().with_context(op.name);
        }
        return std::move(steps_);
    }

private:
    template <class StepType>
    StepType& push(const Op& op) {
        auto step = std::make_unique<StepType>();
        StepType& reference = *step;
        step->name = op.name;
        steps_.push_back(std::move(step));
        return reference;
    }
    // The operator behind a value, if it is of this kind and nobody else needs what it makes.
    template <class Detail>
    const Detail* sole_producer(ValueId value) const {
        auto found = producer_.find(value);
        if (found == producer_.end() || n_uses_.at(value) != 1) return nullptr;
        return std::get_if<Detail>(&found->second->detail);
    }

    Status add(const Op& op, const EmbedOp& detail) {
        auto& step = push<EmbedGraphStep>(op);
        step.parameters = &parameters_;
        step.op = detail;
        step.out = op.out;
        return {};
    }

    Status add(const Op& op, const NormOp& detail) {
        auto& step = push<NormGraphStep>(op);
        step.parameters = &parameters_;
        step.op = detail;
        step.settings = {detail.kind, detail.eps, detail.group_width, options_.numbers};
        step.form = options_.form;
        step.in = op.in[0];
        step.out = op.out;
        return {};
    }

    bool is_plain(const LinearOp& op) const {
        return op.transform.kind == InputTransform::Kind::none && op.terms.size() == 1 && op.terms[0].kind == LinearTerm::Kind::packed &&
               parameters_.adapters().count(op.terms[0].weight.key) == 0;
    }
    bool read_alike(const std::string& a, const std::string& b) const {
        const Parameter *one = parameters_.find(a), *other = parameters_.find(b);
        if (one == nullptr || other == nullptr) return one == other;  // in a part of a model, operators without their weights are built and never run
        return one->inputs == other->inputs && one->input_scale == other->input_scale;
    }
    Status add(const Op& op, const LinearOp& detail) {
        for (const LinearTerm& term : detail.terms)
            if (term.kind == LinearTerm::Kind::sparse) return unsupported("sparse terms cannot be trained; a pruned weight is trained with its zeros kept");
        if (detail.transform.kind == InputTransform::Kind::hadamard) return unsupported("Hadamard input transforms cannot be trained");
        if (!is_plain(detail)) {
            auto& step = push<TermsGraphStep>(op);
            step.parameters = &parameters_;
            step.op = detail;
            step.numbers = options_.numbers;
            step.form = options_.form;
            step.in = op.in[0];
            step.out = op.out;
            return {};
        }
        auto* last = steps_.empty() ? nullptr : dynamic_cast<LinearGraphStep*>(steps_.back().get());
        const bool joins = last != nullptr && last->in == op.in[0] && last->parts[0].bias.empty() == detail.bias.empty() && read_alike(last->parts[0].weight.key, detail.terms[0].weight.key);
        if (!joins) {
            last = &push<LinearGraphStep>(op);
            last->parameters = &parameters_;
            last->numbers = options_.numbers;
            last->form = options_.form;
            last->in = op.in[0];
        } else {
            last->name += " + " + op.name;
        }
        last->parts.push_back({detail.terms[0].weight, detail.bias, op.out, spec_.width(op.out)});
        return {};
    }

    // Left to the attention where only that uses the result.
    bool goes_into_attention(const Op& op) const {
        if (n_uses_.at(op.out) != 1) return false;
        for (const Block& block : spec_.blocks)
            for (const Op& user : block.ops)
                if (std::holds_alternative<AttentionOp>(user.detail) && (user.in[0] == op.out || user.in[1] == op.out)) return true;
        return false;
    }
    Status add(const Op& op, const RopeOp& detail) {
        if (goes_into_attention(op)) return {};
        auto& step = push<RopeGraphStep>(op);
        step.op = detail;
        step.in = op.in[0];
        step.out = op.out;
        return {};
    }

    Status add(const Op& op, const AttentionOp& detail) {
        auto& step = push<AttentionGraphStep>(op);
        step.op = detail;
        step.form = options_.form;
        step.out = op.out;
        auto source = [&](ValueId value, const RopeOp*& rope) {
            rope = sole_producer<RopeOp>(value);
            return rope != nullptr ? producer_.at(value)->in[0] : value;
        };
        step.qkv = {source(op.in[0], step.q_rope), source(op.in[1], step.k_rope), op.in[2]};
        return {};
    }

    Status add(const Op& op, const CausalConvOp& detail) {
        auto& step = push<CausalConvGraphStep>(op);
        step.parameters = &parameters_;
        step.op = detail;
        step.in = op.in[0];
        step.out = op.out;
        return {};
    }

    Status add(const Op& op, const ActivationOp& detail) {
        // Left to the product that gates with it.
        if (n_uses_.at(op.out) == 1)
            for (const Block& block : spec_.blocks)
                for (const Op& user : block.ops)
                    if (std::holds_alternative<MultiplyOp>(user.detail) && user.in[0] == op.out) return {};
        return element_step(op, detail);
    }
    Status add(const Op& op, const MultiplyOp& detail) {
        const auto* activation = sole_producer<ActivationOp>(op.in[0]);
        if (activation == nullptr) return element_step(op, detail);
        auto& step = push<GatedGraphStep>(op);
        step.activation = activation->kind;
        step.gate = producer_.at(op.in[0])->in[0];
        step.up = op.in[1];
        step.out = op.out;
        step.form = options_.form;
        return {};
    }

    Status add(const Op& op, const RouteOp& detail) {
        auto& step = push<RouteGraphStep>(op);
        step.op = detail;
        step.in = op.in[0];
        step.out = op.out;
        return {};
    }

    Status add(const Op& op, const AddOp& detail) { return element_step(op, detail); }
    Status add(const Op& op, const ScaleOp& detail) { return element_step(op, detail); }
    Status add(const Op& op, const SoftcapOp& detail) { return element_step(op, detail); }
    Status add(const Op& op, const GateOp& detail) { return element_step(op, detail); }
    Status element_step(const Op& op, const OpDetail& detail) {
        auto& step = push<ElementGraphStep>(op);
        step.op = detail;
        step.in = op.in;
        step.out = op.out;
        return {};
    }

    const ModelSpec& spec_;
    const ParameterView& parameters_;
    const GraphOptions& options_;
    std::map<ValueId, const Op*> producer_;
    std::map<ValueId, int> n_uses_;
    GraphBlock steps_;
};

}  // namespace

Result<std::vector<GraphBlock>> build_graph(const ModelSpec& spec, const ParameterView& parameters, const GraphOptions& options) {
    GraphBuilder builder(spec, parameters, options);
    std::vector<GraphBlock> blocks;
    for (const Block& block : spec.blocks) {
        SKIFF_TRY(auto steps, builder.block(block));
        blocks.push_back(std::move(steps));
    }
    return blocks;
}

}  // namespace skiff::train
