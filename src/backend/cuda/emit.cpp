#include "backend/cuda/emit.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace skiff::cuda {
namespace {

// A value while it is alive.
struct Live {
    float* floats = nullptr;
    std::int64_t stride = 0;
    bool owned = false;   // from the scratch memory
    Operand operand;
    PendingRms rms;       // of the operand
    float* square_sums = nullptr;
    void* codes = nullptr;  // the operand as 8-bit floats, once somebody multiplies it so
    float* code_scales = nullptr;
    int readers = 0;
};

class Emitter {
public:
    Emitter(const DeviceModel& model, const std::vector<StatePlace>& states, const RunShape& shape, const RunInputs& inputs, const EmitOptions& options, Scratch& scratch)
        : model_(model), states_(states), shape_(shape), inputs_(inputs), options_(options), scratch_(scratch), live_(model.values.size()), rows_(shape.n_tokens) {
        for (std::size_t v = 0; v < live_.size(); ++v) live_[v].readers = model.values[v].readers;
        tokens_ = {shape.n_tokens, inputs.positions, inputs.sequences};
    }

    DeviceProgram run() {
        scratch_.begin();
        if (model_.input >= 0) {
            Live& input = live_[static_cast<std::size_t>(model_.input)];
            input.floats = const_cast<float*>(inputs_.hidden);
            input.stride = model_.input_width;
        }
        for (std::size_t i = 0; i < model_.ops.size(); ++i) {
            name_ = &model_.ops[i].name;
            stream(model_.ops[i].streamed);
            if (shape_.n_selected == 0 && std::holds_alternative<SelectDevice>(model_.ops[i].detail)) return std::move(program_);  // nobody wants logits
            std::visit([&](const auto& detail) { add(detail); }, model_.ops[i].detail);
        }
        stream(-1);
        for (int v : model_.taps) program_.taps.push_back({value(v).name, floats(v), stride(v), value(v).width});
        program_.output = const_cast<float*>(dense(model_.output));
        if (shape_.then == RunShape::Then::choose) choose();
        return std::move(program_);
    }

private:
    const DeviceValue& value(int v) const { return model_.values[static_cast<std::size_t>(v)]; }
    Live& root(int v) { return live_[static_cast<std::size_t>(model_.root(v))]; }
    std::int64_t offset(int v) const { return value(v).parent >= 0 ? value(v).offset : 0; }
    float* floats(int v) { return root(v).floats + offset(v); }
    std::int64_t stride(int v) { return root(v).stride; }
    template <class Args>
    void push(const char* kernel, const Args& args) {
        program_.steps.push_back({*name_, kernel, args});
    }

    float* make_floats(int v) {
        Live& live = live_[static_cast<std::size_t>(v)];
        live.floats = scratch_.take_floats(rows_ * value(v).width);
        live.stride = value(v).width;
        live.owned = true;
        return live.floats;
    }
    // Rows one after another, for kernels that know no stride: the value itself, or a copy of it, which goes when the operator is written down.
    const float* dense(int v) {
        if (stride(v) == value(v).width) return floats(v);
        ElementLaunchArgs args;
        args.kind = ElementKind::scale;
        args.a = floats(v);
        args.a_stride = stride(v);
        args.n_tokens = rows_;
        args.n_columns = args.y_stride = value(v).width;
        args.y = copy_ = scratch_.take_floats(rows_ * value(v).width);
        push("copy", args);
        return args.y;
    }
    void drop_copy() { scratch_.give(std::exchange(copy_, nullptr)); }
    // One reader less; the last one gives the memory back.
    void done(int v) {
        if (v < 0) return;
        Live& live = root(v);
        if (--live.readers > 0) return;
        if (live.owned) scratch_.give(live.floats);
        live.owned = false;
        free_operand(model_.root(v));
    }
    void free_operand(int v) {
        Live& live = live_[static_cast<std::size_t>(v)];
        scratch_.give(live.operand);
        scratch_.give(live.square_sums);
        scratch_.give(live.codes);
        scratch_.give(live.code_scales);
        live.operand = {};
        live.square_sums = live.code_scales = nullptr;
        live.codes = nullptr;
        live.rms = {};
    }
    // `to` goes on in the memory of `from`, whose last reader is this operator.
    void take_over(int to, int from) {
        Live &target = live_[static_cast<std::size_t>(to)], &source = live_[static_cast<std::size_t>(from)];
        target.floats = source.floats;
        target.stride = source.stride;
        target.owned = source.owned;
        source.owned = false;
        free_operand(from);
        --source.readers;
    }

