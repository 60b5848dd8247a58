#include "backend/cuda/device_session.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "base/checked.h"

namespace skiff::cuda {
namespace {

constexpr std::int64_t graph_tokens = 64;      // runs of so many tokens at most are captured
constexpr std::size_t most_programs = 96;      // prompts come in many lengths
constexpr int n_slots = 16;                    // runs whose inputs may be on the way
constexpr std::int64_t logits_bytes = 64 << 20;  // of a run
constexpr std::size_t workspace_bytes = 64 << 20;
constexpr std::int64_t most_top = 64, most_top_rows = 16;  // of what the device collects of the largest logits
constexpr std::int64_t most_batch = 16384;      // tokens of a run: several kernels have a row of blocks for each, and a grid has 65535

Result<StateForm> state_form(StateScheme scheme, bool fp8, std::vector<std::string>& remarks) {
    if (fp8) return StateForm::fp8;
    switch (scheme) {
        case StateScheme::int8: return StateForm::int8;
        case StateScheme::int4: return StateForm::int4;
        case StateScheme::bf16: return StateForm::bf16;
        default: break;
    }
    const std::string remark = "keys and values are kept as bf16 on the device, which has no " + std::string(state_scheme_info(scheme).name) + " state";
    if (remarks.empty() || remarks.back() != remark) remarks.push_back(remark);
    return StateForm::bf16;
}

class CudaSession final : public DeviceSession {
public:
    explicit CudaSession(const DeviceSessionOptions& options) : options_(options), pool_(options.session.n_threads), state_(*this) {}
    ~CudaSession() override;
    Status start(const Table& table, const ModelSpec& spec, const WeightSource& weights);

    using Session::forward;
    Status forward(std::span<const BatchItem> items, const LogitsSink& sink) override;
    Status forward_top(std::span<const BatchItem> items, std::int64_t limit) override;
    Status forward_hidden(std::int64_t sequence, std::span<const float> input, std::vector<float>& output) override;
    std::span<const float> logits() const override;
    std::span<const float> tap(const std::string&) const override { return {}; }
    Sequences& state() override { return state_; }
    const Plan& plan() const override { return plan_; }
    ThreadPool& pool() override { return pool_; }
    int n_threads() const override { return pool_.n_threads(); }
    std::uint64_t buffer_bytes() const override { return scratch_->bytes() + scratch_->operand_bytes(); }
    std::string where() const override { return std::string(device_->table().name) + " " + device_->facts().name; }
    std::optional<double> read_gb_per_s() override;
    Status wait() override { return device_->wait(); }
    void set_profiling(std::vector<double>* seconds_by_step) override { profile_ = seconds_by_step; }
    std::vector<StepName> decode_steps() const override;
    std::vector<std::pair<std::string, std::string>> decode_launches() override;

private:
    // The sequences as those see them who feed the session.
    class State final : public Sequences {
    public:
        explicit State(CudaSession& session) : session_(session) {}
        std::int64_t capacity() const override { return session_.pages_->capacity(); }
        std::int64_t n_sequences() const override { return session_.pages_->n_sequences(); }
        std::int64_t length(std::int64_t sequence) const override { return session_.pages_->length(sequence); }
        std::uint64_t bytes_per_token() const override { return session_.state_bytes_per_token_; }
        Status truncate(std::int64_t sequence, std::int64_t n_tokens) override { return session_.truncate(sequence, n_tokens); }
        void fork(std::int64_t from, std::int64_t to) override { session_.keep(session_.fork(from, to)); }
        void repeat(std::int64_t sequence, std::int64_t n_tokens) override { session_.keep(session_.repeat(sequence, n_tokens)); }
        StateSnapshot snapshot(std::int64_t sequence) const override { return session_.snapshot(sequence); }
        Status restore(std::int64_t sequence, const StateSnapshot& snapshot) override { return session_.restore(sequence, snapshot); }

    private:
        CudaSession& session_;
    };
    struct Pool {  // of one attention operator, or the rings of a convolution
        std::byte *keys = nullptr, *values = nullptr;
        std::size_t page_bytes = 0, ring_bytes = 0;  // ring: of one sequence
    };
    struct Chunk {
        std::vector<std::int32_t> tokens, positions, sequences, selected;
        const float* hidden = nullptr;
    };
    struct Program {
        DeviceProgram program;
        Graph graph = nullptr;
        int runs = 0;
    };
    struct Slot {
        std::byte* memory = nullptr;
        Event free = nullptr;
        bool used = false;
    };

