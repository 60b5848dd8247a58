// Lowering: operators to steps, one program per bucket of tokens. Merging of linear operators that share an input happens here, buffer
// placement in place_buffers.cpp.
#include <algorithm>
#include <map>
#include <set>

#include "base/topology.h"
#include "base/checked.h"
#include "plan/fuse.h"
#include "plan/place_buffers.h"
#include "plan/plan.h"
#include "plan/state.h"
#include "plan/steps.h"
#include "plan/tune_tiles.h"
#include "plan/weight_pool.h"

namespace skiff {
namespace {

// Steps first name values by ValueId (and temporaries behind them); place_buffers turns those into buffer numbers.
class ProgramBuilder {
public:
    ProgramBuilder(const ModelSpec& spec, const PlanOptions& options, WeightPool& pool, std::int64_t n_tokens, ValueTable& values)
        : spec_(spec), options_(options), pool_(pool), n_tokens_(n_tokens), values_(values) {}

    Status add_block(const Block& block, std::vector<StateNeed>& states) {
        const bool head = &block == &spec_.blocks.back();
        if (head && block.in != no_value) select(block.in);
        for (std::size_t i = 0; i < block.ops.size(); ++i) {
            Status status = std::visit([&](const auto& detail) { return add(block.ops[i], detail, states); }, block.ops[i].detail);
            if (!status.ok()) return status.take_error().with_context(block.ops[i].name);
        }
        return {};
    }

    // Behind the head: the largest logits, for runs that ask for no more.
    void add_top(ValueId logits) {
        Op op;
        op.name = "largest logits";
        op.detail = ScaleOp{};
        auto& step = push<TopStep>(op, "top");
        step.kind = "choose";
        step.logits = logits;
        step.n_columns = spec_.width(logits);
    }

    std::vector<std::unique_ptr<Step>> take() { return std::move(steps_); }

private:
    template <class StepType>
    StepType& push(const Op& op, std::string kernel) {
        auto step = std::make_unique<StepType>();
        StepType& reference = *step;
        step->name = op.name;
        step->kind = op_kind_name(op.detail);
        step->kernel = std::move(kernel);
        step->tokens = tokens_;
        steps_.push_back(std::move(step));
        return reference;
    }
    int in(const Op& op, std::size_t i) const {
        auto moved = selected_.find(op.in[i]);
        return moved != selected_.end() ? moved->second : op.in[i];
    }
    int out(const Op& op) {
        values_.set_tokens(op.out, tokens_);
        return op.out;
    }

    // From here on only the tokens whose logits are wanted are worked on.
    void select(ValueId value) {
        Op op;
        op.name = "select";
        op.detail = ScaleOp{};
        tokens_ = StepTokens::selected;
        SelectStep& step = push<SelectStep>(op, "select");
        step.kind = "select";
        step.in = value;
        step.n_columns = spec_.width(value);
        step.out = values_.add_temporary(step.n_columns, 0, StepTokens::selected);
        selected_[value] = step.out;
    }

    Status add(const Op& op, const EmbedOp& detail, std::vector<StateNeed>&) {
        auto& step = push<EmbedStep>(op, "embed_rows");
        const auto& declared = spec_.tensors.at(detail.table.key);
        SKIFF_TRY(step.table, pool_.packed(detail.table, spec_.shape(declared)[0], spec_.width(op.out)));
        step.kernel = "row of " + std::string(step.table->layout->name);
        step.index = detail.index;
        step.offset = detail.offset;
        step.scale = detail.scale;
        step.out = out(op);
        return {};
    }

    Status add(const Op& op, const NormOp& detail, std::vector<StateNeed>&) {
        const auto& row = choose_kernel(norm_kernels(), options_.isa);
        auto& step = push<NormStep>(op, std::string(row.name));
        const std::int64_t width = spec_.width(op.out);
        step.fn = row.fn;
        step.norm_kind = detail.kind;
        step.eps = detail.eps;
        step.group_width = detail.group_width > 0 ? detail.group_width : width;
        step.n_groups = width / step.group_width;
        step.over = detail.group_width > 0 ? NormStep::Over::heads : NormStep::Over::row;
        SKIFF_TRY(step.weight, pool_.vector(detail.weight, step.group_width, detail.weight_offset));
        SKIFF_TRY(step.bias, pool_.vector(detail.bias, step.group_width, 0));
        step.in = in(op, 0);
        step.out = out(op);
        return fold_input_scale(op, step);
    }