    OperandForm form() const { return operand_form(rows_, !library()); }
    bool library() const { return options_.matmul != Matmul::own && rows_ >= matmul_min_tokens && !in_head_; }  // few rows go through the head
    Operand make_operand(int v) {
        Live& live = live_[static_cast<std::size_t>(v)];
        live.operand = scratch_.take_operand(form(), value(v).width);
        return live.operand;
    }
    // What the producer of v writes beside it.
    NextNorm next_of(int v) {
        NextNorm next;
        int seen = v;
        if (select_reads(v) && shape_.selection == RunShape::Selection::all) seen = select_out_;
        const int norm_op = value(seen).norm_behind;
        if (norm_op >= 0 && options_.fuse == EmitOptions::Fuse::on && !library()) {
            const auto& norm = std::get<NormDevice>(model_.ops[static_cast<std::size_t>(norm_op)].detail);
            Live& out = live_[static_cast<std::size_t>(norm.out)];
            const std::int64_t width = value(norm.out).width;
            next.weight = norm.weight;
            next.operand = make_operand(norm.out);
            next.square_sums = out.square_sums = scratch_.take_floats(rows_ * pending_parts(width));
            out.rms = {out.square_sums, pending_parts(width), width, norm.eps};
        } else if (value(v).as_operand) {
            next.operand = make_operand(v);
        } else if (value(v).parts.n_columns > 0) {
            Operand like = value(v).parts;
            like.form = form();
            next.operand = live_[static_cast<std::size_t>(v)].operand = scratch_.take_operand(like);
        }
        return next;
    }
    bool select_reads(int v) {
        if (!looked_for_select_) {
            looked_for_select_ = true;
            for (const DeviceOp& op : model_.ops)
                if (const auto* select = std::get_if<SelectDevice>(&op.detail)) select_in_ = select->x, select_out_ = select->out;
        }
        return select_in_ == v;
    }

    // The operand of a matrix: as its producer left it, or made from the numbers now.
    const Live& operand_of(int v) {
        Live& live = live_[static_cast<std::size_t>(v)];
        if (is_part(v)) return root(v);
        if (live.operand.data != nullptr) return live;
        ElementLaunchArgs args;
        args.kind = ElementKind::scale;
        args.a = floats(v);
        args.a_stride = stride(v);
        args.n_tokens = rows_;
        args.n_columns = value(v).width;
        args.operand = make_operand(v);
        push("operand", args);
        return live;
    }
    // Columns of a product whose producer left all that is multiplied in one operand.
    bool is_part(int v) { return value(v).operand_first >= 0 && root(v).operand.data != nullptr; }
    void done_operand(int v) {
        // Of a column of a product the operand is its own; it goes when the product goes, or now if nobody else multiplies it.
        if (value(v).parent >= 0) free_operand(v);
        done(v);
    }

    void add(const EmbedDevice& embed) {
        EmbedArgs args;
        args.table = embed.table;
        args.index = embed.index == EmbedOp::Index::token ? inputs_.tokens : inputs_.positions;
        args.offset = embed.offset;
        args.n_tokens = rows_;
        args.scale = embed.scale;
        if (embed.adds_to >= 0) {
            args.write = EmbedArgs::Write::add;
            take_over(embed.out, embed.adds_to);
            args.x = floats(embed.out);
        } else {
            args.x = make_floats(embed.out);
        }
        if (!adds_later(embed.out)) args.next = next_of(embed.out);
        push("embed", args);
    }
    // Positions are still to be added to it.
    bool adds_later(int v) const {
        for (const DeviceOp& op : model_.ops)
            if (const auto* embed = std::get_if<EmbedDevice>(&op.detail); embed != nullptr && embed->adds_to == v) return true;
        return false;
    }

