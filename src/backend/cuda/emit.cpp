#include "backend/cuda/emit.h"

#include <algorithm>
#include <bit>

#include "backend/cuda/emitter.h"

namespace skiff::cuda {

Emitter::Emitter(const DeviceModel& model, const std::vector<StatePlace>& states, const RunShape& shape, const RunInputs& inputs, const EmitOptions& options, Scratch& scratch)
    : model_(model), states_(states), shape_(shape), inputs_(inputs), options_(options), scratch_(scratch), live_(model.values.size()), rows_(shape.n_tokens) {
    for (std::size_t v = 0; v < live_.size(); ++v) live_[v].readers = model.values[v].readers;
    tokens_ = {shape.n_tokens, inputs.positions, inputs.sequences};
}

DeviceProgram Emitter::run() {
    scratch_.begin();
    if (model_.input >= 0) {
        Live& input = live_[static_cast<std::size_t>(model_.input)];
        input.floats = const_cast<float*>(inputs_.hidden);
        input.stride = model_.input_width;
    }
    for (std::size_t i = 0; i < model_.ops.size(); ++i) {
        at_ = i;
        name_ = &model_.ops[i].name;
        stream(model_.ops[i].streamed);
        if (i == done_already_) continue;
        if (shape_.n_selected == 0 && std::holds_alternative<SelectDevice>(model_.ops[i].detail)) return std::move(program_);  // nobody wants logits
        std::visit([&](const auto& detail) { add(detail); }, model_.ops[i].detail);
    }
    stream(-1);
    for (int v : model_.taps) program_.taps.push_back({value(v).name, floats(v), stride(v), value(v).width});
    program_.output = const_cast<float*>(dense(model_.output));
    if (shape_.then == RunShape::Then::choose) choose();
    return std::move(program_);
}

float* Emitter::make_floats(int v) {
    Live& live = live_[static_cast<std::size_t>(v)];
    live.floats = scratch_.take_floats(rows_ * value(v).width);
    live.stride = value(v).width;
    live.owned = true;
    return live.floats;
}

const float* Emitter::dense(int v) {
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

void Emitter::done(int v) {
    if (v < 0) return;
    Live& live = root(v);
    if (--live.readers > 0) return;
    if (live.owned) scratch_.give(live.floats);
    live.owned = false;
    free_operand(model_.root(v));
}

void Emitter::free_operand(int v) {
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

void Emitter::take_over(int to, int from) {
    Live &target = live_[static_cast<std::size_t>(to)], &source = live_[static_cast<std::size_t>(from)];
    target.floats = source.floats;
    target.stride = source.stride;
    target.owned = source.owned;
    source.owned = false;
    free_operand(from);
    --source.readers;
}

Operand Emitter::make_operand(int v) {
    Live& live = live_[static_cast<std::size_t>(v)];
    live.operand = scratch_.take_operand(form(), value(v).width);
    return live.operand;
}

NextNorm Emitter::next_of(int v) {
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

bool Emitter::select_reads(int v) {
    if (!looked_for_select_) {
        looked_for_select_ = true;
        for (const DeviceOp& op : model_.ops)
            if (const auto* select = std::get_if<SelectDevice>(&op.detail)) select_in_ = select->x, select_out_ = select->out;
    }
    return select_in_ == v;
}

const Emitter::Live& Emitter::operand_of(int v) {
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

void Emitter::done_operand(int v) {
    // Of a column of a product the operand is its own; it goes when the product goes, or now if nobody else multiplies it.
    if (value(v).parent >= 0) free_operand(v);
    done(v);
}

void Emitter::stream(int block) {
    if (block == streamed_) return;
    if (streamed_ >= 0) push("end of a layer's weights", StreamArgs{model_.stream.get(), streamed_, StreamArgs::When::end});
    if (block >= 0) push("a layer's weights", StreamArgs{model_.stream.get(), block, StreamArgs::When::begin});
    streamed_ = block;
}

void Emitter::choose() {
    SampleArgs args = options_.choose;
    args.logits = program_.output;
    args.stride = args.n_vocab = value(model_.output).width;
    args.n_tokens = rows_;
    args.ids = inputs_.tokens;
    args.positions = inputs_.positions;
    args.feed = SampleArgs::Feed::advance;
    push("choice of a token", args);
}

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
    int operator()(const ExpertsArgs& args) const { return table.experts(args, launch); }
    int operator()(const ConvLaunchArgs& args) const { return table.causal_conv(args, launch); }
    int operator()(const DequantizeArgs& args) const { return table.dequantize(args, launch); }
    int operator()(const MatmulArgs& args) const { return table.matmul(args, launch); }
    int operator()(const CutlassProductArgs& args) const { return table.cutlass(args, launch); }
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