    // A scale of the input (as AWQ has, Lin et al. 2024) that all readers of a norm share is part of the norm's weight and bias.
    Status fold_input_scale(const Op& op, NormStep& step) {
        const std::string& name = spec_.values[static_cast<std::size_t>(op.out)].name;
        if (options_.fold == PlanOptions::Fold::off || step.over == NormStep::Over::heads) return {};
        if (std::find(options_.taps.begin(), options_.taps.end(), name) != options_.taps.end()) return {};
        Vector scale;
        for (const Block& block : spec_.blocks) {
            if (block.out == op.out) return {};
            for (const Op& reader : block.ops) {
                if (std::find(reader.in.begin(), reader.in.end(), op.out) == reader.in.end()) continue;
                const auto* linear = std::get_if<LinearOp>(&reader.detail);
                if (linear == nullptr || linear->transform.kind != InputTransform::Kind::scale) return {};
                SKIFF_TRY(auto data, pool_.vector(linear->transform.data, step.group_width, 0));
                if (scale != nullptr && *scale != *data) return {};
                scale = data;
            }
        }
        if (scale == nullptr) return {};
        auto times_scale = [&](const Vector& vector) {
            auto product = std::make_shared<std::vector<float>>(*scale);
            for (std::size_t i = 0; i < product->size() && !vector->empty(); ++i) (*product)[i] *= (*vector)[i];
            return product;
        };
        step.weight = times_scale(step.weight);
        if (!step.bias->empty()) step.bias = times_scale(step.bias);
        scaled_.insert(op.out);
        return {};
    }

    Status add(const Op& op, const LinearOp& detail, std::vector<StateNeed>&) {
        SKIFF_TRY(int x, transformed(op, detail.transform));
        const std::int64_t n_in = spec_.width(op.in[0]), n_out = spec_.width(op.out);
        SKIFF_TRY(auto bias, pool_.vector(detail.bias, n_out, 0));
        LinearArgs::Write write = LinearArgs::Write::replace;
        LinearOp behind = detail;  // for what a low-rank factor gives: the scale was not measured of that
        behind.input_scale = 0;
        for (const LinearTerm& term : detail.terms) {
            int source = x;
            std::int64_t n_source = n_in;
            if (term.kind == LinearTerm::Kind::low_rank) {
                SKIFF_TRY(auto down, low_rank_width(term));
                source = values_.add_temporary(down, 0, tokens_);
                SKIFF_CHECK(segment(op, detail, term.down, nullptr, x, n_in, source, down, LinearArgs::Write::replace));
                n_source = down;
            }
            SKIFF_CHECK(segment(op, source == x ? detail : behind, term.weight, bias, source, n_source, out(op), n_out, write));
            bias = nullptr;
            write = LinearArgs::Write::add;
        }
        return {};
    }

    Result<std::int64_t> low_rank_width(const LinearTerm& term) const {
        auto declared = spec_.tensors.find(term.down.key);
        if (declared == spec_.tensors.end()) return corrupt("tensor " + term.down.key + " is not declared");
        return spec_.shape(declared->second)[0];
    }