    void add(const NormDevice& norm) {
        if (live_[static_cast<std::size_t>(norm.out)].operand.data != nullptr) {  // its producer has done it
            done(norm.x);
            return;
        }
        NormLaunchArgs args;
        args.x = floats(norm.x);
        args.x_stride = stride(norm.x);
        if (norm.residual >= 0 && stride(norm.residual) == args.x_stride && args.x_stride == value(norm.sum).width) {
            args.residual = floats(norm.residual);
            args.sum = make_floats(norm.sum);
        } else if (norm.residual >= 0) {
            ElementLaunchArgs sum;
            sum.a = floats(norm.residual);
            sum.a_stride = stride(norm.residual);
            sum.b = args.x;
            sum.b_stride = args.x_stride;
            sum.n_tokens = rows_;
            sum.n_columns = args.x_stride = sum.y_stride = value(norm.sum).width;
            sum.y = make_floats(norm.sum);
            args.x = sum.y;
            push("elements", sum);
        }
        args.weight = norm.weight;
        args.bias = norm.bias;
        args.n_tokens = rows_;
        args.width = norm.group_width;
        args.n_groups = value(norm.out).width / norm.group_width;
        args.eps = norm.eps;
        args.kind = norm.kind;
        if (value(norm.out).as_floats || !value(norm.out).as_operand) {
            args.y = make_floats(norm.out);
            args.y_stride = value(norm.out).width;
        }
        if (value(norm.out).as_operand) args.operand = make_operand(norm.out);
        push("norm", args);
        done(norm.x);
        done(norm.residual);
    }

    void add(const LinearDevice& linear) {
        const Live x = operand_of(linear.x);
        float* y = nullptr;
        const bool one = linear.matrices.size() == 1;
        // Before anything is given back: the kernel writes its result's operand while it still reads x.
        NextNorm next;
        if (linear.write == GemvWrite::gate || linear.write == GemvWrite::activate) next.operand = make_operand(linear.out);
        else if (one && !library()) next = next_of(linear.out);
        if (linear.adds_to >= 0) {
            take_over(linear.out, linear.adds_to);
            y = floats(linear.out);
        } else if (linear.write == GemvWrite::replace) {
            y = make_floats(linear.out);
        }
        for (const MatrixDevice& matrix : linear.matrices) {
            if (library()) {
                multiply(linear, matrix, x, y, next);
                continue;
            }
            GemvArgs args;
            args.weight = matrix.weight;
            args.x = x.operand.data;
            args.n_tokens = rows_;
            args.rms = x.rms;
            args.bias = matrix.bias;
            args.write = linear.write;
            args.activation = linear.activation;
            if (y != nullptr) {
                args.y = y + matrix.offset;
                args.y_stride = stride(linear.out);
            }
            args.softcap = linear.softcap;
            args.factor = linear.factor;
            args.next = next;
            if (is_part(linear.x)) args.x_columns = x.operand.n_columns, args.x_first = value(linear.x).operand_first;
            if (rows_ <= max_gemv_tokens) {
                push("gemv", args);
                continue;
            }
            GemmArgs many{args.weight, args.x, args.n_tokens, args.rms, args.bias, args.write, args.activation, args.y, args.y_stride, args.softcap, args.factor, args.next};
            many.x_columns = args.x_columns, many.x_first = args.x_first;
            const std::size_t partial_bytes = scratch_table().gemm_partial_bytes(args.weight, rows_, *options_.launch);
            if (partial_bytes > 0 && scratch_table().gemm_arrivals(args.weight, rows_) <= options_.n_arrivals) {
                many.partials = static_cast<float*>(scratch_.take(partial_bytes));
                many.arrivals = options_.arrivals;
            }
            push("gemm", many);
            scratch_.give(many.partials);
        }
        done_operand(linear.x);
    }

    void add(const SparseDevice& sparse) {
        const Live x = operand_of(sparse.x);
        SparseRowsArgs args;
        args.entries = sparse.entries;
        args.begins = sparse.begins;
        args.values = sparse.values;
        args.n_rows = value(sparse.out).width;
        args.n_columns = value(sparse.x).width;
        args.x = x.operand.data;
        args.form = x.operand.form;
        args.n_tokens = rows_;
        args.rms = x.rms;
        if (sparse.adds_to >= 0) {
            take_over(sparse.out, sparse.adds_to);
        } else {
            args.write = SparseRowsArgs::Write::replace;
            make_floats(sparse.out);
        }
        args.y = floats(sparse.out);
        args.y_stride = stride(sparse.out);
        push("sparse rows", args);
        done(sparse.x);
    }

