// Runs a plan: buffers, state and threads for a number of sequences.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "plan/plan.h"
#include "plan/state.h"
#include "plan/state_choice.h"

namespace skiff {

struct SessionOptions {
    int n_threads = default_thread_count();
    std::int64_t n_sequences = 1;
    std::int64_t n_context = 2048;  // tokens of state per sequence; no more than the model has learned positions for
    std::int64_t max_batch = 256;   // tokens per run; longer input is cut into chunks, with the same result
    StateScheme state_scheme = StateScheme::f32;
    std::vector<StateRule> state_rules = {};  // of single layers
};

// Tokens of one or several sequences, each continuing where its sequence's state ends.
struct BatchItem {
    std::int64_t sequence = 0;
    std::vector<std::int32_t> tokens;
    enum class Logits : std::uint8_t { none, last, all } logits = Logits::last;
};

class Session {
public:
    static Result<std::unique_ptr<Session>> create(std::shared_ptr<const Plan> plan, const SessionOptions& options);

    // Feeds the items and appends to their sequences' state. The logits of the wanted tokens are in logits() until the next call,
    // in the order of the items and their tokens. A plan that ends before the head gives hidden states instead, of all tokens: ask for Logits::all.
    // With a sink, they are handed over chunk by chunk instead and need not fit memory together.
    // On an error (a token out of range, a full context, an interrupt between two chunks) the state is as before.
    using LogitsSink = std::function<Status(std::int64_t first_row, std::span<const float> rows)>;
    Status forward(std::span<const BatchItem> items, const LogitsSink& sink = nullptr);
    Status forward(std::int64_t sequence, std::span<const std::int32_t> tokens, BatchItem::Logits logits);

    // For a plan over a stretch of blocks: hidden states in, hidden states out, at the positions that follow the state. // (n_tokens, width) f32
    Status forward_hidden(std::int64_t sequence, std::span<const float> input, std::vector<float>& output);

    std::span<const float> logits() const { return logits_; }   // (n_wanted, n_vocab) f32
    std::span<const float> logits_row(std::int64_t row) const;  // (n_vocab)
    std::span<const float> tap(const std::string& name) const;  // of the last chunk: (n_tokens, width) f32; empty when unknown

    StateCache& state() { return state_; }
    const Plan& plan() const { return *plan_; }
    int n_threads() const { return pool_.n_threads(); }
    ThreadPool& pool() { return pool_; }
    std::uint64_t buffer_bytes() const { return buffer_bytes_; }

    // Seconds spent in each step of the decode program, summed; filled while profiling is on.
    void set_profiling(std::vector<double>* seconds_by_step) { profile_ = seconds_by_step; }

private:
    Session(std::shared_ptr<const Plan> plan, const SessionOptions& options, StateCache state);
    Status reserve_buffers();
    Result<std::byte*> reserve(std::size_t size_bytes);
    struct Chunk;
    void run(const Chunk& chunk);
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
    std::int64_t last_n_tokens_ = 0, last_n_selected_ = 0;
    std::uint64_t buffer_bytes_ = 0;
    std::vector<double>* profile_ = nullptr;
};

}  // namespace skiff