    Status make_state();
    bool library_takes_all() const;
    Status check(std::span<const BatchItem> items) const;
    Status feed(std::span<const BatchItem> items, const LogitsSink& sink);
    Status feed_hidden(std::int64_t sequence, std::span<const float> input, std::vector<float>& output);
    Status run(Chunk& chunk);
    Result<Program*> program_for(const RunShape& shape);
    Result<DeviceProgram> lay_out(const RunShape& shape);
    Status leave_library(Status why);
    RunInputs inputs_of(const RunShape& shape) const;
    EmitOptions emit_options() const;
    RunShape shape_of(const Chunk& chunk, std::vector<PrefillTile>& tiles) const;
    Status stage(const RunShape& shape, const Chunk& chunk, const std::vector<PrefillTile>& tiles);
    Status execute(const RunShape& shape, Program& entry);
    Status execute_profiled(const DeviceProgram& program);
    Result<Slot*> next_slot();
    Status append(std::int64_t sequence, std::int64_t n_tokens);
    Status copy_pages(const std::vector<PageCopy>& copies);
    Status fetch(float* target, std::int64_t n_rows) const;
    Status top_on_device(std::int64_t limit);
    void forget_programs();
    Status truncate(std::int64_t sequence, std::int64_t n_tokens);
    Status fork(std::int64_t from, std::int64_t to);
    Status repeat(std::int64_t sequence, std::int64_t n_tokens);
    StateSnapshot snapshot(std::int64_t sequence) const;
    Status restore(std::int64_t sequence, const StateSnapshot& snapshot);
    Status copy_rings(std::byte* backup, bool back);
    void keep(Status status) {
        if (!status.ok() && broken_.ok()) broken_ = std::move(status);
    }
    std::size_t inputs_bytes() const;
    bool needs_backup(std::span<const BatchItem> items, const LogitsSink& sink) const;
    Status undo_rings(const Status& failed, bool backed_up);