    // By cuBLASLt: rows of the matrix as bf16 or as the 8-bit floats that they are, as many as its workspace has room for, then the product.
    void multiply(const LinearDevice& linear, const MatrixDevice& matrix, const Live& x, float* y, const NextNorm& next) {
        const GpuWeight& weight = matrix.weight;
        const bool gate = linear.write == GemvWrite::gate, activates = linear.write == GemvWrite::activate, fp8 = options_.matmul == Matmul::fp8 && takes_fp8(weight);
        const std::int64_t n_columns = weight.n_columns, padded = fp8 ? fp8_columns(n_columns) : (n_columns + 7) / 8 * 8;
        const std::int64_t n_rows = gate || fp8 ? std::int64_t{weight.n_tiles} * 16 : weight.n_rows;  // pairs fill whole tiles
        float* target = gate || activates || fp8 ? scratch_.take_floats(rows_ * n_rows) : y + matrix.offset;
        const std::int64_t target_stride = gate || activates || fp8 ? n_rows : stride(linear.out), number_bytes = fp8 ? 1 : 2;
        const Live* coded = fp8 ? &codes_of(linear.x) : nullptr;
        const std::int64_t at_once = std::max<std::int64_t>(256, library_weight_bytes / (number_bytes * padded) / 256 * 256);
        for (std::int64_t first = 0; first < n_rows; first += at_once) {
            const std::int64_t n = std::min(at_once, n_rows - first);
            void* rows = scratch_.take(static_cast<std::size_t>(n * padded * number_bytes));
            MatmulArgs args;
            if (fp8) {
                push("rows of fp8", Fp8RowsArgs{weight, first, n, rows});
                args.numbers = MatmulArgs::Numbers::e4m3;
                args.x = coded->codes;
                args.x_stride = args.n_columns = padded;
            } else {
                push("dequantize", DequantizeArgs{weight, first, n, rows, padded});
                args.x = x.operand.data;
                args.x_stride = args.n_columns = n_columns;
                args.bias = gate || matrix.bias == nullptr ? nullptr : matrix.bias + first;
                args.factor = linear.factor;
                args.write = linear.write == GemvWrite::add ? MatmulArgs::Write::add : MatmulArgs::Write::replace;
            }
            args.weight = rows;
            args.weight_stride = padded;
            args.y = target + first;
            args.y_stride = target_stride;
            args.n_tokens = rows_;
            args.n_rows = n;
            args.workspace = options_.workspace;
            args.workspace_bytes = options_.workspace_bytes;
            push(fp8 ? "cublaslt fp8" : "cublaslt", args);
            scratch_.give(rows);
        }
        if (fp8 && !gate) {
            Fp8ResultArgs args;
            args.x = target;
            args.x_stride = target_stride;
            args.token_scales = coded->code_scales;
            args.row_scales = weight.row_scales;
            args.bias = matrix.bias;
            args.n_tokens = rows_;
            args.n_rows = weight.n_rows;
            args.factor = linear.factor;
            args.softcap = linear.softcap;
            args.write = linear.write == GemvWrite::add ? Fp8ResultArgs::Write::add : Fp8ResultArgs::Write::replace;
            args.y = activates ? target : y + matrix.offset;
            args.y_stride = activates ? target_stride : stride(linear.out);
            push("scales of fp8", args);
        }
        if (gate) {
            PairsArgs pairs{target, matrix.bias};
            if (fp8) pairs.token_scales = coded->code_scales, pairs.row_scales = weight.row_scales;
            pairs.n_tokens = rows_;
            pairs.n_pairs = weight.n_rows / 2;
            pairs.activation = linear.activation;
            pairs.operand = next.operand;
            push("activation of pairs", pairs);
        } else if (activates) {
            ElementLaunchArgs args;
            args.kind = ElementKind::activation;
            args.activation = linear.activation;
            args.a = target;
            args.a_stride = target_stride;
            args.n_tokens = rows_;
            args.n_columns = weight.n_rows;
            args.operand = next.operand;
            push("activation", args);
        } else if (!fp8 && linear.softcap > 0) {
            ElementLaunchArgs args;
            args.kind = ElementKind::softcap;
            args.a = args.y = target;
            args.a_stride = args.y_stride = target_stride;
            args.n_tokens = rows_;
            args.n_columns = n_rows;
            args.factor = linear.softcap;
            push("softcap", args);
        }
        if (gate || activates || fp8) scratch_.give(target);
    }
    // The operand of a matrix as 8-bit floats; products that share it share them.
    const Live& codes_of(int v) {
        Live& live = live_[static_cast<std::size_t>(v)];
        if (live.codes != nullptr) return live;
        live.codes = scratch_.take(static_cast<std::size_t>(rows_ * fp8_columns(value(v).width)));
        live.code_scales = scratch_.take_floats(rows_);
        push("inputs as fp8", QuantizeRowsArgs{live.operand.data, rows_, value(v).width, live.codes, live.code_scales});
        return live;
    }

