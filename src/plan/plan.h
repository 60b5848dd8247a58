// A Plan: the flat programs that run a model on this machine. Made once by lower(); kernels, buffers and packed weights are resolved
// before the first token. A Session (session.h) runs it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/result.h"
#include "kernels/kernels.h"
#include "model/spec.h"
#include "model/weight_source.h"
#include "plan/fuse_set.h"
#include "plan/pack_cache.h"
#include "plan/weight_pages.h"
#include "plan/top_logits.h"

namespace skiff {

// What a step sees while it runs. One per thread and call; everything else is in the step.
struct RunContext {
    float* const* buffers;          // by buffer number: (tokens of the step, width) f32; a thread's own: (tokens of the tile, its columns)
    std::byte* const* prepared;     // by buffer number: activations in another form
    const std::uint8_t* own;        // by buffer number: 1 where every thread has a buffer of its own
    const std::int32_t* tokens;     // (n_tokens)
    const std::int32_t* positions;  // (n_tokens)
    const std::int32_t* selected;   // (n_selected): tokens whose logits are wanted
    std::byte* const* const* keys;  // by state number: (n_tokens) -> base of the token's sequence
    std::byte* const* const* values;
    const StateScheme* state_schemes;  // by state number
    float* attention_partials;         // of attention split over threads: as AttentionArgs says
    std::int32_t* attention_arrivals;
    std::int64_t n_tokens, n_selected;
    std::int64_t capacity;  // tokens that a sequence of this session may reach
    int thread, n_threads;
    std::uint64_t epoch = 0;  // of this step of this run, as LinearArgs says
    const TopRequest* top = nullptr;  // where the largest logits go, if they are wanted
};

class TileTable;

enum class StepTokens : std::uint8_t { all, selected };

// A part of a step's work: some of its tokens, some of the columns that it writes.
struct Tile {
    Range tokens, columns;
};

// The values that a step touches, as fields of the step, so that they can be renamed.
struct Uses {
    std::vector<int*> reads, writes;
};

class Step {
public:
    virtual ~Step() = default;
    virtual void run(const RunContext& context) const = 0;  // this thread's share
    virtual Uses uses() = 0;

    // For fused steps, which deal the work of several steps among the threads in one way (fused_step.h).
    virtual void run_tile(const RunContext& context, const Tile& tile) const = 0;
    virtual std::int64_t width() const = 0;  // columns that it writes
    // What a tile's columns must be a multiple of, but for the last; 0: a token's columns stay together.
    virtual std::int64_t column_unit() const { return 0; }
    // Whether a token's result needs that token's inputs alone, and every thread can do some tokens.
    virtual bool token_by_token() const { return true; }

    std::string name;    // of the operators it does: "block0.attn.q + block0.attn.k"
    std::string kind;    // "linear"
    std::string kernel;  // "linear_w4_r8_avx2"
    StepTokens tokens = StepTokens::all;
    std::uint64_t weight_bytes = 0;  // read from memory by one pass
};

inline constexpr std::int64_t top_slab_columns = 1024;

struct Program {
    std::int64_t min_tokens, max_tokens;
    std::vector<std::unique_ptr<Step>> steps;  // a barrier stands behind each
    std::vector<std::string> plain_steps;      // what they were before they were fused, as describe() gives it
    // One step alone touches the logits, a slab of at most top_slab_columns at a time, and it collects the largest: then a thread may have them in a slab of its own.
    bool top_in_slabs = false;
};

// Buffers that a session must have, in entries per token.
struct BufferNeed {
    std::int64_t floats = 0;          // f32 values
    std::int64_t prepared_bytes = 0;  // for activations in another form
    StepTokens tokens = StepTokens::all;
    enum class Owner : std::uint8_t { session, thread } owner = Owner::session;
    std::int64_t most_tokens = INT64_MAX;  // that are held at a time
};

struct StateNeed {
    StateSpec spec;
    std::string name;  // of the operator
    std::int64_t n_heads = 0, n_kv_heads = 0, head_dim = 0;
};

struct PlanOptions {
    Isa isa = best_isa();
    KernelChoice kernels = KernelChoice::fastest;
    std::vector<std::string> taps;                                  // names of operators whose outputs a session can read after a run
    enum class Merge : std::uint8_t { on, off } merge = Merge::on;  // one step for linear operators that share an input
    // A stretch of the model: blocks first_block .. last_block. Its input is blocks[first_block].in, written by the session's caller.
    std::size_t first_block = 0, last_block = SIZE_MAX;
    int n_load_threads = 1;
    PackCacheOptions pack_cache;  // none, unless a folder is named
    WeightPages weight_pages = WeightPages::mapped;
    ProgressSink progress;
    enum class Fold : std::uint8_t { on, off } fold = Fold::on;  // scales of inputs into the norm in front, where all that read it share them
    FuseSet fuse = FuseSet::all();
    std::shared_ptr<const TileTable> tiles = nullptr;  // that were found to be fast here; null: the kernels' own rule
    int n_threads = default_thread_count();  // that sessions will mostly have: fused steps are cut for it, results do not depend on it
};

struct Tap {
    std::string name;
    int buffer;
    std::int64_t width;
    StepTokens tokens;
};

// By number of tokens in a run.
inline constexpr std::int64_t bucket_limits[] = {1, 8, 64, INT64_MAX};
inline constexpr int n_buckets = 4;
inline int bucket_of(std::int64_t n_tokens) {
    int bucket = 0;
    while (n_tokens > bucket_limits[bucket]) ++bucket;
    return bucket;
}

struct Plan {
    ModelSpec spec;
    std::array<Program, n_buckets> programs;
    std::vector<BufferNeed> buffers;
    std::vector<StateNeed> states;
    std::int64_t max_positions = INT64_MAX;  // that learned positions have rows for
    std::vector<Tap> taps;
    int input_buffer = -1;   // where the input of a stretch goes; -1: the plan begins with the embedding
    int output_buffer = -1;  // logits, or the output of a stretch's last block
    std::int64_t input_width = 0, output_width = 0;
    bool has_head = false;  // it ends with logits, and can collect the largest
    Isa isa = Isa::generic;
    std::uint64_t weight_bytes = 0;       // packed, each tensor once
    std::uint64_t decode_read_bytes = 0;  // that one token reads: all linear weights, one row of each embedding
    std::vector<std::shared_ptr<const PackedWeight>> weights;
    PackCache::Outcome pack_cache = PackCache::Outcome::off;
    std::string pack_cache_note;  // why the cache was not used or not written
    std::uint64_t huge_page_bytes = 0;  // of weights that were moved into huge pages
    std::vector<std::string> remarks;  // what is run otherwise than it is stored, and why

    const Program& program_for(std::int64_t n_tokens) const;
};

// Chooses layouts and kernels, packs the weights (one at a time), merges linear operators that share an input, places buffers.
Result<std::shared_ptr<const Plan>> lower(const ModelSpec& spec, const WeightSource& weights, const PlanOptions& options);

// Steps as text, one line each; what `inspect --plan` prints.
std::vector<std::string> describe(const std::vector<std::unique_ptr<Step>>& steps);

}  // namespace skiff
