// A model that runs: a plan with buffers, state and threads for a number of sequences.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "plan/plan.h"
#include "plan/self_feeder.h"
#include "plan/sequences.h"
#include "plan/state_choice.h"
#include "plan/tap_sums.h"

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
    // For a plan over a stretch of blocks, on the processor: what the blocks before it make of the tokens, which are still given. // (n_tokens, input_width)
    std::span<const float> hidden = {};
};

// Who feeds a model sees only this: the same calls whether its layers run on the processor (create) or on a device (backend/).
class Session {
public:
    // On the processor.
    static Result<std::unique_ptr<Session>> create(std::shared_ptr<const Plan> plan, const SessionOptions& options);
    virtual ~Session() = default;

    // Feeds the items and appends to their sequences' state. The logits of the wanted tokens are in logits() until the next call,
    // in the order of the items and their tokens. A plan that ends before the head gives hidden states instead, of all tokens: ask for Logits::all.
    // With a sink, they are handed over chunk by chunk instead and need not fit memory together.
    // On an error (a token out of range, a full context, an interrupt between two chunks) the state is as before.
    using LogitsSink = std::function<Status(std::int64_t first_row, std::span<const float> rows)>;
    virtual Status forward(std::span<const BatchItem> items, const LogitsSink& sink = nullptr) = 0;
    Status forward(std::int64_t sequence, std::span<const std::int32_t> tokens, BatchItem::Logits logits);
    // The same, for who wants no more than the `limit` largest logits of each wanted token: they are in top_row() until the next call. logits() may be empty
    // then: where the session can, it writes no row of them.
    virtual Status forward_top(std::span<const BatchItem> items, std::int64_t limit);
    // Falling, equal ones in the order of tokens. An error when the logits hold NaN, or only minus infinity.
    Result<std::span<const ScoredToken>> top_row(std::int64_t row) const;

    // For a plan over a stretch of blocks: hidden states in, hidden states out, at the positions that follow the state. // (n_tokens, width) f32
    virtual Status forward_hidden(std::int64_t sequence, std::span<const float> input, std::vector<float>& output) = 0;

    virtual std::span<const float> logits() const = 0;  // (n_wanted, n_vocab) f32
    std::span<const float> logits_row(std::int64_t row) const;  // (n_vocab)
    virtual std::span<const float> tap(const std::string& name) const = 0;  // of the last chunk: (n_tokens, width) f32; empty when unknown

    virtual TapSums* tap_sums() { return nullptr; }  // where the session can add up what its taps see

    virtual Sequences& state() = 0;
    const Sequences& state() const { return const_cast<Session*>(this)->state(); }
    virtual const Plan& plan() const = 0;  // on a device: what it says of the model; its programs are empty
    virtual ThreadPool& pool() = 0;
    virtual int n_threads() const = 0;
    virtual std::uint64_t buffer_bytes() const = 0;
    virtual std::string where() const = 0;  // "cpu avx2", "cuda NVIDIA H200"
    // Bytes per second that its memory gives, where the session can tell better than a measurement on the processor: nothing on the CPU.
    virtual std::optional<double> read_gb_per_s() { return std::nullopt; }
    // Floating-point operations per second, in 10^12, of a large product of bf16 matrices by what multiplies long prompts here: the limit of prefill. Nothing where that is not measured.
    virtual std::optional<double> gemm_tflops() { return std::nullopt; }
    virtual double share_read_there() const { return 1; }  // of what a token reads; the rest comes from the processor's memory

    virtual SelfFeeder* self_feeder() { return nullptr; }  // where it can choose and feed tokens by itself

    virtual Status wait() { return {}; }  // until all that was fed is computed: for who takes the time

    // Seconds spent in each step of the decode program, summed; filled while profiling is on.
    virtual void set_profiling(std::vector<double>* seconds_by_step) = 0;
    struct StepName {
        std::string name, kernel;
    };
    virtual std::vector<StepName> decode_steps() const = 0;  // of that program

protected:
    Session() = default;
    std::vector<Result<std::vector<ScoredToken>>> top_;  // of forward_top, by row
};

}  // namespace skiff