    void add(const RopeDevice& rope) {
        RopeWriteArgs args;
        const int first = rope.q >= 0 ? rope.q : rope.k >= 0 ? rope.k : rope.v;
        args.qkv = root(first).floats;
        args.qkv_stride = stride(first);
        args.q_offset = rope.q >= 0 ? offset(rope.q) : -1;
        args.k_offset = rope.k >= 0 ? offset(rope.k) : -1;
        args.v_offset = rope.v >= 0 ? offset(rope.v) : -1;
        args.n_heads = rope.q >= 0 ? rope.n_heads : 0;
        args.q_norm = rope.q_norm;
        args.k_norm = rope.k_norm;
        args.norm_eps = rope.norm_eps;
        args.inv_freq = rope.inv_freq;
        args.rotary_dim = rope.rotary_dim;
        args.magnitude = rope.magnitude;
        args.style = rope.style;
        if (rope.q >= 0) {
            args.q = floats(rope.q);
            args.q_stride = stride(rope.q);
        }
        args.tokens = tokens_;
        if (rope.state >= 0) args.state = states_[static_cast<std::size_t>(rope.state)].view;
        else args.state.head_dim = rope.head_dim;
        push(rope.state >= 0 ? "rope and state write" : "rope", args);
        for (int v : {rope.q, rope.k, rope.v}) done(v);
    }

    void add(const AttentionDevice& attention) {
        AttentionCommon common;
        common.q = floats(attention.q);
        common.q_stride = stride(attention.q);
        common.n_heads = attention.op.n_heads;
        common.state = states_[static_cast<std::size_t>(attention.state)].view;
        common.tokens = tokens_;
        common.window = attention.op.window;
        common.scale = attention.op.scale;
        common.softcap = attention.op.softcap;
        if (value(attention.out).as_floats || !value(attention.out).as_operand) {
            common.y = make_floats(attention.out);
            common.y_stride = value(attention.out).width;
        }
        if (value(attention.out).as_operand) common.operand = make_operand(attention.out);
        if (options_.attention == PromptAttention::cudnn && !shape_.segments.empty() && common.state.form == StateForm::bf16) {
            attend(common, attention.op.head_dim);
        } else if (shape_.attention == RunShape::Attention::prefill) {
            push("prefill attention", PrefillAttentionArgs{common, inputs_.tiles, shape_.n_tiles});
        } else {
            DecodeAttentionArgs args;
            args.common = common;
            args.n_splits = scratch_table().decode_attention_splits(options_.capacity, attention.op.n_kv_heads, *options_.launch);
            args.partials = scratch_.take_floats(scratch_table().decode_partial_floats(rows_, attention.op.n_heads, attention.op.head_dim, args.n_splits));
            args.arrivals = options_.arrivals;
            push("decode attention", args);
            scratch_.give(args.partials);
        }
        done(attention.q);
    }