    Result<int> transformed(const Op& op, const InputTransform& transform) {
        const std::int64_t width = spec_.width(op.in[0]);
        if (transform.kind == InputTransform::Kind::none || scaled_.count(op.in[0])) return in(op, 0);
        if (transform.kind == InputTransform::Kind::hadamard) return unsupported("Hadamard input transforms have no kernel yet");
        SKIFF_TRY(auto data, pool_.vector(transform.data, width, 0));
        // Operators that share an input mostly share its transform too (q, k and v): it is done once, and they stay one step.
        for (const Transformed& known : transformed_)
            if (known.in == in(op, 0) && known.kind == transform.kind && *known.data == *data) return known.out;
        const int target = values_.add_temporary(width, 0, tokens_);
        transformed_.push_back({in(op, 0), transform.kind, data, target});
        if (transform.kind == InputTransform::Kind::scale) {
            const auto& row = choose_kernel(multiply_kernels(), options_.isa);
            auto& step = push<ColumnScaleStep>(op, std::string(row.name));
            step.multiply = row.fn;
            step.scale = data;
            step.in = in(op, 0);
            step.out = target;
            step.n_columns = width;
        } else {
            auto& step = push<PermuteStep>(op, "permute");
            for (float index : *data) {
                if (!(index >= 0 && index < static_cast<float>(width)))
                    return corrupt("tensor " + transform.data.key + ": a permutation entry is out of range");
                step.order.push_back(static_cast<std::int32_t>(index));
            }
            step.in = in(op, 0);
            step.out = target;
        }
        return target;
    }

    struct Transformed {
        int in;
        InputTransform::Kind kind;
        Vector data;
        int out;
    };

    // One weight times one value. Joins the step before when that has the same input and nothing between them.
    Status segment(const Op& op, const LinearOp& detail, const TensorRef& ref, Vector bias, int x, std::int64_t n_in, int y, std::int64_t n_out,
                   LinearArgs::Write write) {
        LinearSegment segment;
        SKIFF_TRY(segment.weight, pool_.packed(ref, n_out, n_in));
        KernelChoice choice = detail.activation == ActivationScheme::f32 ? KernelChoice::reference : options_.kernels;
        for (std::size_t bucket = 0; bucket < n_buckets; ++bucket) {
            const LinearKernel*& kernel = segment.kernels[bucket];
            kernel = choose_linear_kernel(segment.weight->layout->name, options_.isa, bucket_limits[bucket], choice);
            if (kernel == nullptr)
                kernel = choose_linear_kernel(segment.weight->layout->name, options_.isa, bucket_limits[bucket], KernelChoice::fastest);
            if (kernel == nullptr)
                return unsupported("layout " + std::string(segment.weight->layout->name) + " has no kernel for every number of tokens");
        }
        const LinearKernel& kernel = *segment.kernels[static_cast<std::size_t>(bucket_of(n_tokens_))];
        segment.name = op.name;
        segment.bias = std::move(bias);
        segment.in = x;
        segment.out = y;
        segment.write = write;
        // Of many tokens few may be selected: then the kernel of a smaller bucket works on them.
        const int bucket = bucket_of(n_tokens_), first = tokens_ == StepTokens::selected ? 0 : bucket;
        auto wants = [&](ActivationForm form) {
            return std::any_of(segment.kernels.begin() + first, segment.kernels.begin() + bucket + 1, [&](const LinearKernel* row) { return row->form == form; });
        };
        if (wants(ActivationForm::i8_b32)) segment.prepared = prepare(op, x, n_in, detail.input_scale);
        if (!wants(ActivationForm::f32)) segment.in = -1;
        auto* last = steps_.empty() ? nullptr : dynamic_cast<LinearStep*>(steps_.back().get());
        bool joins = last != nullptr && options_.merge == PlanOptions::Merge::on && write == LinearArgs::Write::replace &&
                     last->segments[0].in == segment.in && last->segments[0].prepared == segment.prepared &&
                     last->segments[0].write == LinearArgs::Write::replace && last->tokens == tokens_;
        if (joins) {
            last->name += " + " + op.name;
            if (std::string(kernel.name) != last->kernel) last->kernel += " + " + std::string(kernel.name);
        } else {
            last = &push<LinearStep>(op, std::string(kernel.name));
        }
        last->weight_bytes += segment.weight->read_bytes;
        last->segments.push_back(std::move(segment));
        return {};
    }

