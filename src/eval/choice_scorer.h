// Log-likelihoods of continuations of a prompt, by the rules of lm-evaluation-harness. The prompt is run once for all of them, and what one prompt
// has in common with the one before is not run again.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "plan/session.h"
#include "text/tokenizer.h"

namespace skiff {

struct ChoiceScores {
    std::vector<double> log_likelihoods;              // sums over each continuation's tokens
    std::int64_t context_tokens = 0;
    std::vector<std::int64_t> continuation_tokens;
};

class ChoiceScorer {
public:
    static constexpr std::int64_t max_choices = 8;
    static constexpr std::int64_t n_sequences = 1 + max_choices;

    // The session needs n_sequences sequences with room for max_length tokens, the most that the model sees of an item.
    ChoiceScorer(Session& session, const Tokenizer& tokenizer, std::int64_t max_length) : session_(session), tokenizer_(tokenizer), max_length_(max_length) {}

    // Continuations with the space that stands before them.
    Result<ChoiceScores> score(const std::string& prompt, std::span<const std::string> continuations);
    std::int64_t tokens_fed() const { return tokens_fed_; }

private:
    // What the model is fed for one continuation: all but its last token.
    struct Request {
        std::vector<std::int32_t> inputs, targets;  // the targets are predicted by the last of the inputs
        std::size_t same_as = 0;                    // the first request with the same inputs
        std::int64_t first_scored() const { return static_cast<std::int64_t>(inputs.size() - targets.size()); }
    };
    Result<Request> make_request(const std::vector<std::int32_t>& context, std::string_view prompt, std::string_view continuation) const;
    Status run_prefix(std::span<const std::int32_t> prefix);
    Status run_requests(std::span<const Request> requests, std::int64_t n_prefix, std::span<double> log_likelihoods);

    Session& session_;
    const Tokenizer& tokenizer_;
    std::int64_t max_length_, tokens_fed_ = 0;
    std::vector<std::int32_t> held_;  // tokens in the state of sequence 0
};

}  // namespace skiff
