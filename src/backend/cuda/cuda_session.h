// The session of device_session.h. Its parts: making it (device_session.cpp), running (session_run.cpp), logits (session_logits.cpp), sequences (session_sequences.cpp),
// tokens that it feeds itself (session_feed.cpp).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend/cuda/device_session.h"
#include "backend/cuda/self_feed.h"
#include "backend/cuda/tap_sums.h"

namespace skiff::cuda {

inline constexpr std::int64_t graph_tokens = 64;      // runs of so many tokens at most are captured
inline constexpr std::size_t most_programs = 96;      // prompts come in many lengths
inline constexpr int n_slots = 16;                    // runs whose inputs may be on the way
inline constexpr std::int64_t logits_bytes = 64 << 20;  // of a run
inline constexpr std::size_t workspace_bytes = 64 << 20;
inline constexpr std::int64_t most_top = 64, most_top_rows = FeedQueue::most_wide;  // of what the device collects of the largest logits
inline constexpr std::int64_t feed_ring = 256;         // random numbers on the device, a power of two above FeedQueue::most
inline constexpr std::int64_t most_batch = 16384;      // tokens of a run: several kernels have a row of blocks for each, and a grid has 65535

class CudaSession final : public DeviceSession {
public:
    explicit CudaSession(const DeviceSessionOptions& options) : options_(options), pool_(options.session.n_threads), state_(*this), feeder_(*this) {}
    ~CudaSession() override;
    Status start(const Table& table, const ModelSpec& spec, const WeightSource& weights);

    using Session::forward;
    Status forward(std::span<const BatchItem> items, const LogitsSink& sink) override;
    Status forward_top(std::span<const BatchItem> items, std::int64_t limit) override;
    Status forward_hidden(std::int64_t sequence, std::span<const float> input, std::vector<float>& output) override;
    std::span<const float> logits() const override;
    std::span<const float> tap(const std::string& name) const override;
    TapSums* tap_sums() override { return options_.taps.empty() ? nullptr : &*taps_; }
    Sequences& state() override { return state_; }
    const Plan& plan() const override { return plan_; }
    ThreadPool& pool() override { return pool_; }
    int n_threads() const override { return pool_.n_threads(); }
    std::uint64_t buffer_bytes() const override { return scratch_->bytes() + scratch_->operand_bytes(); }
    std::string where() const override { return std::string(device_->table().name) + " " + device_->facts().name; }
    std::optional<double> read_gb_per_s() override;
    std::optional<double> gemm_tflops() override;
    SelfFeeder* self_feeder() override { return options_.feed == DeviceSessionOptions::Feed::device && feeds_itself() ? &feeder_ : nullptr; }
    Status wait() override { return device_->wait(); }
    void set_profiling(std::vector<double>* seconds_by_step) override { profile_ = seconds_by_step; }
    std::vector<StepName> decode_steps() const override;
    std::uint64_t device_bytes() const override { return device_->allocated_bytes(); }
    std::vector<std::pair<std::string, std::string>> decode_launches() override;
    Result<double> seconds_per_streamed_byte() override;

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
    class Feeder final : public SelfFeeder {
    public:
        explicit Feeder(CudaSession& session) : session_(session) {}
        bool takes(const ChoiceRule& rule) const override;
        std::int64_t most_steps() const override { return FeedQueue::most; }
        std::int64_t most_sequences() const override { return session_.most_chain(); }
        Status queue_together(std::span<const std::int64_t> sequences, std::span<const std::int32_t> tokens, const ChoiceRule& rule, std::int64_t n_steps, std::span<const double> uniforms) override;
        Result<std::span<const std::int32_t>> next_together() override { return session_.next_chosen(); }

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
    Status keep_rows();
    bool is_two_of_four() const;
    Status check(std::span<const BatchItem> items) const;
    Status check_taps(std::int64_t n_tokens) const;
    Status feed(std::span<const BatchItem> items, const LogitsSink& sink);
    Status feed_hidden(std::int64_t sequence, std::span<const float> input, std::vector<float>& output);
    Status run(Chunk& chunk);
    Result<Program*> program_for(const RunShape& shape);
    Result<DeviceProgram> lay_out(const RunShape& shape);
    Status leave_library(Status why);
    void leave_cudnn(const Status& why);
    RunInputs inputs_of(const RunShape& shape) const;
    EmitOptions emit_options() const;
    RunShape shape_of(const Chunk& chunk, std::vector<PrefillTile>& tiles) const;
    std::vector<Segment> segments_of(const Chunk& chunk) const;
    Status stage(const RunShape& shape, const Chunk& chunk, const std::vector<PrefillTile>& tiles);
    Status execute(const RunShape& shape, Program& entry);
    Status execute_profiled(const DeviceProgram& program);
    Result<Slot*> next_slot();
    Status append(std::int64_t sequence, std::int64_t n_tokens);
    Status copy_pages(const std::vector<PageCopy>& copies);
    Status fetch(float* target, std::int64_t n_rows) const;
    Status top_on_device(std::int64_t limit);
    Status make_sample_scratch();
    Status put_page_table(std::byte* at);
    bool feeds_itself() const { return !recurrent_ && plan_.has_head && model_.input < 0; }
    std::int64_t most_chain() const;  // sequences that a chain may have
    Status begin_chain(std::span<const std::int64_t> sequences, std::span<const std::int32_t> tokens, const ChoiceRule& rule);
    Status queue_steps(std::span<const std::int32_t> tokens, std::int64_t n_steps, std::span<const double> uniforms);
    Status put_uniforms(std::span<const std::int32_t> positions, std::int64_t n_steps, std::span<const double> uniforms);
    Result<std::span<const std::int32_t>> next_chosen();
    void end_chain() { feed_.end(); }
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
    Feeder feeder_;
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
    std::byte* workspace_ = nullptr;      // of the libraries
    KeptRows kept_rows_;                  // session_rows.cpp
    std::byte* top_scratch_ = nullptr;    // of sampling
    std::byte* top_memory_ = nullptr;     // on the device: (most_top_rows, most_top) values, then ids
    std::byte* host_top_ = nullptr;       // pinned
    std::optional<DeviceTapSums> taps_;
    mutable std::map<std::string, std::vector<float>> tapped_;  // of the last run, those that were asked for
    std::int64_t last_tokens_ = 0;        // of the last run
    FeedQueue feed_;                      // what it has chosen and fed by itself
    ChoiceRule feed_rule_;                // of the program that does
    std::int32_t* feed_history_ = nullptr;  // on the device: (capacity + 1, sequences of the chain), the tokens of each position
    double* feed_uniforms_ = nullptr;       // on the device: (most_chain, feed_ring), by position
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

}  // namespace skiff::cuda
