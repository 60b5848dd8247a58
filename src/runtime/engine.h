// A model ready to generate: checkpoint, tokenizer, plan and session in one, with streaming text out.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/device_choice.h"
#include "model/checkpoint.h"
#include "plan/session.h"
#include "runtime/sampler.h"
#include "runtime/token_stream.h"
#include "tensor/prune_target.h"
#include "tensor/scheme.h"

namespace skiff {

// Guesses of the next tokens that are checked several in one pass. They change the speed, never the law of the text (docs/adr/0017-speculation.md).
struct SpeculationOptions {
    enum class Source : std::uint8_t { off, ngram, draft } source = Source::off;
    std::string draft_model;  // for Source::draft: a smaller model with the same tokenizer
    int always = 0;           // 1 to 7: so many guesses in every pass, whether it pays or not; 0: as many as pay
};

inline constexpr std::int64_t cpu_max_batch = 256;  // tokens of a prompt at a time, unless options say otherwise

struct EngineOptions {
    DeviceChoice device;  // what follows of kernels, threads and caches is the processor's
    Isa isa = best_isa();
    KernelChoice kernels = KernelChoice::fastest;
    int n_threads = default_thread_count();
    std::int64_t n_context = 0;  // 0: what the model was trained for, at most 4096
    std::int64_t n_sequences = 1;
    std::int64_t max_batch = 0;  // tokens of a prompt at a time; 0: what suits the processor or device
    StateScheme state_scheme = StateScheme::f32;
    std::vector<StateRule> state_rules = {};  // of single layers
    std::optional<Scheme> scheme;  // quantize plain linear weights while loading
    std::optional<PruneTarget> prune;  // and prune them by magnitude before
    SpeculationOptions speculation;
    PlanOptions::Merge merge = PlanOptions::Merge::on;
    PlanOptions::Fold fold = PlanOptions::Fold::on;
    FuseSet fuse = FuseSet::all();
    std::shared_ptr<const TileTable> tiles = nullptr;  // that were found to be fast here; null: the kernels' own rule
    PackCacheOptions pack_cache;  // where packed weights are kept for the next start; none without a folder
    WeightPages weight_pages = WeightPages::automatic;
    ProgressSink progress;
};

struct GenerateOptions {
    SamplingOptions sampling;
    std::int64_t max_tokens = -1;   // -1: until the context is full
    std::vector<std::string> stop;  // text that ends the generation and is not given out
    enum class EndOfText : std::uint8_t { stop, ignore } end_of_text = EndOfText::stop;
};

struct GenerateResult {
    std::vector<std::int32_t> tokens;  // that were generated, the end token included
    std::string text;
    enum class Finish : std::uint8_t { stop, length, context_full, interrupted } finish = Finish::stop;
    std::int64_t n_prompt_tokens = 0, n_reused_tokens = 0;
    double prompt_seconds = 0, decode_seconds = 0;
    SpeculationStats speculation;  // without speculation: one token per pass
};

class Engine {
public:
    static Result<std::unique_ptr<Engine>> load(const std::string& model, const EngineOptions& options);
    static Result<std::unique_ptr<Engine>> load(Checkpoint checkpoint, const EngineOptions& options);

    // Continues `prompt` (the whole conversation as tokens): what the state already holds of it is reused. `on_text` gets whole characters
    // as they come, never a part of a stop text; returning false ends the generation.
    using TextSink = std::function<bool(std::string_view piece)>;
    Result<GenerateResult> generate(const std::vector<std::int32_t>& prompt, const GenerateOptions& options, const TextSink& on_text);

    const Checkpoint& checkpoint() const { return checkpoint_; }
    const Tokenizer* tokenizer() const { return tokenizer_ ? &*tokenizer_ : nullptr; }
    Session& session() { return *session_; }
    TokenStream& stream() { return *stream_; }  // tokens instead of text: of sequence 0
    const Plan& plan() const { return session_->plan(); }
    std::vector<std::string> remarks() const {  // what is run otherwise than it was asked for or stored, and why
        std::vector<std::string> all = remarks_;
        all.insert(all.end(), plan().remarks.begin(), plan().remarks.end());
        return all;
    }

private:
    Engine() = default;
    Status start_stream(const EngineOptions& options);
    Checkpoint checkpoint_;
    std::optional<Tokenizer> tokenizer_;
    std::vector<std::string> remarks_;
    std::unique_ptr<Session> session_;
    std::unique_ptr<Engine> draft_;
    std::unique_ptr<TokenStream> stream_;
};

}  // namespace skiff