    // By cuDNN: queries as bf16, one sequence after another, the result as numbers and operand. What it leaves behind the tokens of a sequence, the next one writes over.
    void attend(const AttentionCommon& common, std::int64_t head_dim) {
        const std::int64_t width = common.n_heads * head_dim;
        const auto row_bytes = [&](std::int64_t n) { return scratch_table().operand_bytes(OperandForm::rows, n, width); };
        std::int64_t n_rows = rows_, first = 0;
        for (const Segment& segment : shape_.segments) {
            n_rows = std::max(n_rows, first + segment.n_rows);
            first += segment.n_tokens;
        }
        auto* q = static_cast<std::byte*>(scratch_.take(row_bytes(n_rows)));
        auto* y = static_cast<std::byte*>(scratch_.take(row_bytes(n_rows)));
        ElementLaunchArgs narrow;
        narrow.kind = ElementKind::scale;
        narrow.a = common.q;
        narrow.a_stride = common.q_stride;
        narrow.n_tokens = rows_;
        narrow.n_columns = width;
        narrow.factor = 1;
        narrow.operand = {OperandForm::rows, q, width};
        push("operand", narrow);
        first = 0;
        const std::int32_t* lengths = inputs_.segment_lengths;
        for (const Segment& segment : shape_.segments) {
            SequenceAttentionArgs args;
            args.q = q + row_bytes(first);
            args.y = y + row_bytes(first);
            args.n_rows = segment.n_rows;
            args.n_heads = common.n_heads;
            args.state = common.state;
            args.sequence = segment.sequence;
            args.n_pages = segment.n_pages;
            args.n_pool_pages = options_.n_pool_pages;
            args.n_tokens = lengths;
            args.n_positions = lengths + 4;
            args.scale = common.scale;
            args.softcap = common.softcap;
            args.window = common.window;
            args.workspace = options_.workspace;
            args.workspace_bytes = options_.workspace_bytes;
            push("cudnn attention", args);
            first += segment.n_tokens;
            lengths += segment_stride;
        }
        push("rows of attention", WidenArgs{y, rows_, width, common.y, common.y_stride, common.operand});
        scratch_.give(q);
        scratch_.give(y);
    }

    void add(const ElementDevice& element) {
        ElementLaunchArgs args;
        args.kind = element.kind;
        args.a = floats(element.a);
        args.a_stride = stride(element.a);
        if (element.b >= 0) {
            args.b = floats(element.b) + element.b_column;
            args.b_stride = stride(element.b);
        }
        if (element.columns != nullptr) args.b = element.columns;
        args.order = element.order;
        args.n_tokens = rows_;
        args.n_columns = value(element.out).width;
        args.factor = element.factor;
        args.activation = element.activation;
        if (value(element.out).as_floats || !value(element.out).as_operand) {
            args.y = make_floats(element.out);
            args.y_stride = value(element.out).width;
        }
        if (value(element.out).as_operand) args.operand = make_operand(element.out);
        push("elements", args);
        done(element.a);
        done(element.b);
    }

    // From here on only the rows whose logits are wanted.
    void add(const SelectDevice& select) {
        in_head_ = true;
        if (shape_.selection == RunShape::Selection::all) {
            Live &out = live_[static_cast<std::size_t>(select.out)], &in = live_[static_cast<std::size_t>(select.x)];
            out.floats = in.floats;
            out.stride = in.stride;
            out.owned = in.readers == 1 && in.owned;
            if (out.owned) in.owned = false;
            done(select.x);
            return;
        }
        const std::int64_t n = shape_.n_selected;
        const float* x = dense(select.x);  // of all rows
        rows_ = std::max<std::int64_t>(n, 1);
        float* y = make_floats(select.out);
        push("select", SelectArgs{x, inputs_.selected, y, n, value(select.out).width});
        drop_copy();
        done(select.x);
    }

    void add(const RouteDevice& route) {
        RouteLaunchArgs args;
        args.logits = dense(route.logits);
        args.n_tokens = rows_;
        args.n_experts = value(route.out).width;
        args.n_used = route.op.n_used;
        args.rule = route.op.rule == RouteOp::Rule::softmax_then_top ? RouteLaunchArgs::Rule::softmax_then_top : RouteLaunchArgs::Rule::top_then_softmax;
        args.divide = route.op.normalize ? RouteLaunchArgs::Divide::by_their_sum : RouteLaunchArgs::Divide::as_they_are;
        args.y = make_floats(route.out);
        push("route", args);
        drop_copy();
        done(route.logits);
    }

    void add(const ConvDevice& conv) {
        ConvLaunchArgs args;
        args.x = dense(conv.x);
        args.taps = conv.taps;
        args.bias = conv.bias;
        args.rings = states_[static_cast<std::size_t>(conv.state)].rings;
        args.tokens = tokens_;
        args.n_taps = conv.n_taps;
        args.n_columns = value(conv.out).width;
        args.y = make_floats(conv.out);
        push("convolution", args);
        drop_copy();
        done(conv.x);
    }

    // Between the operators of one block whose weights are copied there and those of another.
    void stream(int block) {
        if (block == streamed_) return;
        if (streamed_ >= 0) push("end of a layer's weights", StreamArgs{model_.stream.get(), streamed_, StreamArgs::When::end});
        if (block >= 0) push("a layer's weights", StreamArgs{model_.stream.get(), block, StreamArgs::When::begin});
        streamed_ = block;
    }

