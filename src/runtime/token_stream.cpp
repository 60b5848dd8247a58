#include "runtime/token_stream.h"

#include <algorithm>

namespace skiff {
namespace {

constexpr int watched_tokens = 4;
constexpr std::int64_t steps_ahead = 8;  // that a session queues by itself: enough to hide how long one takes to come back, few to throw away at a text's end

}  // namespace

TokenStream::TokenStream(Session& session, std::int64_t sequence, std::unique_ptr<Proposer> proposer, int always)
    : session_(session), sequence_(sequence), always_(always), proposer_(std::move(proposer)) {
    start_cold();
}

void TokenStream::start_cold() {
    if (proposer_) policy_.emplace(always_, *proposer_);
}

Result<std::int64_t> TokenStream::begin(const std::vector<std::int32_t>& prompt, const SamplingOptions& sampling, std::int64_t max_tokens) {
    if (prompt.empty()) return usage_error("a text begins with at least one token");
    stats_ = {};
    proposal_.clear();
    watched_.clear();
    dictated_.clear();
    n_dictated_ = 0;
    ready_ = false;
    row_ = 0;
    n_ahead_ = 0;
    may_choose_ = true;
    n_left_ = max_tokens;
    // Keep the common beginning; at least one token is fed, for its logits.
    std::size_t common = 0;
    while (common < held_.size() && common + 1 < prompt.size() && held_[common] == prompt[common]) ++common;
    SKIFF_CHECK(session_.state().truncate(sequence_, static_cast<std::int64_t>(common)));
    held_.resize(common);
    sampler_.emplace(sampling);
    SKIFF_CHECK(forward(std::span(prompt).subspan(common), BatchItem::Logits::last));
    held_ = prompt;
    for (std::int32_t token : prompt) sampler_->observe(token);
    if (proposer_) SKIFF_CHECK(proposer_->begin(prompt, sampling));
    ready_ = after_prompt_ = true;
    return static_cast<std::int64_t>(common);
}

Status TokenStream::forward(std::span<const std::int32_t> tokens, BatchItem::Logits logits) {
    const std::int64_t n_wanted = sampler_->n_wanted();
    only_top_ = n_wanted > 0;
    const BatchItem item{sequence_, {tokens.begin(), tokens.end()}, logits};
    return only_top_ ? session_.forward_top(std::span(&item, 1), n_wanted) : session_.forward(std::span(&item, 1));
}

Result<Logits> TokenStream::logits_of_row() const {
    if (!only_top_) return Logits(session_.logits_row(row_));
    SKIFF_TRY(const auto largest, session_.top_row(row_));
    return Logits(largest, static_cast<std::size_t>(session_.plan().output_width));
}

Status TokenStream::run_pass() {
    const Sequences& state = session_.state();
    std::int64_t limit = std::min<std::int64_t>(max_proposed, state.capacity() - state.length(sequence_) - 1);
    if (n_left_ >= 0) limit = std::min(limit, n_left_ - 1);
    proposal_.clear();
    if (policy_) {
        const double begin = monotonic_seconds();
        const int evidence = proposer_->evidence(), n_wanted = policy_->choose(evidence, static_cast<int>(limit));
        if (n_wanted > 0) {
            SKIFF_CHECK(proposer_->propose(n_wanted, proposal_));
        } else if (evidence >= 0 && proposer_->is_free() && watched_.tokens.empty()) {
            SKIFF_CHECK(proposer_->propose(watched_tokens, watched_));
            n_watched_ = 0;
        }
        const double seconds = monotonic_seconds() - begin;
        policy_->count_guessing(static_cast<int>(proposal_.tokens.size()), seconds);
        stats_.seconds += seconds;
    }
    columns_.assign(1, last_);
    columns_.insert(columns_.end(), proposal_.tokens.begin(), proposal_.tokens.end());
    const double begin = monotonic_seconds();
    SKIFF_CHECK(forward(columns_, proposal_.tokens.empty() ? BatchItem::Logits::last : BatchItem::Logits::all));
    const double seconds = monotonic_seconds() - begin;
    if (policy_) policy_->count_pass(static_cast<int>(columns_.size()), seconds);
    stats_.seconds += seconds;
    ++stats_.passes;
    if (!proposal_.tokens.empty()) ++stats_.speculative_passes;
    stats_.proposed += static_cast<std::int64_t>(proposal_.tokens.size());
    held_.push_back(last_);
    row_ = 0;
    ready_ = true;
    after_prompt_ = false;
    return {};
}

// Compares what was guessed and not used with what came.
void TokenStream::watch(std::int32_t token) {
    if (watched_.tokens.empty()) return;
    const bool right = watched_.tokens[n_watched_] == token;
    if (right) ++n_watched_;
    if (right && n_watched_ < watched_.tokens.size()) return;
    policy_->count_verdict(watched_.evidence, static_cast<int>(watched_.tokens.size()), static_cast<int>(n_watched_));
    watched_.clear();
}

Status TokenStream::settle() {
    ready_ = false;
    if (after_prompt_) return {};
    stats_.accepted += row_;
    stats_.tokens += row_ + 1;
    if (policy_) {
        const bool speculative = !proposal_.tokens.empty();
        policy_->count_tokens(static_cast<int>(row_) + 1, speculative);
        if (speculative) policy_->count_verdict(proposal_.evidence, static_cast<int>(proposal_.tokens.size()), static_cast<int>(row_));
        stats_.plain_seconds = policy_->pass_seconds(1);
    }
    return session_.state().truncate(sequence_, static_cast<std::int64_t>(held_.size()));
}

Result<std::int32_t> TokenStream::choose() {
    const auto row = static_cast<std::size_t>(row_);
    SKIFF_TRY(const Logits logits, logits_of_row());
    if (n_dictated_ < dictated_.size()) {
        SKIFF_CHECK(sampler_->distribution(logits));  // takes its time
        sampler_->observe(dictated_[n_dictated_]);
        return dictated_[n_dictated_++];
    }
    if (row < proposal_.drawn_from.size()) return sampler_->verify(logits, proposal_.tokens[row], proposal_.drawn_from[row]);
    return sampler_->sample(logits);
}

bool TokenStream::may_run_ahead() const {
    if (ready_ || proposer_ || !may_choose_ || n_dictated_ < dictated_.size() || full()) return false;
    const auto rule = sampler_->rule();
    SelfFeeder* feeder = session_.self_feeder();
    return rule && feeder != nullptr && feeder->takes(*rule);
}

// Reads a token that the session has chosen by itself, after more steps are queued where few are left. Nothing: it found no choice, and the state is as if it had not been asked.
Result<std::optional<std::int32_t>> TokenStream::next_ahead() {
    SelfFeeder& feeder = *session_.self_feeder();
    const double begin = monotonic_seconds();
    const auto length = static_cast<std::int64_t>(held_.size());
    std::int64_t n = session_.state().capacity() - length - n_ahead_;
    if (n_left_ >= 0) n = std::min(n, n_left_ - n_ahead_);
    n = std::min(n, std::min(steps_ahead, feeder.most_steps() / 2));
    if (n_ahead_ == 0) n = std::max<std::int64_t>(n, 1);  // who asks for more than was wanted gets it
    if (n > 0 && n_ahead_ <= steps_ahead / 2) {
        auto uniforms = sampler_->next_uniforms(n_ahead_ + n);
        if (!uniforms.empty()) uniforms.erase(uniforms.begin(), uniforms.begin() + static_cast<std::ptrdiff_t>(n_ahead_));
        const auto token = n_ahead_ == 0 ? std::optional<std::int32_t>(last_) : std::nullopt;
        SKIFF_CHECK(feeder.queue(sequence_, token, *sampler_->rule(), n, uniforms));
        n_ahead_ += n;
    }
    SKIFF_TRY(const auto token, feeder.next());
    if (!token) {
        n_ahead_ = 0;
        may_choose_ = false;
        SKIFF_CHECK(session_.state().truncate(sequence_, length));
        return token;
    }
    --n_ahead_;
    held_.push_back(last_);
    sampler_->take(*token);
    if (n_left_ > 0) --n_left_;
    last_ = *token;
    row_ = 0;
    after_prompt_ = false;
    stats_.seconds += monotonic_seconds() - begin;
    ++stats_.passes;
    ++stats_.tokens;
    return token;
}

Result<std::int32_t> TokenStream::next() {
    if (may_run_ahead()) {
        SKIFF_TRY(const auto chosen, next_ahead());
        if (chosen) return *chosen;
    }
    if (!ready_) {
        if (n_ahead_ > 0) {  // what the device did ahead is no part of a text that goes on otherwise
            n_ahead_ = 0;
            SKIFF_CHECK(session_.state().truncate(sequence_, static_cast<std::int64_t>(held_.size())));
        }
        SKIFF_CHECK(run_pass());
    }
    SKIFF_TRY(const auto token, choose());
    const auto row = static_cast<std::size_t>(row_);
    const bool guessed = row < proposal_.tokens.size();
    if (n_left_ > 0) --n_left_;
    last_ = token;
    if (proposer_) {
        proposer_->confirm(token);
        watch(token);
    }
    if (guessed && token == proposal_.tokens[row]) {
        held_.push_back(token);
        ++row_;
    } else {
        SKIFF_CHECK(settle());
    }
    return token;
}

Status TokenStream::end() {
    if (ready_ && !after_prompt_ && row_ > 0) {
        // The last token is one of the guesses, and in the state; what stands behind it was not asked for.
        stats_.accepted += row_;
        stats_.tokens += row_;
    }
    ready_ = false;
    n_ahead_ = 0;
    return session_.state().truncate(sequence_, static_cast<std::int64_t>(held_.size()));
}

}  // namespace skiff
