// A small model writes ahead; the large one checks.
#pragma once

#include <memory>

#include "plan/session.h"
#include "runtime/proposer.h"

namespace skiff {

class DraftProposer final : public Proposer {
public:
    // `session` runs the draft; tokens from n_vocab on, which the large model lacks, are never proposed.
    DraftProposer(Session& session, std::int64_t n_vocab) : session_(session), n_vocab_(n_vocab) {}
    Status begin(const std::vector<std::int32_t>& prompt, const SamplingOptions& sampling) override;
    void confirm(std::int32_t token) override;
    int evidence() override;
    Status propose(int n_tokens, Proposal& proposal) override;
    double first_guess(int) const override { return 0.7; }
    bool is_free() const override { return false; }

private:
    Status feed(std::size_t end);
    Session& session_;
    std::int64_t n_vocab_;
    std::optional<Sampler> sampler_;
    std::vector<std::int32_t> text_;  // confirmed
    std::vector<std::int32_t> held_;  // in the draft's state: the beginning of text_, then perhaps what was guessed
    std::size_t n_agreed_ = 0;        // tokens of held_ that are those of text_
    bool greedy_ = false;
};

}  // namespace skiff
