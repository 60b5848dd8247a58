// Where guesses of the next tokens come from. The model checks them all in one pass (runtime/token_stream.h), so a guess changes the speed, never the text's law.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "runtime/ngram_index.h"
#include "runtime/sampler.h"

namespace skiff {

inline constexpr int max_proposed = 7;  // with the token before them, a pass of eight columns

struct Proposal {
    std::vector<std::int32_t> tokens;
    std::vector<std::vector<TokenChance>> drawn_from;  // one for each token, where tokens were drawn; empty where they are certain
    int evidence = 0;
    void clear() { tokens.clear(), drawn_from.clear(); }
};

class Proposer {
public:
    virtual ~Proposer() = default;
    // A text begins, which will be sampled with these options.
    virtual Status begin(const std::vector<std::int32_t>& prompt, const SamplingOptions& sampling) = 0;
    // The text has this token now.
    virtual void confirm(std::int32_t token) = 0;
    // How good a proposal would be now: a class from 0 to n_evidence - 1, each of which is found right about equally often. -1: there is none.
    virtual int evidence() = 0;
    static constexpr int n_evidence = 5;
    // Guesses the next `n_tokens` of the text (or fewer).
    virtual Status propose(int n_tokens, Proposal& proposal) = 0;
    // How often the first guess of a class is expected to be right, before anything is known.
    virtual double first_guess(int evidence) const = 0;
    // A guess costs nothing worth counting, so that it can be watched without being used.
    virtual bool is_free() const = 0;
};

// The text repeats itself: what followed its last tokens before will follow again (prompt lookup; Saxena 2023, Yang et al. 2023).
class NgramProposer final : public Proposer {
public:
    Status begin(const std::vector<std::int32_t>& prompt, const SamplingOptions& sampling) override;
    void confirm(std::int32_t token) override { index_.push(token); }
    int evidence() override;
    Status propose(int n_tokens, Proposal& proposal) override;
    double first_guess(int evidence) const override;
    bool is_free() const override { return true; }

private:
    NgramIndex index_;
    std::optional<NgramIndex::Match> match_;
};

}  // namespace skiff
