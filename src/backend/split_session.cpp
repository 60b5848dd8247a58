#include "backend/split_session.h"

#include <algorithm>
#include <cstring>
#include <map>

namespace skiff {
namespace {

class SplitSession final : public Session {
public:
    SplitSession(std::unique_ptr<Session> first, std::unique_ptr<Session> second, std::int64_t n_layers);

    using Session::forward;
    Status forward(std::span<const BatchItem> items, const LogitsSink& sink) override;
    Status forward_top(std::span<const BatchItem> items, std::int64_t limit) override;
    Status forward_hidden(std::int64_t, std::span<const float>, std::vector<float>&) override { return usage_error("this plan begins with the embedding; give it tokens"); }
    std::span<const float> logits() const override { return n_runs_ > 1 ? std::span<const float>(gathered_) : second_->logits(); }
    std::span<const float> tap(const std::string& name) const override { return second_->tap(name); }
    Sequences& state() override { return state_; }
    const Plan& plan() const override { return plan_; }
    ThreadPool& pool() override { return second_->pool(); }
    int n_threads() const override { return second_->n_threads(); }
    std::uint64_t buffer_bytes() const override { return first_->buffer_bytes() + second_->buffer_bytes(); }
    std::string where() const override { return where_; }
    std::optional<double> read_gb_per_s() override { return first_->read_gb_per_s(); }
    double share_read_there() const override { return static_cast<double>(first_->plan().decode_read_bytes) / static_cast<double>(std::max<std::uint64_t>(1, plan_.decode_read_bytes)); }
    Status wait() override { return first_->wait(); }
    void set_profiling(std::vector<double>* seconds_by_step) override;
    std::vector<StepName> decode_steps() const override;

private:
    class State final : public Sequences {
    public:
        explicit State(SplitSession& session) : session_(session) {}
        std::int64_t capacity() const override { return std::min(first().capacity(), second().capacity()); }
        std::int64_t n_sequences() const override { return first().n_sequences(); }
        std::int64_t length(std::int64_t sequence) const override { return first().length(sequence); }
        std::uint64_t bytes_per_token() const override { return first().bytes_per_token() + second().bytes_per_token(); }
        Status truncate(std::int64_t sequence, std::int64_t n_tokens) override;
        void fork(std::int64_t from, std::int64_t to) override;
        void repeat(std::int64_t sequence, std::int64_t n_tokens) override;
        StateSnapshot snapshot(std::int64_t sequence) const override;
        Status restore(std::int64_t sequence, const StateSnapshot& snapshot) override;

    private:
        Sequences& first() const { return session_.first_->state(); }
        Sequences& second() const { return session_.second_->state(); }
        SplitSession& session_;
    };
    struct Kept {  // of the second part, for what fails behind one of its runs
        std::int64_t length = 0;
        std::optional<StateSnapshot> snapshot;
    };
    // Called with the items of one run of the first part, their hidden states in them.
    using Run = std::function<Status(std::span<const BatchItem> items)>;
    Status feed(std::span<const BatchItem> items, const Run& run);
    std::map<std::int64_t, Kept> keep(std::span<const BatchItem> items) const;
    Status put_back(const std::map<std::int64_t, Kept>& kept);

