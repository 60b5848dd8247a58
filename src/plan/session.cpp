#include "plan/session.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>

#include "plan/state.h"

namespace skiff {
namespace {

// Logits of so many tokens are kept in slabs of a thread's own; of more they are written out.
constexpr std::int64_t most_slab_rows = 8, slab_floats = most_slab_rows * top_slab_columns;

class CpuSession final : public Session {
public:
    CpuSession(std::shared_ptr<const Plan> plan, const SessionOptions& options, StateCache state);
    Status reserve_buffers();

    Status forward(std::span<const BatchItem> items, const LogitsSink& sink) override;
    Status forward_top(std::span<const BatchItem> items, std::int64_t limit) override;
    Status forward_hidden(std::int64_t sequence, std::span<const float> input, std::vector<float>& output) override;
    std::span<const float> logits() const override { return logits_; }
    std::span<const float> tap(const std::string& name) const override;
    Sequences& state() override { return state_; }
    const Plan& plan() const override { return *plan_; }
    int n_threads() const override { return pool_.n_threads(); }
    ThreadPool& pool() override { return pool_; }
    std::uint64_t buffer_bytes() const override { return buffer_bytes_; }
    std::string where() const override { return "cpu " + std::string(isa_name(plan_->isa)); }
    void set_profiling(std::vector<double>* seconds_by_step) override { profile_ = seconds_by_step; }
    std::vector<StepName> decode_steps() const override {
        std::vector<StepName> names;
        for (const auto& step : plan_->programs[0].steps) names.push_back({step->kind + " " + step->name, step->kernel});
        return names;
    }

private:
    struct Chunk;
    Result<std::byte*> reserve(std::size_t size_bytes);
    void run(const Chunk& chunk);
    void collect_top();
    Status check(std::span<const BatchItem> items) const;
    Status feed(std::span<const BatchItem> items, const LogitsSink& sink);

