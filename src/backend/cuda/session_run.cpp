// How a session runs: what a run reads, its program, what is fed.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "backend/cuda/cuda_session.h"

namespace skiff::cuda {

// ---- what a run reads

std::size_t CudaSession::inputs_bytes() const { return static_cast<std::size_t>(options_.session.max_batch) * (4 * sizeof(std::int32_t) + sizeof(PrefillTile)) + static_cast<std::size_t>(options_.session.max_batch / segment_min_tokens * segment_stride) * sizeof(std::int32_t) + 256; }

// One behind the other, so that they come in one copy.
RunInputs CudaSession::inputs_of(const RunShape& shape) const {
    RunInputs inputs;
    auto* numbers = reinterpret_cast<std::int32_t*>(inputs_);
    inputs.tokens = numbers;
    inputs.positions = numbers + shape.n_tokens;
    inputs.sequences = numbers + 2 * shape.n_tokens;
    inputs.selected = numbers + 3 * shape.n_tokens;
    inputs.tiles = reinterpret_cast<const PrefillTile*>(numbers + 3 * shape.n_tokens + (shape.n_selected + 3) / 4 * 4 + (4 - 3 * shape.n_tokens % 4) % 4);
    inputs.segment_lengths = reinterpret_cast<const std::int32_t*>(inputs.tiles + shape.n_tiles);
    inputs.hidden = hidden_;
    return inputs;
}

EmitOptions CudaSession::emit_options() const {
    EmitOptions options;
    options.launch = &device_->launch();
    options.capacity = pages_->capacity();
    options.matmul = options_.matmul;
    options.attention = options_.attention;
    options.n_pool_pages = pages_->n_pages();
    options.fuse = options_.fuse == DeviceModelOptions::Fuse::on ? EmitOptions::Fuse::on : EmitOptions::Fuse::off;
    options.arrivals = arrivals_;
    options.n_arrivals = n_arrivals_;
    options.workspace = workspace_;
    options.workspace_bytes = workspace_ != nullptr ? workspace_bytes : 0;
    options.kept_rows = &kept_rows_;
    options.choose.temperature = feed_rule_.temperature;
    options.choose.top_k = static_cast<std::int32_t>(feed_rule_.temperature > 0 ? feed_rule_.top_k : 1);
    options.choose.top_p = feed_rule_.top_p;
    if (feed_rule_.min_p > 0) options.choose.log_min_p = std::log(feed_rule_.min_p);
    options.choose.uniforms = feed_uniforms_;
    options.choose.n_uniforms = feed_ring;
    options.choose.history = feed_history_;
    options.choose.history_length = pages_->capacity() + 1;
    options.choose.scratch = reinterpret_cast<float*>(top_scratch_);
    return options;
}

// Neighbouring tokens of a sequence make tiles; where there are few neighbours (many sequences of a token each), each token attends by itself.
RunShape CudaSession::shape_of(const Chunk& chunk, std::vector<PrefillTile>& tiles) const {
    RunShape shape;
    shape.n_tokens = static_cast<std::int64_t>(chunk.positions.size());
    shape.n_selected = static_cast<std::int64_t>(chunk.selected.size());
    shape.selection = shape.n_selected == shape.n_tokens ? RunShape::Selection::all : RunShape::Selection::some;
    if (shape.n_tokens > 1 && shape.n_tokens <= graph_tokens) {
        const std::set<std::int32_t> different(chunk.sequences.begin(), chunk.sequences.end());
        if (different.size() == chunk.sequences.size()) shape.tokens = RunShape::Tokens::one_each;
    }
    if (!takes_prompts_ || shape.n_tokens <= max_gemv_tokens) return shape;
    for (std::int32_t t = 0; t < static_cast<std::int32_t>(shape.n_tokens); ++t) {
        const auto i = static_cast<std::size_t>(t);
        const bool joins = !tiles.empty() && chunk.sequences[i] == tiles.back().sequence && chunk.positions[i] == tiles.back().first_position + tiles.back().n_tokens &&
                           tiles.back().n_tokens < prefill_tile_tokens;
        if (joins) ++tiles.back().n_tokens;
        else tiles.push_back({t, 1, chunk.sequences[i], chunk.positions[i]});
    }
    if (static_cast<std::int64_t>(tiles.size()) * 4 > shape.n_tokens && shape.n_tokens <= graph_tokens) {
        tiles.clear();
        return shape;
    }
    shape.attention = RunShape::Attention::prefill;
    shape.tokens = RunShape::Tokens::any;
    shape.n_tiles = static_cast<std::int64_t>(tiles.size());
    if (options_.attention == PromptAttention::cudnn) shape.segments = segments_of(chunk);
    return shape;
}

// None where one would be too short for a plan of its own.
std::vector<Segment> CudaSession::segments_of(const Chunk& chunk) const {
    std::vector<Segment> segments;
    std::int64_t end = 0;  // position behind the last token
    for (std::size_t i = 0; i < chunk.positions.size(); ++i, ++end) {
        const bool joins = !segments.empty() && chunk.sequences[i] == segments.back().sequence && chunk.positions[i] == end;
        if (!joins && !segments.empty() && segments.back().n_tokens < segment_min_tokens) return {};
        if (!joins) segments.push_back({chunk.sequences[i], 0, 0, 0}), end = chunk.positions[i];
        Segment& segment = segments.back();
        ++segment.n_tokens;
        segment.n_pages = segment_pages(end + 1, pages_->max_pages());
    }
    if (segments.empty() || segments.back().n_tokens < segment_min_tokens) return {};
    for (Segment& segment : segments) segment.n_rows = segment_rows(segment.n_tokens);
    return segments;
}

Result<CudaSession::Slot*> CudaSession::next_slot() {
    const std::size_t hidden_bytes = static_cast<std::size_t>(options_.session.max_batch * model_.input_width) * sizeof(float);
    const std::size_t table_bytes = static_cast<std::size_t>(pages_->n_pages()) * sizeof(std::int32_t);
    if (slots_.size() < n_slots) {
        Slot slot;
        const auto uniform_bytes = static_cast<std::size_t>(most_chain() * FeedQueue::most) * sizeof(double);
        SKIFF_TRY(slot.memory, device_->allocate_pinned(std::max(inputs_bytes() + hidden_bytes + table_bytes, uniform_bytes), "the inputs of a run", "take a smaller --batch or --device cpu"));
        SKIFF_CHECK(device_->check(device_->table().make_event(&slot.free), "making an event"));
        slots_.push_back(slot);
        return &slots_.back();
    }
    Slot& slot = slots_[next_slot_];
    next_slot_ = (next_slot_ + 1) % slots_.size();
    if (slot.used) SKIFF_CHECK(device_->check(device_->table().wait_event(slot.free), "waiting for an earlier run"));
    return &slot;
}

Status CudaSession::stage(const RunShape& shape, const Chunk& chunk, const std::vector<PrefillTile>& tiles) {
    const Table& table = device_->table();
    SKIFF_TRY(Slot * slot, next_slot());
    std::byte* end = slot->memory;
    const RunInputs places = inputs_of(shape);
    const auto put = [&](const void* target, const void* source, std::size_t size_bytes) {
        const std::size_t offset = static_cast<std::size_t>(static_cast<const std::byte*>(target) - inputs_);
        if (size_bytes > 0) std::memcpy(slot->memory + offset, source, size_bytes);
        end = std::max(end, slot->memory + offset + size_bytes);
    };
    put(places.tokens, chunk.tokens.data(), chunk.tokens.size() * 4);
    put(places.positions, chunk.positions.data(), chunk.positions.size() * 4);
    put(places.sequences, chunk.sequences.data(), chunk.sequences.size() * 4);
    put(places.selected, chunk.selected.data(), chunk.selected.size() * 4);
    put(places.tiles, tiles.data(), tiles.size() * sizeof(PrefillTile));
    std::vector<std::int32_t> lengths;
    std::size_t last = 0;
    for (const Segment& segment : shape.segments) {
        last += static_cast<std::size_t>(segment.n_tokens);
        const std::int32_t row[segment_stride] = {static_cast<std::int32_t>(segment.n_tokens), 0, 0, 0, chunk.positions[last - 1] + 1};
        lengths.insert(lengths.end(), std::begin(row), std::end(row));
    }
    put(places.segment_lengths, lengths.data(), lengths.size() * sizeof(std::int32_t));
    SKIFF_CHECK(device_->check(table.copy_in(inputs_, slot->memory, static_cast<std::size_t>(end - slot->memory), device_->stream()), "copying tokens to the device"));
    std::byte* more = slot->memory + inputs_bytes();
    if (chunk.hidden != nullptr) {
        const std::size_t size = static_cast<std::size_t>(shape.n_tokens * model_.input_width) * sizeof(float);
        std::memcpy(more, chunk.hidden, size);
        SKIFF_CHECK(device_->check(table.copy_in(hidden_, more, size, device_->stream()), "copying hidden states to the device"));
        more += size;
    }
    SKIFF_CHECK(put_page_table(more));
    SKIFF_CHECK(device_->check(table.record(slot->free, device_->stream()), "recording an event"));
    slot->used = true;
    return {};
}

// Where it has changed, from a place in a slot that nothing else uses.
Status CudaSession::put_page_table(std::byte* at) {
    if (!pages_->take_changed()) return {};
    const auto rows = pages_->rows();
    std::memcpy(at, rows.data(), rows.size_bytes());
    return device_->check(device_->table().copy_in(table_rows_, at, rows.size_bytes(), device_->stream()), "copying the page table to the device");
}

// ---- running

// The libraries say now whether they have what each step needs: in the middle of a run it would be too late for another way.
Result<DeviceProgram> CudaSession::lay_out(const RunShape& shape) {
    const Table& table = device_->table();
    for (;;) {
        DeviceProgram program = emit(model_, places_, shape, inputs_of(shape), emit_options(), *scratch_);
        if (!scratch_->fits()) return program;
        bool left = false;
        for (const DeviceStep& step : program.steps) {
            if (const auto* product = std::get_if<MatmulArgs>(&step.args)) {
                const int error = table.prepare_matmul(*product);
                if (error != 0) SKIFF_CHECK(leave_library(device_->check(error, options_.cublaslt + " for " + step.name)));
                left = error != 0;
            } else if (const auto* attention = std::get_if<SequenceAttentionArgs>(&step.args)) {
                const int error = table.prepare_sequence_attention(*attention);
                if (error != 0) leave_cudnn(device_->check(error, options_.cudnn + " for " + step.name));
                left = error != 0;
            }
            if (left) break;
        }
        if (!left) return program;
    }
}

Result<CudaSession::Program*> CudaSession::program_for(const RunShape& shape) {
    if (const auto found = programs_.find(shape); found != programs_.end()) return &found->second;
    if (programs_.size() >= most_programs) {
        SKIFF_CHECK(device_->wait());
        forget_programs();
    }
    SKIFF_TRY(DeviceProgram program, lay_out(shape));
    for (int n_placed = 0; !scratch_->fits(); ++n_placed) {
        if (n_placed == 3) return runtime_error("a program does not fit the memory that it was measured for; please report this");  // three times: both libraries may have been left
        SKIFF_CHECK(device_->wait());
        forget_programs();
        SKIFF_CHECK(scratch_->place(*device_));
        SKIFF_TRY(program, lay_out(shape));
    }
    return &programs_.emplace(shape, Program{std::move(program)}).first->second;
}

Status CudaSession::execute(const RunShape& shape, Program& entry) {
    const Table& table = device_->table();
    const Launch& launch = device_->launch();
    const auto launch_all = [&]() -> Status {
        for (const DeviceStep& step : entry.program.steps)
            if (const int error = launch_step(table, step, launch); error != 0) return device_->check(error, std::string(step.kernel) + " of " + step.name);
        return {};
    };
    if (profile_ != nullptr && shape.n_tokens == 1) {
        rings_touched_ = true;
        return execute_profiled(entry.program);
    }
    const bool capture = model_.stream == nullptr && options_.graphs == DeviceSessionOptions::Graphs::on && shape.attention == RunShape::Attention::decode && shape.n_tokens <= graph_tokens;
    // The first run is launched as it is: it loads the kernels, which a capture must not.
    if (!capture || entry.runs++ == 0) {
        rings_touched_ = true;
        return launch_all();
    }
    if (entry.graph == nullptr) {
        SKIFF_CHECK(device_->check(table.begin_capture(device_->stream()), "beginning a graph"));
        Status status = launch_all();
        Graph graph = nullptr;
        const int error = table.end_capture(device_->stream(), &graph);
        if (status.ok()) status = device_->check(error, "making a graph");
        if (!status.ok()) {  // what was captured may end before the step that failed
            if (graph != nullptr) table.destroy_graph(graph);
            return status;
        }
        entry.graph = graph;
    }
    rings_touched_ = true;
    return device_->check(table.launch_graph(entry.graph, device_->stream()), "launching a graph");
}

Status CudaSession::execute_profiled(const DeviceProgram& program) {
    const Table& table = device_->table();
    std::vector<Event> events(program.steps.size() + 1, nullptr);
    Status status;
    for (Event& event : events)
        if (status.ok()) status = device_->check(table.make_event(&event), "making an event");
    if (status.ok()) status = device_->check(table.record(events[0], device_->stream()), "recording an event");
    for (std::size_t i = 0; i < program.steps.size() && status.ok(); ++i) {
        status = device_->check(launch_step(table, program.steps[i], device_->launch()), std::string(program.steps[i].kernel) + " of " + program.steps[i].name);
        if (status.ok()) status = device_->check(table.record(events[i + 1], device_->stream()), "recording an event");
    }
    if (status.ok()) status = device_->wait();
    profile_->resize(program.steps.size());
    for (std::size_t i = 0; i < program.steps.size() && status.ok(); ++i) {
        float ms = 0;
        status = device_->check(table.elapsed_ms(events[i], events[i + 1], &ms), "reading an event");
        (*profile_)[i] += ms * 1e-3;
    }
    for (Event event : events)
        if (event != nullptr) table.destroy_event(event);
    return status;
}

Status CudaSession::run(Chunk& chunk) {
    std::vector<PrefillTile> tiles;
    const RunShape shape = shape_of(chunk, tiles);
    SKIFF_TRY(Program * entry, program_for(shape));
    SKIFF_CHECK(stage(shape, chunk, tiles));
    SKIFF_CHECK(execute(shape, *entry));
    last_ = &entry->program;
    last_tokens_ = shape.n_tokens;
    tapped_.clear();
    taps_->show(&last_->taps, last_tokens_);
    return {};
}

Status CudaSession::append(std::int64_t sequence, std::int64_t n_tokens) {
    std::vector<PageCopy> copies;
    SKIFF_CHECK(pages_->append(sequence, n_tokens, copies));
    return copies.empty() ? Status() : copy_pages(copies);
}

Status CudaSession::copy_pages(const std::vector<PageCopy>& copies) {
    for (const Pool& pool : pools_) {
        if (pool.page_bytes == 0) continue;
        for (std::byte* base : {pool.keys, pool.values})
            for (const PageCopy& copy : copies)
                SKIFF_CHECK(device_->check(device_->table().copy_within(base + static_cast<std::size_t>(copy.to) * pool.page_bytes, base + static_cast<std::size_t>(copy.from) * pool.page_bytes, pool.page_bytes,
                                                                       device_->stream()),
                                           "copying pages of the state"));
    }
    return {};
}

Status CudaSession::check(std::span<const BatchItem> items) const {
    std::vector<std::int64_t> added(static_cast<std::size_t>(pages_->n_sequences()), 0);
    for (const BatchItem& item : items) {
        if (!item.hidden.empty()) return unsupported("a device takes hidden states one sequence at a time (forward_hidden)");
        if (item.sequence < 0 || item.sequence >= pages_->n_sequences()) return usage_error("sequence " + std::to_string(item.sequence) + " is not in this session");
        for (std::int32_t token : item.tokens)
            if (token < 0 || token >= plan_.spec.n_vocab)
                return usage_error("token " + std::to_string(token) + " is outside the vocabulary of " + std::to_string(plan_.spec.n_vocab));
        std::int64_t& n = added[static_cast<std::size_t>(item.sequence)];
        n += static_cast<std::int64_t>(item.tokens.size());
        if (pages_->length(item.sequence) + n <= pages_->capacity()) continue;
        if (pages_->capacity() == plan_.max_positions) return resource_error("the model has learned positions for " + std::to_string(plan_.max_positions) + " tokens, the context is full");
        return resource_error("the context of " + std::to_string(pages_->capacity()) + " tokens is full; start with a larger --ctx");
    }
    return {};
}

// Taps see one run, the last: of a call that takes several they would show a part, and their sums would be short.
Status CudaSession::check_taps(std::int64_t n_tokens) const {
    const std::int64_t most = std::min(most_tokens_, most_rows_);
    if (options_.taps.empty() || n_tokens <= most) return {};
    return usage_error("taps see one run of at most " + std::to_string(most) + " tokens; feed " + std::to_string(n_tokens) + " in parts");
}

// A convolution remembers its inputs in place: what is refused, interrupted or fails when tokens have gone through must be taken back. Only the plain step of decoding, a token for each
// sequence and logits that wait on the device, has nothing to be refused by but a failed launch, and goes without the copy.
bool CudaSession::needs_backup(std::span<const BatchItem> items, const LogitsSink& sink) const {
    if (!recurrent_) return false;
    if (sink) return true;
    std::int64_t n_tokens = 0;
    std::vector<bool> seen(static_cast<std::size_t>(pages_->n_sequences()), false);
    for (const BatchItem& item : items) {
        n_tokens += static_cast<std::int64_t>(item.tokens.size());
        const auto sequence = static_cast<std::size_t>(item.sequence);
        if (seen[sequence] || item.tokens.size() > 1) return true;
        seen[sequence] = true;
    }
    return n_tokens > std::min(most_tokens_, most_rows_);
}

// Behind a forward that failed. Without a copy the state is not known any more, and the session says so from now on.
Status CudaSession::undo_rings(const Status& failed, bool backed_up) {
    if (!recurrent_ || !rings_touched_) return {};
    if (backed_up) return copy_rings(ring_backup_, true);
    return Error(failed.error());
}

Status CudaSession::forward(std::span<const BatchItem> items, const LogitsSink& sink) {
    SKIFF_CHECK(device_->enter());
    if (!broken_.ok()) return Error(broken_.error());
    end_chain();
    if (model_.input >= 0) return usage_error("this stretch of the model has no embedding; give it hidden states");
    SKIFF_CHECK(check(items));
    std::size_t n_tokens = 0;
    for (const BatchItem& item : items) n_tokens += item.tokens.size();
    SKIFF_CHECK(check_taps(static_cast<std::int64_t>(n_tokens)));
    std::vector<std::int64_t> lengths;
    for (std::int64_t sequence = 0; sequence < pages_->n_sequences(); ++sequence) lengths.push_back(pages_->length(sequence));
    const bool backs_up = needs_backup(items, sink);
    rings_touched_ = false;
    if (backs_up) SKIFF_CHECK(copy_rings(ring_backup_, false));
    Status status = feed(items, sink);
    if (status.ok()) return status;
    for (std::int64_t sequence = 0; sequence < pages_->n_sequences(); ++sequence) pages_->truncate(sequence, lengths[static_cast<std::size_t>(sequence)]);
    keep(undo_rings(status, backs_up));
    return status;
}

Status CudaSession::feed(std::span<const BatchItem> items, const LogitsSink& sink) {
    gathered_.clear();
    waiting_rows_ = host_row_count_ = 0;
    std::int64_t first_row = 0, n_runs = 0;
    Chunk chunk;
    const auto rows_to = [&](bool last) -> Status {
        const auto n = static_cast<std::int64_t>(chunk.selected.size());
        if (n == 0) return {};
        if (!sink && last && gathered_.empty()) {  // they wait on the device
            waiting_rows_ = host_row_count_ = n;
            return {};
        }
        std::vector<float> rows(static_cast<std::size_t>(n * model_.output_width));
        SKIFF_CHECK(fetch(rows.data(), n));
        if (sink) return sink(first_row, rows);
        gathered_.insert(gathered_.end(), rows.begin(), rows.end());
        return {};
    };
    const auto flush = [&](bool last) -> Status {
        if (chunk.tokens.empty()) return {};
        if (n_runs++ > 0 && interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted", {}};
        SKIFF_CHECK(run(chunk));
        SKIFF_CHECK(rows_to(last));
        first_row += static_cast<std::int64_t>(chunk.selected.size());
        chunk = Chunk();
        return {};
    };
    std::size_t left = 0;
    for (const BatchItem& item : items) left += item.tokens.size();
    for (const BatchItem& item : items) {
        // A convolution walks a sequence's tokens of a run from the first to the last: they must be neighbours.
        const bool again = std::find(chunk.sequences.begin(), chunk.sequences.end(), static_cast<std::int32_t>(item.sequence)) != chunk.sequences.end();
        if (recurrent_ && again && chunk.sequences.back() != item.sequence) SKIFF_CHECK(flush(false));
        for (std::size_t i = 0; i < item.tokens.size(); ++i) {
            const bool wanted = item.logits == BatchItem::Logits::all || (item.logits == BatchItem::Logits::last && i + 1 == item.tokens.size());
            if (wanted) chunk.selected.push_back(static_cast<std::int32_t>(chunk.tokens.size()));
            chunk.tokens.push_back(item.tokens[i]);
            chunk.positions.push_back(static_cast<std::int32_t>(pages_->length(item.sequence)));
            chunk.sequences.push_back(static_cast<std::int32_t>(item.sequence));
            SKIFF_CHECK(append(item.sequence, 1));
            --left;
            const bool full = static_cast<std::int64_t>(chunk.tokens.size()) == most_tokens_ || static_cast<std::int64_t>(chunk.selected.size()) == most_rows_;
            if (full || left == 0) SKIFF_CHECK(flush(left == 0));
        }
    }
    return {};
}

Status CudaSession::forward_hidden(std::int64_t sequence, std::span<const float> input, std::vector<float>& output) {
    SKIFF_CHECK(device_->enter());
    if (!broken_.ok()) return Error(broken_.error());
    end_chain();
    if (model_.input < 0) return usage_error("this plan begins with the embedding; give it tokens");
    const std::int64_t n_tokens = static_cast<std::int64_t>(input.size()) / model_.input_width;
    if (n_tokens * model_.input_width != static_cast<std::int64_t>(input.size())) return usage_error("the hidden states are no whole number of tokens");
    if (sequence < 0 || sequence >= pages_->n_sequences()) return usage_error("sequence " + std::to_string(sequence) + " is not in this session");
    if (pages_->length(sequence) + n_tokens > pages_->capacity()) return resource_error("the context of " + std::to_string(pages_->capacity()) + " tokens is full");
    SKIFF_CHECK(check_taps(n_tokens));
    const std::int64_t length = pages_->length(sequence);
    const bool backs_up = recurrent_ && n_tokens > 1;
    rings_touched_ = false;
    if (backs_up) SKIFF_CHECK(copy_rings(ring_backup_, false));
    Status status = feed_hidden(sequence, input, output);
    if (status.ok()) return status;
    pages_->truncate(sequence, length);
    keep(undo_rings(status, backs_up));
    return status;
}

Status CudaSession::feed_hidden(std::int64_t sequence, std::span<const float> input, std::vector<float>& output) {
    const std::int64_t n_tokens = static_cast<std::int64_t>(input.size()) / model_.input_width;
    output.clear();
    const std::int64_t step = std::min(most_tokens_, most_rows_);
    for (std::int64_t begin = 0; begin < n_tokens; begin += step) {
        Chunk chunk;
        const std::int64_t end = std::min(n_tokens, begin + step);
        for (std::int64_t t = begin; t < end; ++t) {
            chunk.tokens.push_back(0);
            chunk.selected.push_back(static_cast<std::int32_t>(t - begin));
            chunk.positions.push_back(static_cast<std::int32_t>(pages_->length(sequence)));
            chunk.sequences.push_back(static_cast<std::int32_t>(sequence));
            SKIFF_CHECK(append(sequence, 1));
        }
        chunk.hidden = input.data() + begin * model_.input_width;
        SKIFF_CHECK(run(chunk));
        const std::size_t before = output.size();
        output.resize(before + static_cast<std::size_t>((end - begin) * model_.output_width));
        SKIFF_CHECK(fetch(output.data() + before, end - begin));
    }
    return {};
}

}  // namespace skiff::cuda
