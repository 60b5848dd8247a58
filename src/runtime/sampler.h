// From logits to a token: penalties, temperature, truncations, one random number. The same seed gives the same tokens.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/rng.h"
#include "base/result.h"
#include "plan/self_feeder.h"
#include "runtime/largest.h"

namespace skiff {

struct SamplingOptions {
    double temperature = 0.8;          // 0: the most likely token
    std::int64_t top_k = 40;           // 0: off
    double top_p = 0.95;               // 1: off. Holtzman et al. 2020
    double min_p = 0.05;               // 0: off. Tokens below min_p times the most likely one are dropped
    double repetition_penalty = 1.0;   // 1: off. Keskar et al. 2019: positive logits are divided by it, negative ones multiplied
    double presence_penalty = 0.0;     // subtracted from tokens that occurred
    double frequency_penalty = 0.0;    // subtracted per occurrence
    std::int64_t penalty_window = 64;  // last tokens that penalties look at; -1: all, prompt included
    std::uint64_t seed = 0;
};
Status check(const SamplingOptions& options);  // usage errors for values that make no sense

// A token that may come, and how likely. A distribution is a list of them with chances that sum to 1; what it does not name has none.
struct TokenChance {
    std::int32_t token;
    double chance;
};

// What a choice looks at: all logits of a token, or the largest alone, falling, as many as Sampler::n_wanted() says.
class Logits {
public:
    Logits(std::span<const float> all) : all_(all), n_vocab_(all.size()) {}
    Logits(const std::vector<float>& all) : Logits(std::span<const float>(all)) {}
    template <std::size_t N>
    Logits(const float (&all)[N]) : Logits(std::span<const float>(all)) {}
    Logits(std::span<const ScoredToken> largest, std::size_t n_vocab) : largest_(largest), n_vocab_(n_vocab) {}
    std::span<const float> all() const { return all_; }
    std::span<const ScoredToken> largest() const { return largest_; }
    bool only_largest() const { return !largest_.empty(); }
    std::size_t n_vocab() const { return n_vocab_; }

private:
    std::span<const float> all_;
    std::span<const ScoredToken> largest_;
    std::size_t n_vocab_;
};

class Sampler {
public:
    explicit Sampler(const SamplingOptions& options) : options_(options), rng_(options.seed) {}
    // Tokens that came before, for the penalties; and the last ones taken back.
    void observe(std::int32_t token);
    void forget(std::size_t n_tokens);
    std::size_t n_observed() const { return history_.size(); }

    // How many of the largest logits settle a choice; 0: all logits have to be seen.
    std::int64_t n_wanted() const;

    // Where the largest logits settle it, what a session needs to choose as sample() would: the rule, and the random numbers of the next n tokens, which are not drawn yet.
    std::optional<ChoiceRule> rule() const;
    std::vector<double> next_uniforms(std::int64_t n) const;
    // A token that was chosen elsewhere so: as if sample() had given it.
    void take(std::int32_t token);

    // Chooses and observes the next token. An error when the logits hold NaN, or only minus infinity.
    Result<std::int32_t> sample(const Logits& logits);

    // The same, where `proposal` was drawn from the distribution `draft`: takes it with probability min(1, p / q), else draws from what p has above q,
    // so that the token follows p whatever the draft was (Leviathan et al. 2023, appendix A.1; Chen et al. 2023). The two differ when it was refused.
    // A proposal that was certain (a point mass) needs none of this: sample() equals it with probability p, and is another one by p's share.
    Result<std::int32_t> verify(const Logits& logits, std::int32_t proposal, std::span<const TokenChance> draft);

    // The parts of sample(): what may come, valid until the next call, and a draw from it, which is not observed.
    Result<std::span<const TokenChance>> distribution(const Logits& logits);
    std::int32_t draw();

private:
    std::span<const float> penalize(std::span<const float> logits);
    void choose_candidates(const Logits& logits, float highest);
    void keep_nucleus(double total);
    bool has_penalties() const;
    std::size_t window() const;

    SamplingOptions options_;
    Rng rng_;
    std::vector<std::int32_t> history_;
    std::vector<std::int32_t> counts_;  // by token: occurrences in the window
    std::vector<TokenChance> distribution_;
    // Scratch that keeps its memory from token to token.
    RowScan scan_;
    std::vector<ScoredToken> candidates_;
    std::vector<float> penalized_, exponentials_;  // exponentials_: by token
    std::vector<double> draft_chances_;  // by token; zero between calls
};

}  // namespace skiff