    std::shared_ptr<const Plan> plan_;
    SessionOptions options_;
    StateCache state_;
    ThreadPool pool_;
    std::vector<LazyMemory> memory_;
    LazyMemory partials_;  // of attention split over threads
    std::vector<std::int32_t> arrivals_;
    // By thread, by buffer number: most are the same for all threads.
    std::vector<std::vector<float*>> float_pointers_;
    std::vector<std::vector<std::byte*>> prepared_pointers_;
    std::vector<std::uint8_t> own_;  // by buffer number: 1 where every thread has one
    std::vector<std::vector<std::byte*>> key_rows_, value_rows_;  // by state, by token of the chunk
    std::vector<float> logits_;
    // Of forward_top: what is asked for (0: nothing), by thread and row; the slabs.
    std::int64_t top_limit_ = 0;
    std::vector<TopList> top_lists_;
    LazyMemory slabs_;  // which take the place of the logits
    std::vector<std::vector<float*>> slab_pointers_;
    std::vector<std::uint8_t> slab_own_;
    std::int64_t last_n_tokens_ = 0, last_n_selected_ = 0;
    std::uint64_t buffer_bytes_ = 0;
    std::vector<double>* profile_ = nullptr;
};

// What one run of a program works on.
struct CpuSession::Chunk {
    std::vector<std::int32_t> tokens, positions, selected;
    std::vector<std::int64_t> sequences;
    const float* input = nullptr;  // hidden states of a stretch of blocks
    std::vector<float> rows;       // those, where items bring them
};

CpuSession::CpuSession(std::shared_ptr<const Plan> plan, const SessionOptions& options, StateCache state)
    : plan_(std::move(plan)), options_(options), state_(std::move(state)), pool_(options.n_threads) {
    key_rows_.resize(plan_->states.size());
    value_rows_.resize(plan_->states.size());
}

// Reserved, not touched: the head's buffers are as wide as the vocabulary, but seldom more than one of their rows is used.
Status CpuSession::reserve_buffers() {
    const auto n_threads = static_cast<std::size_t>(pool_.n_threads());
    float_pointers_.resize(n_threads);
    prepared_pointers_.resize(n_threads);
    for (const BufferNeed& need : plan_->buffers) {
        const std::int64_t n_tokens = std::min(options_.max_batch, need.most_tokens);
        const bool own = need.owner == BufferNeed::Owner::thread;
        own_.push_back(own ? 1 : 0);
        float* floats = nullptr;
        std::byte* prepared = nullptr;
        for (std::size_t thread = 0; thread < n_threads; ++thread) {
            if (thread == 0 || own) {
                SKIFF_TRY(std::byte* memory, reserve(static_cast<std::size_t>(need.floats * n_tokens) * sizeof(float)));
                floats = reinterpret_cast<float*>(memory);
                SKIFF_TRY(prepared, reserve(static_cast<std::size_t>(need.prepared_bytes * n_tokens)));
            }
            float_pointers_[thread].push_back(floats);
            prepared_pointers_[thread].push_back(prepared);
        }
    }
    std::int64_t partial_floats = 0;
    for (const StateNeed& need : plan_->states)
        if (need.n_kv_heads > 0) partial_floats = std::max(partial_floats, attention_partial_floats(need.n_heads, need.n_kv_heads, need.head_dim));
    const auto partial_bytes = static_cast<std::size_t>(partial_floats * attention_max_split_units(state_.capacity(), pool_.n_threads())) * sizeof(float);
    SKIFF_TRY(partials_, LazyMemory::reserve(n_threads > 1 ? partial_bytes : 0));
    SKIFF_TRY(slabs_, LazyMemory::reserve(n_threads * slab_floats * sizeof(float)));
    slab_pointers_ = float_pointers_;
    slab_own_ = own_;
    const auto output = static_cast<std::size_t>(plan_->output_buffer);
    for (std::size_t thread = 0; thread < n_threads; ++thread) slab_pointers_[thread][output] = reinterpret_cast<float*>(slabs_.data()) + thread * slab_floats;
    slab_own_[output] = 1;
    arrivals_.assign(static_cast<std::size_t>(attention_max_split_tiles(pool_.n_threads())), 0);
    return {};
}

Result<std::byte*> CpuSession::reserve(std::size_t size_bytes) {
    SKIFF_TRY(auto memory, LazyMemory::reserve(size_bytes));
    memory_.push_back(std::move(memory));
    buffer_bytes_ += size_bytes;
    return memory_.back().data();
}

Status CpuSession::check(std::span<const BatchItem> items) const {
    std::vector<std::int64_t> added(static_cast<std::size_t>(state_.n_sequences()), 0);
    for (const BatchItem& item : items) {
        const std::size_t wanted = plan_->input_buffer >= 0 ? item.tokens.size() * static_cast<std::size_t>(plan_->input_width) : 0;
        if (item.hidden.size() != wanted) return usage_error(plan_->input_buffer >= 0 ? "this plan has no embedding; give it the hidden states of all tokens" : "this plan begins with the embedding; give it tokens alone");
        if (item.sequence < 0 || item.sequence >= state_.n_sequences())
            return usage_error("sequence " + std::to_string(item.sequence) + " is not in this session");
        for (std::int32_t token : item.tokens)
            if (token < 0 || token >= plan_->spec.n_vocab)
                return usage_error("token " + std::to_string(token) + " is outside the vocabulary of " + std::to_string(plan_->spec.n_vocab));
        std::int64_t& n = added[static_cast<std::size_t>(item.sequence)];
        n += static_cast<std::int64_t>(item.tokens.size());
        if (state_.length(item.sequence) + n > state_.capacity() && state_.capacity() == plan_->max_positions)
            return resource_error("the model has learned positions for " + std::to_string(plan_->max_positions) + " tokens, the context is full");
        if (state_.length(item.sequence) + n > state_.capacity())
            return resource_error("the context of " + std::to_string(state_.capacity()) + " tokens is full; start with a larger --ctx");
    }
    return {};
}

void CpuSession::run(const Chunk& chunk) {
    const auto n_tokens = static_cast<std::int64_t>(chunk.positions.size());
    std::vector<std::byte*const*> keys, values;
    for (std::size_t s = 0; s < plan_->states.size(); ++s) {
        key_rows_[s].resize(chunk.positions.size());
        value_rows_[s].resize(chunk.positions.size());
        for (std::size_t t = 0; t < chunk.positions.size(); ++t) {
            key_rows_[s][t] = state_.keys(s, chunk.sequences[t]);
            value_rows_[s][t] = state_.values(s, chunk.sequences[t]);
        }
        keys.push_back(key_rows_[s].data());
        values.push_back(value_rows_[s].data());
    }
    if (chunk.input != nullptr)
        std::memcpy(float_pointers_[0][static_cast<std::size_t>(plan_->input_buffer)], chunk.input,
                    static_cast<std::size_t>(n_tokens * plan_->input_width) * sizeof(float));
    RunContext context{nullptr,
                       nullptr,
                       own_.data(),
                       chunk.tokens.data(),
                       chunk.positions.data(),
                       chunk.selected.data(),
                       keys.data(),
                       values.data(),
                       state_.schemes().data(),
                       reinterpret_cast<float*>(partials_.data()),
                       arrivals_.data(),
                       n_tokens,
                       static_cast<std::int64_t>(chunk.selected.size()),
                       state_.capacity(),
                       0,
                       pool_.n_threads()};
    const Program& program = plan_->program_for(n_tokens);
    TopRequest top{top_limit_, nullptr};
    const bool in_slabs = top_limit_ > 0 && program.top_in_slabs && context.n_selected <= most_slab_rows;
    if (top_limit_ > 0) {
        top_lists_.resize(std::max(top_lists_.size(), static_cast<std::size_t>(context.n_threads) * chunk.selected.size()));
        for (TopList& list : top_lists_) list.begin(top_limit_);
        top.lists = top_lists_.data();
        context.top = &top;
    }
    if (in_slabs) context.own = slab_own_.data();
    const bool profiling = profile_ != nullptr && &program == &plan_->programs[0];
    if (profiling) profile_->resize(program.steps.size());
    static std::atomic<std::uint64_t> epochs{0};  // of all sessions: a thread may run several
    const std::uint64_t epoch = epochs.fetch_add(program.steps.size()) + 1;
    pool_.run([&](int thread) {
        RunContext mine = context;
        mine.thread = thread;
        mine.buffers = (in_slabs ? slab_pointers_ : float_pointers_)[static_cast<std::size_t>(thread)].data();
        mine.prepared = prepared_pointers_[static_cast<std::size_t>(thread)].data();
        for (std::size_t i = 0; i < program.steps.size(); ++i) {
            const double begin = profiling && thread == 0 ? monotonic_seconds() : 0;
            mine.epoch = epoch + i;
            program.steps[i]->run(mine);
            pool_.barrier();
            if (profiling && thread == 0) (*profile_)[i] += monotonic_seconds() - begin;
        }
    });
    last_n_tokens_ = n_tokens;
    last_n_selected_ = context.n_selected;
}

Status CpuSession::forward(std::span<const BatchItem> items, const LogitsSink& sink) {
    SKIFF_CHECK(check(items));
    // Recurrent rows are copied where more tokens come than their ring takes back.
    std::vector<std::int64_t> lengths;
    std::map<std::int64_t, std::vector<std::byte>> rows;
    for (std::int64_t sequence = 0; sequence < state_.n_sequences(); ++sequence) lengths.push_back(state_.length(sequence));
    std::map<std::int64_t, std::size_t> added;  // an item need not be the only one of its sequence
    for (const BatchItem& item : items) added[item.sequence] += item.tokens.size();
    for (const auto& [sequence, n_tokens] : added)
        if (static_cast<std::int64_t>(n_tokens) > recurrent_slack / 2) rows.emplace(sequence, state_.recurrent_rows(sequence));
    Status status = feed(items, sink);
    if (status.ok()) return status;
    for (std::int64_t sequence = 0; sequence < state_.n_sequences(); ++sequence) {
        const std::int64_t length = lengths[static_cast<std::size_t>(sequence)];
        const auto copied = rows.find(sequence);
        if (copied != rows.end()) state_.take_back(sequence, length, copied->second);
        else SKIFF_CHECK(state_.truncate(sequence, length));
    }
    return status;
}

Status CpuSession::feed(std::span<const BatchItem> items, const LogitsSink& sink) {
    logits_.clear();
    top_.clear();
    std::int64_t first_row = 0, n_runs = 0;
    Chunk chunk;
    auto flush = [&]() -> Status {
        if (chunk.tokens.empty()) return {};
        if (n_runs++ > 0 && interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted", {}};
        if (!chunk.rows.empty()) chunk.input = chunk.rows.data();
        run(chunk);
        if (top_limit_ > 0) {
            collect_top();
            chunk = Chunk();
            return {};
        }
        const std::size_t size = chunk.selected.size() * static_cast<std::size_t>(plan_->output_width);
        const float* rows = float_pointers_[0][static_cast<std::size_t>(plan_->output_buffer)];
        if (sink) {
            if (size > 0) SKIFF_CHECK(sink(first_row, {rows, size}));
        } else {
            logits_.insert(logits_.end(), rows, rows + size);
        }
        first_row += static_cast<std::int64_t>(chunk.selected.size());
        chunk = Chunk();
        return {};
    };
    for (const BatchItem& item : items) {
        for (std::size_t i = 0; i < item.tokens.size(); ++i) {
            const bool wanted = item.logits == BatchItem::Logits::all || (item.logits == BatchItem::Logits::last && i + 1 == item.tokens.size());
            if (wanted) chunk.selected.push_back(static_cast<std::int32_t>(chunk.tokens.size()));
            chunk.tokens.push_back(item.tokens[i]);
            if (!item.hidden.empty()) {
                const auto row = item.hidden.subspan(i * static_cast<std::size_t>(plan_->input_width), static_cast<std::size_t>(plan_->input_width));
                chunk.rows.insert(chunk.rows.end(), row.begin(), row.end());
            }
            chunk.positions.push_back(static_cast<std::int32_t>(state_.length(item.sequence)));
            chunk.sequences.push_back(item.sequence);
            state_.append(item.sequence, 1);
            if (static_cast<std::int64_t>(chunk.tokens.size()) == options_.max_batch) SKIFF_CHECK(flush());
        }
    }
    return flush();
}

void CpuSession::collect_top() {
    const auto n_rows = static_cast<std::size_t>(last_n_selected_);
    for (std::size_t row = 0; row < n_rows; ++row) {
        std::vector<const TopList*> lists;
        for (std::size_t thread = 0; thread < static_cast<std::size_t>(pool_.n_threads()); ++thread) lists.push_back(&top_lists_[thread * n_rows + row]);
        top_.push_back(merge_top(lists, top_limit_));
    }
}

Status CpuSession::forward_top(std::span<const BatchItem> items, std::int64_t limit) {
    if (!plan_->has_head || limit < 1) return usage_error("the largest logits: this plan ends before them, or none are asked for");
    top_limit_ = limit;
    Status status = forward(items, nullptr);
    top_limit_ = 0;
    return status;
}

Status CpuSession::forward_hidden(std::int64_t sequence, std::span<const float> input, std::vector<float>& output) {
    if (plan_->input_buffer < 0) return usage_error("this plan begins with the embedding; give it tokens");
    const std::int64_t n_tokens = static_cast<std::int64_t>(input.size()) / plan_->input_width;
    if (n_tokens * plan_->input_width != static_cast<std::int64_t>(input.size()))
        return usage_error("the hidden states are no whole number of tokens");
    if (state_.length(sequence) + n_tokens > state_.capacity())
        return resource_error("the context of " + std::to_string(state_.capacity()) + " tokens is full");
    output.clear();
    for (std::int64_t begin = 0; begin < n_tokens; begin += options_.max_batch) {
        Chunk chunk;
        const std::int64_t end = std::min(n_tokens, begin + options_.max_batch);
        for (std::int64_t t = begin; t < end; ++t) {
            chunk.tokens.push_back(0);
            chunk.selected.push_back(static_cast<std::int32_t>(t - begin));
            chunk.positions.push_back(static_cast<std::int32_t>(state_.length(sequence)));
            chunk.sequences.push_back(sequence);
            state_.append(sequence, 1);
        }
        chunk.input = input.data() + begin * plan_->input_width;
        run(chunk);
        const float* rows = float_pointers_[0][static_cast<std::size_t>(plan_->output_buffer)];
        output.insert(output.end(), rows, rows + (end - begin) * plan_->output_width);
    }
    return {};
}

std::span<const float> CpuSession::tap(const std::string& name) const {
    for (const Tap& tap : plan_->taps) {
        if (tap.name != name) continue;
        const std::int64_t n = tap.tokens == StepTokens::all ? last_n_tokens_ : last_n_selected_;
        return {float_pointers_[0][static_cast<std::size_t>(tap.buffer)], static_cast<std::size_t>(n * tap.width)};
    }
    return {};
}

}  // namespace

Result<std::unique_ptr<Session>> Session::create(std::shared_ptr<const Plan> plan, const SessionOptions& options) {
    if (options.max_batch < 1 || options.n_threads < 1) return usage_error("a session needs at least one thread and one token per run");
    const std::int64_t capacity = std::min(options.n_context, plan->max_positions);
    SKIFF_TRY(const auto schemes, schemes_of_states({options.state_scheme, options.state_rules}, plan->states));
    SKIFF_TRY(auto state, StateCache::create(plan->states, schemes, options.n_sequences, capacity));
    auto session = std::make_unique<CpuSession>(std::move(plan), options, std::move(state));
    SKIFF_CHECK(session->reserve_buffers());
    return std::unique_ptr<Session>(std::move(session));
}

Status Session::forward_top(std::span<const BatchItem> items, std::int64_t limit) {
    if (limit < 1) return usage_error("the largest logits: none are asked for");
    SKIFF_CHECK(forward(items));
    top_.clear();
    const auto width = static_cast<std::size_t>(plan().output_width);
    TopList list;
    for (std::size_t row = 0; row < logits().size() / width; ++row) {
        list.begin(limit);
        list.add(0, logits().subspan(row * width, width));
        const TopList* const lists[] = {&list};
        top_.push_back(merge_top(lists, limit));
    }
    return {};
}

Result<std::span<const ScoredToken>> Session::top_row(std::int64_t row) const {
    const auto& found = top_[static_cast<std::size_t>(row)];
    if (!found.ok()) return found.error();
    return std::span<const ScoredToken>(*found);
}

Status Session::forward(std::int64_t sequence, std::span<const std::int32_t> tokens, BatchItem::Logits logits) {
    BatchItem item{sequence, {tokens.begin(), tokens.end()}, logits};
    return forward(std::span(&item, 1));
}

std::span<const float> Session::logits_row(std::int64_t row) const {
    const auto width = static_cast<std::size_t>(plan().output_width);
    return logits().subspan(static_cast<std::size_t>(row) * width, width);
}

}  // namespace skiff