    DeviceSessionOptions options_;
    ThreadPool pool_;
    State state_;
    Plan plan_;
    std::unique_ptr<Device> device_;
    DeviceModel model_;
    std::vector<StatePlace> places_;
    std::vector<Pool> pools_;
    std::optional<PageTable> pages_;
    std::optional<Scratch> scratch_;
    std::int32_t* table_rows_ = nullptr;  // on the device: (n_sequences, max_pages)
    std::byte* inputs_ = nullptr;         // on the device: of one run
    float* hidden_ = nullptr;             // on the device: (max_batch, input_width)
    std::int32_t* arrivals_ = nullptr;
    std::int64_t n_arrivals_ = 0;
    std::byte* workspace_ = nullptr;      // of cuBLASLt
    std::byte* top_scratch_ = nullptr;    // of sampling
    std::byte* top_memory_ = nullptr;     // on the device: (most_top_rows, most_top) values, then ids
    std::byte* host_top_ = nullptr;       // pinned
    std::byte* ring_backup_ = nullptr;
    mutable std::byte* host_page_ = nullptr;  // pinned, the largest part of a snapshot
    std::vector<Slot> slots_;
    std::size_t next_slot_ = 0;
    std::map<RunShape, Program> programs_;
    const DeviceProgram* last_ = nullptr;
    std::int64_t most_rows_ = 1;          // whose logits one run may give
    std::int64_t most_tokens_ = 1;        // of one run
    bool takes_prompts_ = true;           // attention of prompts has a kernel for every state here
    std::uint64_t state_bytes_per_token_ = 0;
    bool recurrent_ = false;
    bool rings_touched_ = false;          // since forward() began something was launched that may write them
    // Logits: on the device until somebody asks.
    mutable std::byte* host_rows_ = nullptr;  // pinned, (most_rows, output_width)
    mutable std::int64_t waiting_rows_ = 0;
    std::int64_t host_row_count_ = 0;
    std::vector<float> gathered_;
    mutable Status broken_;               // what went wrong where no error could be given
    std::vector<double>* profile_ = nullptr;
};

CudaSession::~CudaSession() {
    if (!device_) return;
    (void)device_->enter();
    (void)device_->wait();
    forget_programs();
    for (const Slot& slot : slots_)
        if (slot.free != nullptr) device_->table().destroy_event(slot.free);
}

void CudaSession::forget_programs() {
    for (auto& [shape, entry] : programs_)
        if (entry.graph != nullptr) device_->table().destroy_graph(entry.graph);
    programs_.clear();
    last_ = nullptr;
}

Status CudaSession::start(const Table& table, const ModelSpec& spec, const WeightSource& weights) {
    options_.session.max_batch = std::min(options_.session.max_batch, most_batch);
    const SessionOptions& session = options_.session;
    if (session.max_batch < 1 || session.n_threads < 1 || session.n_sequences < 1 || session.n_context < 1) return usage_error("a session needs at least one thread, one sequence and one token per run");
    SKIFF_TRY(device_, Device::open(table));
    device_->set_dependence(device_->facts().arch >= 90 ? options_.dependence : Dependence::stream);
    if (options_.matmul == Matmul::cublaslt) {
        const int error = table.open_cublaslt(options_.cublaslt.c_str());
        if (error != 0) SKIFF_CHECK(leave_library(device_->check(error, "opening " + options_.cublaslt)));
    }
    if (options_.matmul == Matmul::cublaslt) {
        SKIFF_TRY(workspace_, device_->allocate(workspace_bytes, "cuBLASLt's workspace"));
    }
    DeviceModelOptions model;
    model.first_block = options_.first_block;
    model.last_block = options_.last_block;
    model.capacity = session.n_context;
    model.fuse = options_.fuse;
    model.pool = &pool_;
    model.progress = options_.progress;
    SKIFF_TRY(model_, build_device_model(spec, weights, *device_, model));
    if (options_.matmul == Matmul::cublaslt && !library_takes_all()) {
        SKIFF_CHECK(leave_library(unsupported("the matrices of this model have no form that cuBLASLt takes")));
    }
    plan_.spec = spec;
    plan_.states = model_.states;
    plan_.max_positions = model_.max_positions;
    plan_.output_width = model_.output_width;
    plan_.input_width = model_.input_width;
    plan_.input_buffer = model_.input >= 0 ? 0 : -1;
    plan_.output_buffer = 0;
    plan_.weight_bytes = model_.weight_bytes;
    plan_.decode_read_bytes = model_.decode_read_bytes;
    plan_.has_head = model_.output == spec.logits;
    plan_.isa = best_isa();
    plan_.remarks.insert(plan_.remarks.end(), model_.remarks.begin(), model_.remarks.end());
    SKIFF_CHECK(make_state());

    most_rows_ = std::clamp<std::int64_t>(logits_bytes / (4 * std::max<std::int64_t>(1, model_.output_width)), std::min(max_gemv_tokens, session.max_batch), session.max_batch);
    if (model_.output != spec.logits) most_rows_ = session.max_batch;
    // Where prompts have no attention of their own, each token attends as a decoded one, with its partial results in the scratch memory.
    takes_prompts_ = true;
    for (std::size_t s = 0; s < places_.size(); ++s)
        if (pools_[s].page_bytes > 0) takes_prompts_ = takes_prompts_ && table.prefill_attention_takes(places_[s].view.head_dim, places_[s].view.form);
    most_tokens_ = takes_prompts_ ? session.max_batch : std::min(session.max_batch, graph_tokens);
    most_rows_ = std::min(most_rows_, most_tokens_);
    scratch_.emplace(table, session.max_batch);
    SKIFF_TRY(inputs_, device_->allocate(inputs_bytes(), "inputs"));
    if (model_.input >= 0) {
        SKIFF_TRY(std::byte * hidden, device_->allocate(static_cast<std::size_t>(session.max_batch * model_.input_width) * sizeof(float), "hidden states"));
        hidden_ = reinterpret_cast<float*>(hidden);
    }
    std::int64_t most_heads = 1;
    for (const StateNeed& need : model_.states) most_heads = std::max(most_heads, need.n_kv_heads);
    n_arrivals_ = std::max<std::int64_t>(session.max_batch * most_heads, 65536);
    const auto arrival_bytes = static_cast<std::size_t>(n_arrivals_) * sizeof(std::int32_t);
    SKIFF_TRY(std::byte * arrivals, device_->allocate(arrival_bytes, "counters"));
    arrivals_ = reinterpret_cast<std::int32_t*>(arrivals);
    SKIFF_CHECK(device_->check(table.fill(arrivals_, 0, arrival_bytes, device_->stream()), "clearing counters"));
    // The largest runs of every kind that gives one row of logits a sequence, so that the scratch memory is placed once for them.
    std::vector<RunShape> shapes = {{1, 1, RunShape::Selection::all, RunShape::Attention::decode, 0}};
    shapes.push_back({std::min(max_gemv_tokens, session.max_batch), std::min(max_gemv_tokens, session.max_batch), RunShape::Selection::all, RunShape::Attention::decode, 0});
    if (most_tokens_ > max_gemv_tokens) {
        if (takes_prompts_) shapes.push_back({most_tokens_, 1, RunShape::Selection::some, RunShape::Attention::prefill, (most_tokens_ + prefill_tile_tokens - 1) / prefill_tile_tokens});
        // Tokens that attend by themselves: of many sequences (shape_of), or all where there is nothing else.
        const std::int64_t alone = takes_prompts_ ? std::min({most_tokens_, graph_tokens, 4 * session.n_sequences}) : most_tokens_;
        if (alone > max_gemv_tokens) shapes.push_back({alone, std::min(alone, most_rows_), alone <= most_rows_ ? RunShape::Selection::all : RunShape::Selection::some, RunShape::Attention::decode, 0});
    }
    const auto measure = [&] {
        for (const RunShape& shape : shapes) emit(model_, places_, shape, inputs_of(shape), emit_options(), *scratch_);
    };
    measure();
    SKIFF_CHECK(scratch_->place(*device_));
    if (options_.matmul == Matmul::cublaslt) {
        for (const RunShape& shape : shapes) {
            SKIFF_TRY(const DeviceProgram program, lay_out(shape));  // whether the library has what it needs
        }
        if (options_.matmul == Matmul::own) {
            measure();
            SKIFF_CHECK(scratch_->place(*device_));
        }
    }
    return device_->wait();
}

// Where cuBLASLt may be left, the own kernels do what it would have done.
Status CudaSession::leave_library(Status why) {
    if (options_.library == DeviceSessionOptions::Library::must) return why;
    options_.matmul = Matmul::own;
    plan_.remarks.push_back("the own kernels multiply long prompts, not cuBLASLt: " + why.error().message);
    return {};
}

// Rows in whole 16 bytes, and no factor behind a bias.
bool CudaSession::library_takes_all() const {
    for (const DeviceOp& op : model_.ops) {
        if (std::holds_alternative<SelectDevice>(op.detail)) return true;  // the head is never its
        const auto* linear = std::get_if<LinearDevice>(&op.detail);
        if (linear == nullptr) continue;
        for (const MatrixDevice& matrix : linear->matrices)
            if (matrix.weight.n_columns % 8 != 0 || matrix.weight.n_rows % 4 != 0 || matrix.offset % 4 != 0 || (linear->factor != 1 && matrix.bias != nullptr)) return false;
        if (linear->out >= 0 && model_.values[static_cast<std::size_t>(linear->out)].width % 4 != 0) return false;
    }
    return true;
}

Status CudaSession::make_state() {
    const Table& table = device_->table();
    const SessionOptions& session = options_.session;
    const std::int64_t capacity = std::min(session.n_context, model_.max_positions);
    pages_.emplace(session.n_sequences, capacity, page_positions);
    SKIFF_TRY(const auto schemes, schemes_of_states({session.state_scheme, session.state_rules}, model_.states));
    SKIFF_TRY(std::byte * rows, device_->allocate(static_cast<std::size_t>(pages_->n_pages()) * sizeof(std::int32_t), "the page table"));
    table_rows_ = reinterpret_cast<std::int32_t*>(rows);
    std::uint64_t page_bytes = 0;
    std::size_t ring_bytes = 0;
    for (std::size_t s = 0; s < model_.states.size(); ++s) {
        const StateNeed& need = model_.states[s];
        StatePlace place;
        Pool pool;
        if (need.spec.kind == StateSpec::Kind::recurrent) {
            recurrent_ = true;
            pool.ring_bytes = static_cast<std::size_t>((need.spec.window - 1) * need.spec.key_width) * sizeof(float);
            const std::size_t size = std::max<std::size_t>(1, pool.ring_bytes * static_cast<std::size_t>(session.n_sequences));
            SKIFF_TRY(pool.keys, device_->allocate(size, "the state of " + need.name));
            SKIFF_CHECK(device_->check(table.fill(pool.keys, 0, size, device_->stream()), "clearing the state"));
            place.rings = reinterpret_cast<float*>(pool.keys);
            ring_bytes += size;
        } else {
            SKIFF_TRY(place.view.form, state_form(schemes[s], options_.state_fp8, plan_.remarks));
            if (!table.attention_takes(need.head_dim, place.view.form))
                return unsupported("operator " + need.name + ": heads of " + std::to_string(need.head_dim) + " have no CUDA row for this --state; use bf16, or --device cpu");
            pool.page_bytes = table.state_page_bytes(place.view.form, need.n_kv_heads, need.head_dim);
            const std::int64_t factors[] = {pages_->n_pages(), static_cast<std::int64_t>(pool.page_bytes)};
            const auto size = checked_product(factors);
            if (!size) return resource_error("the state of " + need.name + " would be too large; ask for a shorter --ctx");
            SKIFF_TRY(pool.keys, device_->allocate(static_cast<std::size_t>(*size), "the keys of " + need.name));
            SKIFF_TRY(pool.values, device_->allocate(static_cast<std::size_t>(*size), "the values of " + need.name));
            // What no token has written is multiplied by zero weights; it must be numbers.
            SKIFF_CHECK(device_->check(table.fill(pool.keys, 0, static_cast<std::size_t>(*size), device_->stream()), "clearing the state"));
            SKIFF_CHECK(device_->check(table.fill(pool.values, 0, static_cast<std::size_t>(*size), device_->stream()), "clearing the state"));
            place.view.keys = pool.keys;
            place.view.values = pool.values;
            place.view.page_table = table_rows_;
            place.view.max_pages = pages_->max_pages();
            place.view.n_kv_heads = need.n_kv_heads;
            place.view.head_dim = need.head_dim;
            page_bytes += 2 * pool.page_bytes;
        }
        places_.push_back(place);
        pools_.push_back(pool);
    }
    if (ring_bytes > 0) {
        SKIFF_TRY(ring_backup_, device_->allocate(ring_bytes, "a copy of the convolutions' state"));
    }
    state_bytes_per_token_ = (page_bytes + page_positions - 1) / page_positions;
    return {};
}

// ---- what a run reads

std::size_t CudaSession::inputs_bytes() const { return static_cast<std::size_t>(options_.session.max_batch) * (4 * sizeof(std::int32_t) + sizeof(PrefillTile)) + 256; }

// One behind the other, so that they come in one copy.
RunInputs CudaSession::inputs_of(const RunShape& shape) const {
    RunInputs inputs;
    auto* numbers = reinterpret_cast<std::int32_t*>(inputs_);
    inputs.tokens = numbers;
    inputs.positions = numbers + shape.n_tokens;
    inputs.sequences = numbers + 2 * shape.n_tokens;
    inputs.selected = numbers + 3 * shape.n_tokens;
    inputs.tiles = reinterpret_cast<const PrefillTile*>(numbers + 3 * shape.n_tokens + (shape.n_selected + 3) / 4 * 4 + (4 - 3 * shape.n_tokens % 4) % 4);
    inputs.hidden = hidden_;
    return inputs;
}

EmitOptions CudaSession::emit_options() const {
    EmitOptions options;
    options.launch = &device_->launch();
    options.capacity = pages_->capacity();
    options.matmul = options_.matmul;
    options.fuse = options_.fuse == DeviceModelOptions::Fuse::on ? EmitOptions::Fuse::on : EmitOptions::Fuse::off;
    options.arrivals = arrivals_;
    options.n_arrivals = n_arrivals_;
    options.matmul_workspace = workspace_;
    options.matmul_workspace_bytes = workspace_ != nullptr ? workspace_bytes : 0;
    return options;
}

// Neighbouring tokens of a sequence make tiles; where there are few neighbours (many sequences of a token each), each token attends by itself.
RunShape CudaSession::shape_of(const Chunk& chunk, std::vector<PrefillTile>& tiles) const {
    RunShape shape;
    shape.n_tokens = static_cast<std::int64_t>(chunk.positions.size());
    shape.n_selected = static_cast<std::int64_t>(chunk.selected.size());
    shape.selection = shape.n_selected == shape.n_tokens ? RunShape::Selection::all : RunShape::Selection::some;
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
    shape.n_tiles = static_cast<std::int64_t>(tiles.size());
    return shape;
}

Result<CudaSession::Slot*> CudaSession::next_slot() {
    const std::size_t hidden_bytes = static_cast<std::size_t>(options_.session.max_batch * model_.input_width) * sizeof(float);
    const std::size_t table_bytes = static_cast<std::size_t>(pages_->n_pages()) * sizeof(std::int32_t);
    if (slots_.size() < n_slots) {
        Slot slot;
        SKIFF_TRY(slot.memory, device_->allocate_pinned(inputs_bytes() + hidden_bytes + table_bytes));
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
    SKIFF_CHECK(device_->check(table.copy_in(inputs_, slot->memory, static_cast<std::size_t>(end - slot->memory), device_->stream()), "copying tokens to the device"));
    std::byte* more = slot->memory + inputs_bytes();
    if (chunk.hidden != nullptr) {
        const std::size_t size = static_cast<std::size_t>(shape.n_tokens * model_.input_width) * sizeof(float);
        std::memcpy(more, chunk.hidden, size);
        SKIFF_CHECK(device_->check(table.copy_in(hidden_, more, size, device_->stream()), "copying hidden states to the device"));
        more += size;
    }
    if (pages_->take_changed()) {
        const auto rows = pages_->rows();
        std::memcpy(more, rows.data(), rows.size_bytes());
        SKIFF_CHECK(device_->check(table.copy_in(table_rows_, more, rows.size_bytes(), device_->stream()), "copying the page table to the device"));
    }
    SKIFF_CHECK(device_->check(table.record(slot->free, device_->stream()), "recording an event"));
    slot->used = true;
    return {};
}

// ---- running

// The library says now whether it has an algorithm for each product: in the middle of a run it would be too late for another way.
Result<DeviceProgram> CudaSession::lay_out(const RunShape& shape) {
    DeviceProgram program = emit(model_, places_, shape, inputs_of(shape), emit_options(), *scratch_);
    for (const DeviceStep& step : program.steps) {
        const auto* product = std::get_if<MatmulArgs>(&step.args);
        if (product == nullptr || !scratch_->fits()) continue;
        const int error = device_->table().prepare_matmul(*product);
        if (error == 0) continue;
        SKIFF_CHECK(leave_library(device_->check(error, options_.cublaslt + " for " + step.name)));
        return emit(model_, places_, shape, inputs_of(shape), emit_options(), *scratch_);
    }
    return program;
}

Result<CudaSession::Program*> CudaSession::program_for(const RunShape& shape) {
    if (const auto found = programs_.find(shape); found != programs_.end()) return &found->second;
    if (programs_.size() >= most_programs) {
        SKIFF_CHECK(device_->wait());
        forget_programs();
    }
    SKIFF_TRY(DeviceProgram program, lay_out(shape));
    for (int n_placed = 0; !scratch_->fits(); ++n_placed) {
        if (n_placed == 2) return runtime_error("a program does not fit the memory that it was measured for; please report this");  // twice: the library may have been left
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
    const bool capture = options_.graphs == DeviceSessionOptions::Graphs::on && shape.attention == RunShape::Attention::decode && shape.n_tokens <= graph_tokens;
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
    if (model_.input >= 0) return usage_error("this stretch of the model has no embedding; give it hidden states");
    SKIFF_CHECK(check(items));
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
    if (model_.input < 0) return usage_error("this plan begins with the embedding; give it tokens");
    const std::int64_t n_tokens = static_cast<std::int64_t>(input.size()) / model_.input_width;
    if (n_tokens * model_.input_width != static_cast<std::int64_t>(input.size())) return usage_error("the hidden states are no whole number of tokens");
    if (sequence < 0 || sequence >= pages_->n_sequences()) return usage_error("sequence " + std::to_string(sequence) + " is not in this session");
    if (pages_->length(sequence) + n_tokens > pages_->capacity()) return resource_error("the context of " + std::to_string(pages_->capacity()) + " tokens is full");
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

// ---- logits

// A few numbers come from the device instead of a row as wide as the vocabulary. NaN is no logit there: where some are missing, the row itself is looked at.
Status CudaSession::forward_top(std::span<const BatchItem> items, std::int64_t limit) {
    if (limit < 1) return usage_error("the largest logits: none are asked for");
    SKIFF_CHECK(forward(items, nullptr));
    top_.clear();
    const auto width = static_cast<std::size_t>(model_.output_width);
    if (waiting_rows_ > 0 && waiting_rows_ <= most_top_rows && limit <= most_top && plan_.has_head) {
        SKIFF_CHECK(top_on_device(limit));
        const bool complete = std::all_of(top_.begin(), top_.end(), [&](const auto& row) { return static_cast<std::size_t>(limit) == row->size() || row->size() == width; });
        if (complete) return {};
        top_.clear();
    }
    TopList list;
    const auto rows = logits();
    for (std::size_t row = 0; row < rows.size() / width; ++row) {
        list.begin(limit);
        list.add(0, rows.subspan(row * width, width));
        const TopList* const lists[] = {&list};
        top_.push_back(merge_top(lists, limit));
    }
    return {};
}

Status CudaSession::top_on_device(std::int64_t limit) {
    const Table& table = device_->table();
    constexpr std::size_t value_bytes = most_top_rows * most_top * sizeof(float);
    if (top_memory_ == nullptr) {
        const std::size_t scratch_bytes = table.sample_scratch_bytes(most_top_rows);
        SKIFF_TRY(top_scratch_, device_->allocate(scratch_bytes, "the largest logits"));
        SKIFF_CHECK(device_->check(table.fill(top_scratch_, 0, scratch_bytes, device_->stream()), "clearing counters"));
        SKIFF_TRY(top_memory_, device_->allocate(2 * value_bytes, "the largest logits"));
        SKIFF_TRY(host_top_, device_->allocate_pinned(2 * value_bytes));
    }
    SampleArgs args;
    args.logits = last_->output;
    args.stride = args.n_vocab = model_.output_width;
    args.n_tokens = waiting_rows_;
    args.top_k = static_cast<std::int32_t>(limit);
    args.scratch = reinterpret_cast<float*>(top_scratch_);
    args.top_values = reinterpret_cast<float*>(top_memory_);
    args.top_ids = reinterpret_cast<std::int32_t*>(top_memory_ + value_bytes);
    SKIFF_CHECK(device_->check(table.sample(args, device_->launch()), "collecting the largest logits"));
    SKIFF_CHECK(device_->check(table.copy_out(host_top_, top_memory_, 2 * value_bytes, device_->stream()), "copying the largest logits from the device"));
    SKIFF_CHECK(device_->wait());
    for (std::int64_t row = 0; row < waiting_rows_; ++row) {
        std::vector<ScoredToken> found;
        for (std::int64_t i = 0; i < limit; ++i) {
            const std::size_t at = static_cast<std::size_t>(row * most_top + i);
            const ScoredToken token{reinterpret_cast<const std::int32_t*>(host_top_ + value_bytes)[at], reinterpret_cast<const float*>(host_top_)[at]};
            if (token.token >= 0) found.push_back(token);
        }
        top_.push_back(std::move(found));
    }
    return {};
}

Status CudaSession::fetch(float* target, std::int64_t n_rows) const {
    const std::size_t size = static_cast<std::size_t>(n_rows * model_.output_width) * sizeof(float);
    if (host_rows_ == nullptr) {
        SKIFF_TRY(host_rows_, device_->allocate_pinned(static_cast<std::size_t>(most_rows_ * model_.output_width) * sizeof(float)));
    }
    SKIFF_CHECK(device_->check(device_->table().copy_out(host_rows_, last_->output, size, device_->stream()), "copying logits from the device"));
    SKIFF_CHECK(device_->wait());
    if (target != nullptr) std::memcpy(target, host_rows_, size);
    return {};
}

std::span<const float> CudaSession::logits() const {
    if (waiting_rows_ > 0) {
        Status status = device_->enter();
        if (status.ok()) status = fetch(nullptr, waiting_rows_);
        if (!status.ok()) {  // numbers that nobody takes for an answer; the next call says what happened
            if (broken_.ok()) broken_ = std::move(status);
            const auto n = static_cast<std::size_t>(waiting_rows_ * model_.output_width);
            if (host_rows_ != nullptr) std::fill_n(reinterpret_cast<float*>(host_rows_), n, NAN);
        }
        waiting_rows_ = 0;
    }
    if (host_row_count_ > 0 && host_rows_ != nullptr) return {reinterpret_cast<const float*>(host_rows_), static_cast<std::size_t>(host_row_count_ * model_.output_width)};
    return gathered_;
}

// ---- sequences

Status CudaSession::truncate(std::int64_t sequence, std::int64_t n_tokens) {
    const std::int64_t length = pages_->length(sequence);
    if (n_tokens < 0 || n_tokens > length) return usage_error("cannot truncate a sequence of " + std::to_string(length) + " tokens to " + std::to_string(n_tokens));
    if (recurrent_ && n_tokens != 0 && n_tokens != length)
        return unsupported("on the device this model's convolutions remember only the last tokens: a sequence of " + std::to_string(length) + " tokens cannot go back to " + std::to_string(n_tokens) + "; begin it anew");
    pages_->truncate(sequence, n_tokens);
    return {};
}

Status CudaSession::fork(std::int64_t from, std::int64_t to) {
    if (from == to) return {};
    SKIFF_CHECK(device_->enter());
    pages_->fork(from, to);
    for (const Pool& pool : pools_)
        if (pool.ring_bytes > 0)
            SKIFF_CHECK(device_->check(device_->table().copy_within(pool.keys + static_cast<std::size_t>(to) * pool.ring_bytes, pool.keys + static_cast<std::size_t>(from) * pool.ring_bytes, pool.ring_bytes, device_->stream()),
                                       "copying the state"));
    return {};
}

// Copies, not shared pages: what is measured at a depth must be read from memory as that depth is.
Status CudaSession::repeat(std::int64_t sequence, std::int64_t n_tokens) {
    SKIFF_CHECK(device_->enter());
    const std::int64_t n_whole = pages_->length(sequence) / page_positions;
    const std::size_t before = pages_->pages(sequence).size();
    SKIFF_CHECK(append(sequence, n_tokens - pages_->length(sequence)));
    const auto pages = pages_->pages(sequence);
    std::vector<PageCopy> copies;
    for (std::size_t i = static_cast<std::size_t>(n_whole); i < pages.size() && n_whole > 0; ++i)
        if (i >= before || i == static_cast<std::size_t>(n_whole)) copies.push_back({pages[i % static_cast<std::size_t>(n_whole)], pages[i]});
    return copy_pages(copies);
}

Status CudaSession::copy_rings(std::byte* backup, bool back) {
    for (const Pool& pool : pools_) {
        const std::size_t size = pool.ring_bytes * static_cast<std::size_t>(pages_->n_sequences());
        if (size == 0) continue;
        std::byte *to = back ? pool.keys : backup, *from = back ? backup : pool.keys;
        SKIFF_CHECK(device_->check(device_->table().copy_within(to, from, size, device_->stream()), "copying the convolutions' state"));
        backup += size;
    }
    return {};
}

// Whole pages, layer by layer.
StateSnapshot CudaSession::snapshot(std::int64_t sequence) const {
    StateSnapshot snapshot;
    snapshot.n_tokens = pages_->length(sequence);
    const auto fail = [&](Status status) {
        if (broken_.ok()) broken_ = std::move(status);
        return StateSnapshot{-1, {}};
    };
    if (Status status = device_->enter(); !status.ok()) return fail(std::move(status));
    std::size_t largest = 1;
    for (const Pool& pool : pools_) largest = std::max({largest, pool.page_bytes, pool.ring_bytes});
    if (host_page_ == nullptr) {
        auto pinned = device_->allocate_pinned(largest);
        if (!pinned.ok()) return fail(pinned.take_error());
        host_page_ = *pinned;
    }
    const auto take = [&](const std::byte* from, std::size_t size) -> Status {
        SKIFF_CHECK(device_->check(device_->table().copy_out(host_page_, from, size, device_->stream()), "copying the state from the device"));
        SKIFF_CHECK(device_->wait());
        snapshot.bytes.insert(snapshot.bytes.end(), host_page_, host_page_ + size);
        return {};
    };
    for (const Pool& pool : pools_) {
        if (pool.ring_bytes > 0 && snapshot.n_tokens > 0) {
            if (Status status = take(pool.keys + static_cast<std::size_t>(sequence) * pool.ring_bytes, pool.ring_bytes); !status.ok()) return fail(std::move(status));
        }
        for (const std::byte* base : {pool.keys, pool.values})
            for (std::int32_t page : pages_->pages(sequence))
                if (pool.page_bytes > 0)
                    if (Status status = take(base + static_cast<std::size_t>(page) * pool.page_bytes, pool.page_bytes); !status.ok()) return fail(std::move(status));
    }
    return snapshot;
}

Status CudaSession::restore(std::int64_t sequence, const StateSnapshot& snapshot) {
    SKIFF_CHECK(device_->enter());
    std::size_t expected = 0;
    const bool in_range = snapshot.n_tokens >= 0 && snapshot.n_tokens <= pages_->capacity();
    const std::int64_t n_pages = in_range ? (snapshot.n_tokens + page_positions - 1) / page_positions : 0;
    for (const Pool& pool : pools_) expected += static_cast<std::size_t>(2 * n_pages) * pool.page_bytes + (snapshot.n_tokens > 0 ? pool.ring_bytes : 0);
    if (!in_range || snapshot.bytes.size() != expected) return usage_error("the snapshot was taken from another model or a longer context");
    pages_->truncate(sequence, 0);
    SKIFF_CHECK(append(sequence, snapshot.n_tokens));
    const std::byte* source = snapshot.bytes.data();
    for (const Pool& pool : pools_) {
        if (pool.ring_bytes > 0 && snapshot.n_tokens > 0) {
            SKIFF_CHECK(device_->upload(pool.keys + static_cast<std::size_t>(sequence) * pool.ring_bytes, source, pool.ring_bytes));
            source += pool.ring_bytes;
        }
        for (std::byte* base : {pool.keys, pool.values})
            for (std::int32_t page : pages_->pages(sequence)) {
                if (pool.page_bytes == 0) continue;
                SKIFF_CHECK(device_->upload(base + static_cast<std::size_t>(page) * pool.page_bytes, source, pool.page_bytes));
                source += pool.page_bytes;
            }
    }
    return {};
}

// ---- what is told

std::optional<double> CudaSession::read_gb_per_s() {
    const Table& table = device_->table();
    if (!device_->enter().ok()) return std::nullopt;
    const auto available = device_->free_bytes();
    std::size_t size = std::size_t{1} << 30;
    while (available.ok() && size > *available / 2) size /= 2;
    auto memory = device_->allocate(size, "the bandwidth's measurement");
    if (!memory.ok()) return std::nullopt;
    Event begin = nullptr, end = nullptr;
    std::vector<double> rates;
    bool good = table.make_event(&begin) == 0 && table.make_event(&end) == 0 && table.fill(*memory, 0, size, device_->stream()) == 0;
    for (int pass = 0; pass < 12 && good; ++pass) {
        float ms = 0;
        good = table.record(begin, device_->stream()) == 0 && table.read_all(*memory, size, reinterpret_cast<float*>(inputs_), device_->launch()) == 0 && table.record(end, device_->stream()) == 0 &&
               table.wait_event(end) == 0 && table.elapsed_ms(begin, end, &ms) == 0 && ms > 0;
        if (good && pass > 1) rates.push_back(static_cast<double>(size) / ms * 1e-6);
    }
    if (begin != nullptr) table.destroy_event(begin);
    if (end != nullptr) table.destroy_event(end);
    device_->release(*memory);
    if (rates.empty()) return std::nullopt;
    std::sort(rates.begin(), rates.end());
    return rates[rates.size() / 2];
}

std::vector<std::pair<std::string, std::string>> CudaSession::decode_launches() {
    std::vector<std::pair<std::string, std::string>> launches;
    if (!device_->enter().ok()) return launches;
    (void)logits();  // what waits on the device does not outlive the program that made it
    auto entry = program_for({1, 1, RunShape::Selection::all, RunShape::Attention::decode, 0});
    if (!entry.ok()) return launches;
    for (const DeviceStep& step : (*entry)->program.steps) launches.emplace_back(step.name, step.kernel);
    return launches;
}

std::vector<Session::StepName> CudaSession::decode_steps() const {
    std::vector<StepName> names;
    const auto found = programs_.find({1, 1, RunShape::Selection::all, RunShape::Attention::decode, 0});
    if (found == programs_.end()) return names;
    for (const DeviceStep& step : found->second.program.steps) names.push_back({step.name, step.kernel});
    return names;
}

}  // namespace

Result<std::unique_ptr<DeviceSession>> DeviceSession::create(const Table& table, const ModelSpec& spec, const WeightSource& weights, const DeviceSessionOptions& options) {
    auto session = std::make_unique<CudaSession>(options);
    SKIFF_CHECK(session->start(table, spec, weights));
    return std::unique_ptr<DeviceSession>(std::move(session));
}

}  // namespace skiff::cuda
