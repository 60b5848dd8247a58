#include "backend/cuda/device_session.h"

#include <algorithm>

#include "backend/cuda/cuda_session.h"
#include "backend/cuda/driver.h"
#include "base/checked.h"

namespace skiff::cuda {
namespace {

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

}  // namespace

CudaSession::~CudaSession() {
    if (!device_) return;
    (void)device_->enter();
    (void)device_->wait();
    feed_.close();
    forget_programs();
    for (const Slot& slot : slots_)
        if (slot.free != nullptr) device_->table().destroy_event(slot.free);
}

void CudaSession::forget_programs() {
    for (auto& [shape, entry] : programs_)
        if (entry.graph != nullptr) device_->table().destroy_graph(entry.graph);
    programs_.clear();
    last_ = nullptr;
    if (taps_) taps_->show(nullptr, 0);
}

Status CudaSession::start(const Table& table, const ModelSpec& spec, const WeightSource& weights) {
    options_.session.max_batch = std::min(options_.session.max_batch, most_batch);
    const SessionOptions& session = options_.session;
    if (session.max_batch < 1 || session.n_threads < 1 || session.n_sequences < 1 || session.n_context < 1) return usage_error("a session needs at least one thread, one sequence and one token per run");
    SKIFF_TRY(device_, Device::open(table));
    if (options_.matmul == Matmul::fp8 && device_->facts().arch < 89)
        return unsupported("products of 8-bit floats need a GPU of compute capability 8.9 or later; this one has " + std::to_string(device_->facts().arch / 10) + "." + std::to_string(device_->facts().arch % 10));
    // A kernel that begins early reads its first weights, which may not be copied yet.
    device_->set_dependence(device_->facts().arch >= 90 && options_.stream_from == SIZE_MAX ? options_.dependence : Dependence::stream);
    if (options_.matmul == Matmul::cutlass && table.cutlass == nullptr) SKIFF_CHECK(leave_library(unsupported("libskiff_cuda.so was built without CUTLASS; build it with -DSKIFF_CUTLASS=FOLDER, where its headers are")));
    if (takes_cublaslt(options_.matmul)) {
        const int error = table.open_cublaslt(options_.cublaslt.c_str());
        if (error != 0) SKIFF_CHECK(leave_library(device_->check(error, "opening " + options_.cublaslt)));
    }
    if (options_.attention == PromptAttention::cudnn) {
        const int error = options_.cudnn.empty() ? 0 : table.open_cudnn(options_.cudnn.c_str());
        if (options_.cudnn.empty()) leave_cudnn(unsupported(no_cudnn()));
        else if (error != 0) leave_cudnn(device_->check(error, "opening " + options_.cudnn));
    }
    if (takes_cublaslt(options_.matmul) || options_.attention == PromptAttention::cudnn) {
        auto workspace = device_->allocate(workspace_bytes, "the libraries' workspace");
        if (workspace.ok()) {
            workspace_ = *workspace;
        } else {
            const Status why = workspace.take_error();
            if (options_.attention == PromptAttention::cudnn) leave_cudnn(why);
            if (takes_cublaslt(options_.matmul)) SKIFF_CHECK(leave_library(why));
        }
    }
    DeviceModelOptions model;
    model.first_block = options_.first_block;
    model.last_block = options_.last_block;
    model.stream_from = options_.stream_from;
    model.taps = options_.taps;
    model.capacity = session.n_context;
    model.fuse = options_.fuse;
    model.pool = &pool_;
    model.progress = options_.progress;
    SKIFF_TRY(model_, build_device_model(spec, weights, *device_, model));
    if (options_.matmul != Matmul::own && !library_takes_all()) {
        SKIFF_CHECK(leave_library(unsupported("the matrices of this model have no form that " + std::string(library_name(options_.matmul)) + " takes")));
    }
    if (options_.matmul == Matmul::cublaslt && options_.library == DeviceSessionOptions::Library::may && is_two_of_four()) {
        SKIFF_CHECK(leave_library(unsupported("most weights keep two of every four inputs, which is half the work of the sparse tensor cores")));
    }
    if (options_.matmul == Matmul::fp8) {
        bool any = false;
        for (const DeviceOp& op : model_.ops) {
            if (std::holds_alternative<SelectDevice>(op.detail)) break;  // the head has a row a sequence, which is no work for a library
            for (const MatrixDevice& matrix : matrices_of(op)) any = any || takes_fp8(matrix.weight);
        }
        const bool whole = options_.first_block == 0 && model_.output == spec.logits;  // a stretch of a model may have none
        if (!any && whole) return unsupported("no matrix of this model is of 8-bit floats (e4m3) with one scale for each row, which products of 8-bit floats need; --scheme e4m3 makes plain weights such");
        if (any) plan_.remarks.push_back("in runs of " + std::to_string(matmul_min_tokens) + " tokens and more the inputs of e4m3 weights are rounded to e4m3, with a scale for each token");
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
    if (!options_.remark.empty()) plan_.remarks.push_back(options_.remark);
    SKIFF_CHECK(make_state());
    bool any_bf16 = false;
    for (std::size_t s = 0; s < places_.size(); ++s) any_bf16 = any_bf16 || (pools_[s].page_bytes > 0 && places_[s].view.form == StateForm::bf16);
    if (options_.attention == PromptAttention::cudnn && !any_bf16) leave_cudnn(unsupported("it reads keys and values of bf16; give --state bf16"));

    most_rows_ = std::clamp<std::int64_t>(logits_bytes / (4 * std::max<std::int64_t>(1, model_.output_width)), std::min(max_gemv_tokens, session.max_batch), session.max_batch);
    if (model_.output != spec.logits) most_rows_ = session.max_batch;
    // Where prompts have no attention of their own, each token attends as a decoded one, with its partial results in the scratch memory.
    takes_prompts_ = true;
    for (std::size_t s = 0; s < places_.size(); ++s)
        if (pools_[s].page_bytes > 0) takes_prompts_ = takes_prompts_ && table.prefill_attention_takes(places_[s].view.head_dim, places_[s].view.form);
    most_tokens_ = takes_prompts_ ? session.max_batch : std::min(session.max_batch, graph_tokens);
    most_rows_ = std::min(most_rows_, most_tokens_);
    if (!options_.taps.empty() && most_rows_ < session.max_batch) return unsupported("runs of " + std::to_string(session.max_batch) + " tokens, whose values are to be looked at, have no CUDA row here; run with --device cpu");
    taps_.emplace(*device_);
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
        if (takes_prompts_ && options_.attention == PromptAttention::cudnn && most_tokens_ >= segment_min_tokens)
            shapes.back().segments = {{0, most_tokens_, segment_rows(most_tokens_), segment_pages(most_tokens_, pages_->max_pages())}};
        // Tokens that attend by themselves: of many sequences (shape_of), or all where there is nothing else.
        const std::int64_t alone = takes_prompts_ ? std::min({most_tokens_, graph_tokens, 4 * session.n_sequences}) : most_tokens_;
        if (alone > max_gemv_tokens) shapes.push_back({alone, std::min(alone, most_rows_), alone <= most_rows_ ? RunShape::Selection::all : RunShape::Selection::some, RunShape::Attention::decode, 0});
    }
    const auto measure = [&] {
        for (const RunShape& shape : shapes) emit(model_, places_, shape, inputs_of(shape), emit_options(), *scratch_);
    };
    measure();
    SKIFF_CHECK(scratch_->place(*device_));
    if (options_.matmul != Matmul::own || options_.attention == PromptAttention::cudnn) {
        const auto before = std::pair(options_.matmul, options_.attention);
        for (const RunShape& shape : shapes) {
            SKIFF_TRY(const DeviceProgram program, lay_out(shape));  // whether the libraries have what it needs
        }
        if (before != std::pair(options_.matmul, options_.attention)) {
            measure();
            SKIFF_CHECK(scratch_->place(*device_));
        }
        SKIFF_CHECK(keep_rows());
    }
    return device_->wait();
}

// Where a library may be left, the own kernels do what it would have done.
Status CudaSession::leave_library(Status why) {
    if (options_.library == DeviceSessionOptions::Library::must) return why;
    plan_.remarks.push_back("the own kernels multiply long prompts, not " + std::string(library_name(options_.matmul)) + ": " + why.error().message);
    options_.matmul = Matmul::own;
    return {};
}

// Said once: from then on the own kernels attend.
void CudaSession::leave_cudnn(const Status& why) {
    options_.attention = PromptAttention::own;
    plan_.remarks.push_back("the own kernels attend to prompts, not cuDNN: " + why.error().message);
}

// Rows in whole 16 bytes, and no factor behind a bias.
bool CudaSession::library_takes_all() const {
    for (const DeviceOp& op : model_.ops) {
        if (std::holds_alternative<SelectDevice>(op.detail)) return true;  // the head is never its
        const auto* linear = std::get_if<LinearDevice>(&op.detail);
        for (const MatrixDevice& matrix : matrices_of(op))
            if (matrix.weight.n_columns % 8 != 0 || matrix.weight.n_rows % 4 != 0 || matrix.offset % 4 != 0 || (linear != nullptr && linear->factor != 1 && matrix.bias != nullptr)) return false;
        if (linear != nullptr && linear->out >= 0 && model_.values[static_cast<std::size_t>(linear->out)].width % 4 != 0) return false;
    }
    return true;
}

// Most of the multiplications are those of kept columns, which cuBLASLt would multiply with their zeros.
bool CudaSession::is_two_of_four() const {
    std::int64_t kept = 0, all = 0;
    for (const DeviceOp& op : model_.ops) {
        if (std::holds_alternative<SelectDevice>(op.detail)) break;
        for (const MatrixDevice& matrix : matrices_of(op)) {
            const std::int64_t n = std::int64_t{matrix.weight.n_rows} * matrix.weight.n_columns;
            all += n;
            if (matrix.weight.two_of_four) kept += n;
        }
    }
    return 2 * kept > all;
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

Result<std::unique_ptr<DeviceSession>> DeviceSession::create(const Table& table, const ModelSpec& spec, const WeightSource& weights, const DeviceSessionOptions& options) {
    auto session = std::make_unique<CudaSession>(options);
    SKIFF_CHECK(session->start(table, spec, weights));
    return std::unique_ptr<DeviceSession>(std::move(session));
}

}  // namespace skiff::cuda