    std::unique_ptr<Session> first_, second_;
    State state_;
    Plan plan_;
    std::string where_;
    bool recurrent_ = false;  // the second part
    std::vector<float> gathered_;
    int n_runs_ = 0;
    Status broken_;
    std::vector<double>* profile_ = nullptr;
    std::vector<double> first_seconds_, second_seconds_;
};

SplitSession::SplitSession(std::unique_ptr<Session> first, std::unique_ptr<Session> second, std::int64_t n_layers) : first_(std::move(first)), second_(std::move(second)), state_(*this) {
    const Plan &a = first_->plan(), &b = second_->plan();
    plan_.spec = b.spec;
    plan_.states = a.states;
    plan_.states.insert(plan_.states.end(), b.states.begin(), b.states.end());
    plan_.max_positions = std::min(a.max_positions, b.max_positions);
    plan_.output_width = b.output_width;
    plan_.output_buffer = 0;
    plan_.has_head = b.has_head;
    plan_.isa = b.isa;
    plan_.weight_bytes = a.weight_bytes + b.weight_bytes;
    plan_.decode_read_bytes = a.decode_read_bytes + b.decode_read_bytes;
    plan_.pack_cache = b.pack_cache;
    plan_.pack_cache_note = b.pack_cache_note;
    plan_.huge_page_bytes = b.huge_page_bytes;
    const std::string part = std::to_string(n_layers) + " of " + std::to_string(b.spec.blocks.size() - 2) + " layers";
    plan_.remarks = {part + " run on the device, the others and the head on the processor"};
    for (const Plan* each : {&a, &b}) plan_.remarks.insert(plan_.remarks.end(), each->remarks.begin(), each->remarks.end());
    where_ = first_->where() + " (" + part + "), " + second_->where();
    for (const StateNeed& need : b.states) recurrent_ = recurrent_ || need.spec.kind == StateSpec::Kind::recurrent;
}

// A forward of the first part that fails leaves its state as before, and a run of the second part does; what earlier runs of the second part appended is taken back here.
Status SplitSession::feed(std::span<const BatchItem> items, const Run& run) {
    if (!broken_.ok()) return Error(broken_.error());
    gathered_.clear();
    n_runs_ = 0;
    const auto kept = keep(items);
    std::vector<BatchItem> all(items.begin(), items.end());
    for (BatchItem& item : all) item.logits = BatchItem::Logits::all;
    const auto width = static_cast<std::size_t>(first_->plan().output_width);
    std::size_t at = 0, done = 0;  // the item, its tokens that went before
    const Status status = first_->forward(all, [&](std::int64_t, std::span<const float> rows) -> Status {
        std::vector<BatchItem> part;
        while (!rows.empty()) {
            while (done == items[at].tokens.size()) ++at, done = 0;
            const BatchItem& item = items[at];
            const std::size_t n = std::min(item.tokens.size() - done, rows.size() / width);
            const auto begin = item.tokens.begin() + static_cast<std::ptrdiff_t>(done);
            done += n;
            const bool cut = item.logits == BatchItem::Logits::last && done < item.tokens.size();
            part.push_back({item.sequence, {begin, begin + static_cast<std::ptrdiff_t>(n)}, cut ? BatchItem::Logits::none : item.logits, rows.first(n * width)});
            rows = rows.subspan(n * width);
        }
        ++n_runs_;
        return run(part);
    });
    if (profile_ != nullptr) {
        *profile_ = first_seconds_;
        profile_->insert(profile_->end(), second_seconds_.begin(), second_seconds_.end());
    }
    if (status.ok()) return {};
    gathered_.clear();
    if (Status undone = put_back(kept); !undone.ok()) broken_ = std::move(undone);
    return Error(status.error());
}

std::map<std::int64_t, SplitSession::Kept> SplitSession::keep(std::span<const BatchItem> items) const {
    std::map<std::int64_t, Kept> kept;
    bool may_take_runs = false;
    for (const BatchItem& item : items) {
        if (item.sequence < 0 || item.sequence >= state_.n_sequences()) continue;  // the first part says so
        may_take_runs = may_take_runs || item.tokens.size() > 1 || kept.count(item.sequence) != 0;
        kept[item.sequence].length = second_->state().length(item.sequence);
    }
    if (recurrent_ && may_take_runs)  // which cannot go far back
        for (auto& [sequence, each] : kept) each.snapshot = second_->state().snapshot(sequence);
    return kept;
}

Status SplitSession::put_back(const std::map<std::int64_t, Kept>& kept) {
    Sequences& state = second_->state();
    for (const auto& [sequence, before] : kept) {
        if (state.length(sequence) == before.length) continue;
        SKIFF_CHECK(before.snapshot ? state.restore(sequence, *before.snapshot) : state.truncate(sequence, before.length));
    }
    return {};
}

Status SplitSession::forward(std::span<const BatchItem> items, const LogitsSink& sink) {
    std::int64_t n_rows = 0;
    const auto width = static_cast<std::size_t>(plan_.output_width);
    return feed(items, [&](std::span<const BatchItem> part) -> Status {
        if (!sink) {
            if (n_runs_ == 2) gathered_.assign(second_->logits().begin(), second_->logits().end());
            SKIFF_CHECK(second_->forward(part));
            if (n_runs_ > 1) gathered_.insert(gathered_.end(), second_->logits().begin(), second_->logits().end());
            return {};
        }
        std::int64_t n_new = 0;
        SKIFF_CHECK(second_->forward(part, [&](std::int64_t first_row, std::span<const float> rows) -> Status {
            n_new = first_row + static_cast<std::int64_t>(rows.size() / width);
            return sink(n_rows + first_row, rows);
        }));
        n_rows += n_new;
        return {};
    });
}

Status SplitSession::forward_top(std::span<const BatchItem> items, std::int64_t limit) {
    if (limit < 1) return usage_error("the largest logits: none are asked for");
    top_.clear();
    return feed(items, [&](std::span<const BatchItem> part) -> Status {
        SKIFF_CHECK(second_->forward_top(part, limit));
        std::int64_t n_rows = 0;
        for (const BatchItem& item : part)
            n_rows += item.logits == BatchItem::Logits::all ? static_cast<std::int64_t>(item.tokens.size()) : item.logits == BatchItem::Logits::last && !item.tokens.empty() ? 1 : 0;
        for (std::int64_t row = 0; row < n_rows; ++row) {
            const auto found = second_->top_row(row);
            if (found.ok()) top_.push_back(std::vector<ScoredToken>(found->begin(), found->end()));
            else top_.emplace_back(found.error());
        }
        return {};
    });
}

void SplitSession::set_profiling(std::vector<double>* seconds_by_step) {
    profile_ = seconds_by_step;
    first_seconds_.clear();
    second_seconds_.clear();
    first_->set_profiling(profile_ != nullptr ? &first_seconds_ : nullptr);
    second_->set_profiling(profile_ != nullptr ? &second_seconds_ : nullptr);
}

std::vector<Session::StepName> SplitSession::decode_steps() const {
    std::vector<StepName> steps = first_->decode_steps();
    for (StepName& step : second_->decode_steps()) steps.push_back(std::move(step));
    return steps;
}

// ---- sequences

// The device is the stricter of the two.
Status SplitSession::State::truncate(std::int64_t sequence, std::int64_t n_tokens) {
    SKIFF_CHECK(first().truncate(sequence, n_tokens));
    Status status = second().truncate(sequence, n_tokens);
    if (!status.ok()) session_.broken_ = Error(status.error());
    return status;
}

void SplitSession::State::fork(std::int64_t from, std::int64_t to) {
    first().fork(from, to);
    second().fork(from, to);
}

void SplitSession::State::repeat(std::int64_t sequence, std::int64_t n_tokens) {
    first().repeat(sequence, n_tokens);
    second().repeat(sequence, n_tokens);
}

// The first part's size, its bytes, the second part's.
StateSnapshot SplitSession::State::snapshot(std::int64_t sequence) const {
    StateSnapshot snapshot = first().snapshot(sequence);
    const StateSnapshot rest = second().snapshot(sequence);
    if (snapshot.n_tokens < 0 || rest.n_tokens != snapshot.n_tokens) return {-1, {}};
    const std::uint64_t size = snapshot.bytes.size();
    snapshot.bytes.insert(snapshot.bytes.begin(), sizeof size, std::byte{0});
    std::memcpy(snapshot.bytes.data(), &size, sizeof size);
    snapshot.bytes.insert(snapshot.bytes.end(), rest.bytes.begin(), rest.bytes.end());
    return snapshot;
}

Status SplitSession::State::restore(std::int64_t sequence, const StateSnapshot& snapshot) {
    std::uint64_t size = 0;
    if (snapshot.bytes.size() >= sizeof size) std::memcpy(&size, snapshot.bytes.data(), sizeof size);
    if (snapshot.bytes.size() < sizeof size || size > snapshot.bytes.size() - sizeof size) return usage_error("the snapshot was taken from another model or a longer context");
    const auto begin = snapshot.bytes.begin() + sizeof size, middle = begin + static_cast<std::ptrdiff_t>(size);
    SKIFF_CHECK(second().restore(sequence, {snapshot.n_tokens, {middle, snapshot.bytes.end()}}));
    Status status = first().restore(sequence, {snapshot.n_tokens, {begin, middle}});
    if (!status.ok()) session_.broken_ = Error(status.error());
    return status;
}

}  // namespace

Result<std::unique_ptr<Session>> make_split_session(std::unique_ptr<Session> first, std::unique_ptr<Session> second, std::int64_t n_layers) {
    if (first->plan().output_width != second->plan().input_width || first->state().capacity() != second->state().capacity() || first->state().n_sequences() != second->state().n_sequences())
        return usage_error("the two parts of the model do not fit together");
    return std::unique_ptr<Session>(std::make_unique<SplitSession>(std::move(first), std::move(second), n_layers));
}

}  // namespace skiff
