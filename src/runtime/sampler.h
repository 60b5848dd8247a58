// From logits to a token: penalties, temperature, truncations, one random number. The same seed gives the same tokens.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "base/rng.h"
#include "base/result.h"

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

class Sampler {
public:
    explicit Sampler(const SamplingOptions& options) : options_(options), rng_(options.seed) {}
    // Tokens that came before, for the penalties.
    void observe(std::int32_t token) { history_.push_back(token); }
    // Chooses and observes the next token. An error when the logits hold NaN, or only minus infinity.
    Result<std::int32_t> sample(std::span<const float> logits);  // (n_vocab)

private:
    struct Candidate {
        std::int32_t token;
        float logit;
        double probability;
    };
    void penalize(std::vector<float>& logits) const;
    SamplingOptions options_;
    Rng rng_;
    std::vector<std::int32_t> history_;
};

// The first of the largest.
Result<std::int32_t> argmax_token(std::span<const float> logits);

}  // namespace skiff
