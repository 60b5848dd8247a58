#include "runtime/draft_proposer.h"

#include <algorithm>

namespace skiff {

// The prompt but for its last token, whose logits are the first that a guess needs.
Status DraftProposer::begin(const std::vector<std::int32_t>& prompt, const SamplingOptions& sampling) {
    SamplingOptions mine = sampling;
    mine.seed = ~sampling.seed;  // guesses must be drawn independently of the answers
    greedy_ = sampling.temperature == 0;
    sampler_.emplace(mine);
    text_ = prompt;
    for (std::int32_t token : text_) sampler_->observe(token);
    n_agreed_ = 0;
    while (n_agreed_ < std::min(held_.size(), text_.size()) && held_[n_agreed_] == text_[n_agreed_]) ++n_agreed_;
    if (evidence() >= 0 && text_.size() > 1 && n_agreed_ < text_.size() - 1) SKIFF_CHECK(feed(text_.size() - 1));
    return {};
}

void DraftProposer::confirm(std::int32_t token) {
    if (n_agreed_ == text_.size() && n_agreed_ < held_.size() && held_[n_agreed_] == token) ++n_agreed_;
    text_.push_back(token);
    sampler_->observe(token);
}

int DraftProposer::evidence() { return static_cast<std::int64_t>(text_.size()) + max_proposed <= session_.state().capacity() ? 0 : -1; }

// Makes the draft's state hold the first `end` tokens of the text.
Status DraftProposer::feed(std::size_t end) {
    const std::size_t keep = std::min(n_agreed_, end - 1);  // one at least is fed, for its logits
    SKIFF_CHECK(session_.state().truncate(0, static_cast<std::int64_t>(keep)));
    held_.resize(keep);
    n_agreed_ = keep;
    SKIFF_CHECK(session_.forward(0, std::span(text_).subspan(keep, end - keep), BatchItem::Logits::last));
    held_.insert(held_.end(), text_.begin() + static_cast<std::ptrdiff_t>(keep), text_.begin() + static_cast<std::ptrdiff_t>(end));
    n_agreed_ = end;
    return {};
}

Status DraftProposer::propose(int n_tokens, Proposal& proposal) {
    proposal.clear();
    if (evidence() < 0) return {};
    SKIFF_CHECK(feed(text_.size()));
    Status status;
    for (int i = 0; i < n_tokens && status.ok(); ++i) {
        const auto logits = session_.logits_row(0);
        auto chances = sampler_->distribution(logits.first(std::min(logits.size(), static_cast<std::size_t>(n_vocab_))));
        if (!chances.ok()) {
            status = chances.take_error();
            break;
        }
        const std::int32_t token = greedy_ ? (*chances)[0].token : sampler_->draw();
        proposal.tokens.push_back(token);
        if (!greedy_) proposal.drawn_from.emplace_back(chances->begin(), chances->end());
        sampler_->observe(token);
        if (i + 1 == n_tokens) break;
        status = session_.forward(0, std::span(&token, 1), BatchItem::Logits::last);
        if (status.ok()) held_.push_back(token);
    }
    sampler_->forget(proposal.tokens.size());
    return status;
}

}  // namespace skiff
