#include <algorithm>

#include "runtime/proposer.h"

namespace skiff {
namespace {

// Matches of so many tokens, or more, are a class of evidence.
constexpr std::size_t class_begins[Proposer::n_evidence] = {2, 3, 4, 8, 16};

}  // namespace

Status NgramProposer::begin(const std::vector<std::int32_t>& prompt, const SamplingOptions&) {
    const auto& known = index_.tokens();
    // A conversation goes on where it was.
    if (known.size() > prompt.size() || !std::equal(known.begin(), known.end(), prompt.begin())) index_.clear();
    for (std::size_t i = index_.tokens().size(); i < prompt.size(); ++i) index_.push(prompt[i]);
    return {};
}

int NgramProposer::evidence() {
    match_ = index_.find();
    if (!match_) return -1;
    int found = 0;
    while (found + 1 < n_evidence && match_->length >= class_begins[found + 1]) ++found;
    return found;
}

Status NgramProposer::propose(int n_tokens, Proposal& proposal) {
    proposal.clear();
    proposal.evidence = evidence();
    if (match_) index_.follow(*match_, static_cast<std::size_t>(n_tokens), proposal.tokens);
    return {};
}

double NgramProposer::first_guess(int evidence) const {
    static constexpr double guesses[n_evidence] = {0.05, 0.1, 0.2, 0.35, 0.6};
    return guesses[evidence];
}

}  // namespace skiff
