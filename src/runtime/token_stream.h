// The tokens of one sequence, one after another: the model runs, the sampler chooses, and where guesses pay, several are checked in one pass. Where the session can choose and feed
// tokens by itself (a device), it does, some tokens ahead of who reads them; they are the same ones.
// Needs of the state only that it appends and truncates.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "plan/session.h"
#include "runtime/proposer.h"
#include "runtime/sampler.h"
#include "runtime/speculation_policy.h"

namespace skiff {

class TokenStream {
public:
    // Without a proposer every pass gives one token. always: see SpeculationPolicy.
    TokenStream(Session& session, std::int64_t sequence, std::unique_ptr<Proposer> proposer = nullptr, int always = 0);

    // Begins a text of `prompt` and at most max_tokens more (-1: no limit). What the state holds of the prompt is kept; returns how many tokens that were.
    Result<std::int64_t> begin(const std::vector<std::int32_t>& prompt, const SamplingOptions& sampling, std::int64_t max_tokens = -1);
    // The next token. With certain guesses (n-grams), or at temperature 0, the same one as without any.
    Result<std::int32_t> next();
    // The context has no room for the last token, so that there is no next one.
    bool full() const { return !ready_ && static_cast<std::int64_t>(held_.size()) >= session_.state().capacity(); }
    // Forgets what was measured: the next text begins as the first one did.
    void start_cold();
    // Forgets what was guessed and not taken. To be called before the state of the sequence is used by others.
    Status end();

    // The text begun goes on with these tokens, whatever the model finds likely: to measure the speed of a text that is known.
    void dictate(std::vector<std::int32_t> tokens) { dictated_ = std::move(tokens), n_dictated_ = 0; }

    const SpeculationStats& stats() const { return stats_; }  // since begin()

private:
    Result<std::int32_t> choose();
    Status forward(std::span<const std::int32_t> tokens, BatchItem::Logits logits);
    Result<Logits> logits_of_row() const;
    Status run_pass();
    bool may_run_ahead() const;
    Result<std::optional<std::int32_t>> next_ahead();
    Status settle();
    void watch(std::int32_t token);

    Session& session_;
    std::int64_t sequence_;
    int always_;
    std::unique_ptr<Proposer> proposer_;
    std::optional<SpeculationPolicy> policy_;
    std::optional<Sampler> sampler_;
    std::vector<std::int32_t> held_;  // tokens of the text in the state, which may hold guesses behind them
    std::int64_t n_left_ = -1;        // tokens that are still wanted
    bool ready_ = false;              // row_ of the logits belongs to the next token
    std::int32_t last_ = 0;           // the last token, not in the state unless ready_
    bool only_top_ = false;           // the session was asked for the largest logits alone
    std::int64_t row_ = 0;            // also the number of guesses taken
    std::vector<std::int32_t> columns_;
    Proposal proposal_;
    // A guess that is only watched, to know what it would have been worth.
    Proposal watched_;
    std::size_t n_watched_ = 0;
    bool after_prompt_ = true;  // the logits are the prompt's
    std::int64_t n_ahead_ = 0;    // tokens that the session has chosen by itself and that were not read
    bool may_choose_ = true;      // until its logits left it no choice
    std::vector<std::int32_t> dictated_;
    std::size_t n_dictated_ = 0;
    SpeculationStats stats_;
};

}  // namespace skiff