    // The embedding of the next run reads what is written here.
    void choose() {
        SampleArgs args = options_.choose;
        args.logits = program_.output;
        args.stride = args.n_vocab = value(model_.output).width;
        args.n_tokens = rows_;
        args.ids = inputs_.tokens;
        args.positions = inputs_.positions;
        args.feed = SampleArgs::Feed::advance;
        push("choice of a token", args);
    }

    const Table& scratch_table() const { return scratch_.table(); }
    static constexpr std::int64_t library_weight_bytes = std::int64_t{256} << 20;

    const DeviceModel& model_;
    const std::vector<StatePlace>& states_;
    const RunShape& shape_;
    const RunInputs& inputs_;
    const EmitOptions& options_;
    Scratch& scratch_;
    std::vector<Live> live_;
    DeviceProgram program_;
    TokenView tokens_;
    const std::string* name_ = nullptr;
    std::int64_t rows_;
    float* copy_ = nullptr;  // of dense()
    bool looked_for_select_ = false, in_head_ = false;
    int select_in_ = -1, select_out_ = -1, streamed_ = -1;
};

}  // namespace

std::int64_t segment_rows(std::int64_t n_tokens) { return std::max<std::int64_t>(segment_min_tokens, static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(n_tokens)))); }
std::int64_t segment_pages(std::int64_t n_positions, std::int64_t max_pages) {
    constexpr std::uint64_t least = 16;
    const auto needed = static_cast<std::uint64_t>((n_positions + page_positions - 1) / page_positions);
    return std::min(max_pages, static_cast<std::int64_t>(std::max(least, std::bit_ceil(needed))));
}

DeviceProgram emit(const DeviceModel& model, const std::vector<StatePlace>& states, const RunShape& shape, const RunInputs& inputs, const EmitOptions& options, Scratch& scratch) {
    return Emitter(model, states, shape, inputs, options, scratch).run();
}

namespace {

struct Launcher {
    const Table& table;
    const Launch& launch;
    int operator()(const EmbedArgs& args) const { return table.embed(args, launch); }
    int operator()(const NormLaunchArgs& args) const { return table.norm(args, launch); }
    int operator()(const GemvArgs& args) const { return table.gemv(args, launch); }
    int operator()(const GemmArgs& args) const { return table.gemm(args, launch); }
    int operator()(const SparseRowsArgs& args) const { return table.sparse_rows(args, launch); }
    int operator()(const RopeWriteArgs& args) const { return table.rope_write(args, launch); }
    int operator()(const DecodeAttentionArgs& args) const { return table.decode_attention(args, launch); }
    int operator()(const PrefillAttentionArgs& args) const { return table.prefill_attention(args, launch); }
    int operator()(const ElementLaunchArgs& args) const { return table.elements(args, launch); }
    int operator()(const SelectArgs& args) const { return table.select_rows(args.x, args.index, args.y, args.n_rows, args.n_columns, launch); }
    int operator()(const RouteLaunchArgs& args) const { return table.route(args, launch); }
    int operator()(const ConvLaunchArgs& args) const { return table.causal_conv(args, launch); }
    int operator()(const DequantizeArgs& args) const { return table.dequantize(args, launch); }
    int operator()(const MatmulArgs& args) const { return table.matmul(args, launch); }
    int operator()(const PairsArgs& args) const { return table.pairs(args, launch); }
    int operator()(const SequenceAttentionArgs& args) const { return table.sequence_attention(args, launch); }
    int operator()(const WidenArgs& args) const { return table.widen(args, launch); }
    int operator()(const QuantizeRowsArgs& args) const { return table.quantize_rows(args, launch); }
    int operator()(const Fp8RowsArgs& args) const { return table.fp8_rows(args, launch); }
    int operator()(const Fp8ResultArgs& args) const { return table.fp8_result(args, launch); }
    int operator()(const SampleArgs& args) const { return table.sample(args, launch); }
    int operator()(const StreamArgs& args) const { return args.when == StreamArgs::When::begin ? args.stream->begin(args.block) : args.stream->end(args.block); }
};

}  // namespace

int launch_step(const Table& table, const DeviceStep& step, const Launch& launch) { return std::visit(Launcher{table, launch}, step.args); }

}  // namespace skiff::cuda