    int prepare(const Op& op, int x, std::int64_t n_columns, float fixed_scale) {
        if (auto found = prepared_.find({x, fixed_scale}); found != prepared_.end()) return found->second;
        const auto& row = choose_kernel(quantize_kernels(), options_.isa);
        auto& step = push<PrepareStep>(op, std::string(row.name));
        step.kind = "quantize";
        step.name = "input of " + op.name;
        step.fn = row.fn;
        step.fixed_scale = fixed_scale;
        step.n_columns = n_columns;
        step.padded_columns = padded_for_codes(n_columns);
        step.in = x;
        step.out = values_.add_temporary(0, prepared_bytes_per_token(step.padded_columns), tokens_);
        prepared_[{x, fixed_scale}] = step.out;
        return step.out;
    }

    Status add(const Op& op, const RopeOp& detail, std::vector<StateNeed>&) {
        const auto& row = choose_kernel(rope_kernels(), options_.isa);
        auto& step = push<RopeStep>(op, std::string(row.name));
        step.fn = row.fn;
        step.inv_freq = detail.inv_freq;
        step.long_inv_freq = detail.long_inv_freq;
        step.long_above = detail.long_above;
        step.magnitude = detail.magnitude;
        step.style = detail.style;
        step.head_dim = detail.n_heads_unit;
        step.n_heads = spec_.width(op.out) / detail.n_heads_unit;
        step.in = in(op, 0);
        step.out = out(op);
        return {};
    }

    Status add(const Op& op, const AttentionOp& detail, std::vector<StateNeed>& states) {
        auto known = std::find_if(states.begin(), states.end(), [&](const StateNeed& need) { return need.name == op.name; });
        const int state = static_cast<int>(known - states.begin());
        if (known == states.end()) states.push_back({detail.state, op.name, detail.n_heads, detail.n_kv_heads, detail.head_dim});
        const auto& write_row = choose_kernel(state_write_kernels(), options_.isa);
        auto& write = push<StateWriteStep>(op, std::string(write_row.name));
        write.kind = "state write";
        write.fn = write_row.fn;
        write.state = state;
        write.keys = in(op, 1);
        write.values = in(op, 2);
        write.key_width = detail.state.key_width;
        write.value_width = detail.state.value_width;
        write.head_dim = detail.head_dim;
        const auto& row = choose_kernel(attention_kernels(), options_.isa);
        auto& step = push<AttentionStep>(op, std::string(row.name));
        step.fn = row.fn;
        step.op = detail;
        step.state = state;
        step.q = in(op, 0);
        step.out = out(op);
        return {};
    }

    Status add(const Op& op, const CausalConvOp& detail, std::vector<StateNeed>& states) {
        auto known = std::find_if(states.begin(), states.end(), [&](const StateNeed& need) { return need.name == op.name; });
        const int state = static_cast<int>(known - states.begin());
        if (known == states.end()) states.push_back({detail.state, op.name, 0, 0, 0});
        const auto& row = choose_kernel(causal_conv_kernels(), options_.isa);
        auto& step = push<CausalConvStep>(op, std::string(row.name));
        step.fn = row.fn;
        step.n_taps = detail.kernel;
        step.n_columns = spec_.width(op.out);
        step.n_ring_rows = ring_rows(detail.state);
        step.state = state;
        SKIFF_TRY(const auto weight, pool_.vector(detail.weight, step.n_columns * step.n_taps, 0));
        SKIFF_TRY(step.bias, pool_.vector(detail.bias, step.n_columns, 0));
        auto taps = std::make_shared<std::vector<float>>(weight->size());  // tap by tap, as the columns lie in a token
        for (std::int64_t c = 0; c < step.n_columns; ++c)
            for (std::int64_t j = 0; j < step.n_taps; ++j) (*taps)[static_cast<std::size_t>(j * step.n_columns + c)] = (*weight)[static_cast<std::size_t>(c * step.n_taps + j)];
        step.taps = std::move(taps);
        step.in = in(op, 0);
        step.out = out(op);
        return {};
    }

    Status element(const Op& op, const KernelRow<ElementFn>& row, float factor, Activation activation) {
        auto& step = push<ElementStep>(op, std::string(row.name));
        step.fn = row.fn;
        step.a = in(op, 0);
        step.b = op.in.size() > 1 ? in(op, 1) : -1;
        step.n_columns = spec_.width(op.out);
        step.factor = factor;
        step.activation = activation;
        step.out = out(op);
        return {};
    }
    Status add(const Op& op, const ActivationOp& detail, std::vector<StateNeed>&) {
        return element(op, choose_kernel(activation_kernels(), options_.isa), 1, detail.kind);
    }
    Status add(const Op& op, const MultiplyOp&, std::vector<StateNeed>&) {
        return element(op, choose_kernel(multiply_kernels(), options_.isa), 1, {});
    }
    Status add(const Op& op, const AddOp&, std::vector<StateNeed>&) { return element(op, choose_kernel(add_kernels(), options_.isa), 1, {}); }
    Status add(const Op& op, const ScaleOp& detail, std::vector<StateNeed>&) {
        return element(op, choose_kernel(scale_kernels(), options_.isa), detail.factor, {});
    }
    Status add(const Op& op, const SoftcapOp& detail, std::vector<StateNeed>&) {
        return element(op, choose_kernel(softcap_kernels(), options_.isa), detail.cap, {});
    }

    Status add(const Op& op, const RouteOp& detail, std::vector<StateNeed>&) {
        auto& step = push<RouteStep>(op, "route");
        step.op = detail;
        step.n_experts = spec_.width(op.out);
        step.in = in(op, 0);
        step.out = out(op);
        if (detail.n_used < 1 || detail.n_used > step.n_experts)
            return corrupt("experts used per token: " + std::to_string(detail.n_used) + " of " + std::to_string(step.n_experts));
        return {};
    }
    Status add(const Op& op, const GateOp& detail, std::vector<StateNeed>&) {
        auto& step = push<GateStep>(op, "gate");
        step.column = detail.column;
        step.n_experts = spec_.width(op.in[1]);
        step.n_columns = spec_.width(op.out);
        step.in = in(op, 0);
        step.weights = in(op, 1);
        step.out = out(op);
        return {};
    }

    const ModelSpec& spec_;
    const PlanOptions& options_;
    WeightPool& pool_;
    std::int64_t n_tokens_;
    ValueTable& values_;
    StepTokens tokens_ = StepTokens::all;
    std::vector<std::unique_ptr<Step>> steps_;
    std::map<ValueId, int> selected_;
    std::set<ValueId> scaled_;     // norms that hold the scale of their readers' inputs
    std::vector<Transformed> transformed_;
    std::map<std::pair<int, float>, int> prepared_;  // value and fixed scale -> its quantized form
};

bool touches(Step& step, int buffer) {
    const Uses uses = step.uses();
    for (const auto* list : {&uses.reads, &uses.writes})
        for (const int* used : *list)
            if (*used == buffer) return true;
    return false;
}

// As Program says.
bool top_in_slabs(const std::vector<std::unique_ptr<Step>>& steps, int logits) {
    bool collects = false;
    for (const auto& step : steps) {
        if (!touches(*step, logits)) continue;
        auto* fused = dynamic_cast<FusedStep*>(step.get());
        if (fused == nullptr || collects) return false;
        for (FusedStage& stage : fused->stages) {
            for (auto& part : stage.steps)
                if (touches(*part, logits)) return false;
            for (ColumnChain& chain : stage.chains)
                for (ColumnChain::Part& part : chain.parts) {
                    if (touches(*part.step, logits) && chain.units_at_once * part.unit_columns > top_slab_columns) return false;
                    collects = collects || dynamic_cast<TopStep*>(part.step.get()) != nullptr;
                }
        }
    }
    return collects;
}

// Bytes that decoding one token must read: every packed weight that a linear step uses once, plus one row per embedding.
std::uint64_t decode_bytes(const std::vector<std::unique_ptr<Step>>& steps) {
    std::uint64_t total = 0;
    for (const auto& step : steps) {
        total += step->weight_bytes;
        if (auto* embed = dynamic_cast<const EmbedStep*>(step.get()))
            total += embed->table->read_bytes / static_cast<std::uint64_t>(std::max<std::int64_t>(1, embed->table->n_rows));
    }
    return total;
}

}  // namespace

const Program& Plan::program_for(std::int64_t n_tokens) const {
    for (const Program& program : programs)
        if (n_tokens <= program.max_tokens) return program;
    return programs.back();
}

Result<std::shared_ptr<const Plan>> lower(const ModelSpec& spec, const WeightSource& weights, const PlanOptions& options) {
    const InterleavedMemory interleaved(this_machine());  // packed weights are read by the threads of all nodes
    auto plan = std::make_shared<Plan>();
    plan->spec = spec;
    plan->isa = options.isa;
    WeightPool pool(plan->spec, weights, options);
    std::vector<ValueTable> tables;
    if (plan->spec.blocks.empty() || options.first_block >= plan->spec.blocks.size())
        return usage_error("the plan's first block is behind the model's last");
    const std::size_t last_block = std::min(options.last_block, plan->spec.blocks.size() - 1);
    const ValueId input = plan->spec.blocks[options.first_block].in, output = plan->spec.blocks[last_block].out;
    const KeptValues keep = {input, output, options.taps};
    plan->has_head = last_block + 1 == plan->spec.blocks.size();
    SKIFF_TRY(auto kept, kept_values(plan->spec, keep));
    std::int64_t previous = 0;
    for (int bucket = 0; bucket < n_buckets; ++bucket) {
        ValueTable values(plan->spec);
        ProgramBuilder builder(plan->spec, options, pool, bucket_limits[bucket], values);
        for (std::size_t b = options.first_block; b <= last_block; ++b) {
            SKIFF_CHECK(builder.add_block(plan->spec.blocks[b], plan->states));
            if (bucket == 0 && options.progress) options.progress({"load", plan->spec.blocks[b].name, b + 1, plan->spec.blocks.size()});
            if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted while loading", {}};
        }
        if (plan->has_head) builder.add_top(output);
        Program& program = plan->programs[static_cast<std::size_t>(bucket)];
        program.min_tokens = previous + 1;
        program.max_tokens = previous = bucket_limits[bucket];
        program.steps = builder.take();
        if (bucket == 0) {
            plan->decode_read_bytes = decode_bytes(program.steps);
            for (const auto& step : program.steps)
                if (auto* embed = dynamic_cast<const EmbedStep*>(step.get()); embed != nullptr && embed->index == EmbedOp::Index::position)
                    plan->max_positions = std::min(plan->max_positions, embed->table->n_rows - embed->offset);
        }
        program.plain_steps = describe(program.steps);
        fuse(program.steps, {values, kept, program.max_tokens, options.n_threads, options.fuse});
        if (options.tiles != nullptr && program.max_tokens >= least_tiled_tokens) apply_tiles(*options.tiles, program.steps, options.n_threads);
        tables.push_back(std::move(values));
    }
    SKIFF_CHECK(place_buffers(*plan, tables, keep));
    for (Program& program : plan->programs) program.top_in_slabs = top_in_slabs(program.steps, plan->output_buffer);
    plan->weights = pool.all();
    plan->remarks = pool.remarks();
    const PackCache& cache = pool.finish_cache();
    plan->pack_cache = cache.outcome();
    plan->pack_cache_note = cache.note();
    SKIFF_TRY(plan->huge_page_bytes, pool.place());
    for (const auto& weight : plan->weights) plan->weight_bytes += weight->read_bytes;
    return std::shared_ptr<const Plan>(plan);
}

std::vector<std::string> describe(const std::vector<std::unique_ptr<Step>>& steps) {
    std::vector<std::string> lines;
    for (const auto& step : steps) lines.push_back(step->kind + "  " + step->name + "  [" + step->kernel + "]");
    return lines;
}

}  // namespace skiff
