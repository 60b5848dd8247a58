#include "runtime/speculation_policy.h"

#include <algorithm>

namespace skiff {
namespace {

constexpr double least_gain = 1.03;     // below that, the estimates are not worth a risk
constexpr double allowed_loss = 0.005;  // of the time so far
// A proposer that cannot be watched has to be used to be known, and somebody asked for it: it gets more tries before it is given up.
constexpr double first_loss[] = {4, 1};    // plain passes; of a costly proposer, of a free one
constexpr double prior_weight[] = {8, 3};  // trials
constexpr double most_credit = 8;       // plain passes that earlier gains may pay for
constexpr std::int64_t stale_after = 256;  // passes after which a time of several columns is to be measured anew

}  // namespace

void SpeculationPolicy::Times::count(double seconds) {
    values[static_cast<std::size_t>(next)] = seconds;
    next = (next + 1) % static_cast<int>(values.size());
    n = std::min<int>(n + 1, static_cast<int>(values.size()));
    std::array<double, 31> sorted = values;
    std::nth_element(sorted.begin(), sorted.begin() + n / 2, sorted.begin() + n);
    median = sorted[static_cast<std::size_t>(n / 2)];
}

SpeculationPolicy::SpeculationPolicy(int always, const Proposer& proposer) : always_(always), is_free_(proposer.is_free()) {
    for (int evidence = 0; evidence < Proposer::n_evidence; ++evidence)
        guesses_[static_cast<std::size_t>(evidence)] = proposer.first_guess(evidence);
}

double SpeculationPolicy::expected_tokens(int evidence, int n_guesses) const {
    const auto e = static_cast<std::size_t>(evidence);
    double tokens = 1, weight = prior_weight[is_free_], reached = first_[e].value(guesses_[e], weight);
    // Whatever let the first guess be right mostly holds for the next one.
    const double later = later_[e].value(0.5 + guesses_[e] / 2, weight);
    for (int i = 0; i < n_guesses; ++i, reached *= later) tokens += reached;
    return tokens;
}

// Between measured numbers of columns a straight line; beyond the largest, as if more were free, until that is tried.
double SpeculationPolicy::pass_seconds(int n_columns) const {
    int below = 0, above = 0;
    for (int n = 1; n <= max_proposed + 1; ++n) {
        if (pass_times_[static_cast<std::size_t>(n - 1)].n == 0) continue;
        if (n <= n_columns) below = n;
        else if (above == 0) above = n;
    }
    if (below == 0) return 0;
    const double low = pass_times_[static_cast<std::size_t>(below - 1)].median;
    if (below == n_columns || above == 0) return low;
    const double high = std::max(low, pass_times_[static_cast<std::size_t>(above - 1)].median);
    return low + (high - low) * (n_columns - below) / (above - below);
}

int SpeculationPolicy::choose(int evidence, int limit) {
    limit = std::min(limit, max_proposed);
    if (evidence < 0 || limit < 1) return 0;
    if (always_ > 0) return std::min(always_, limit);
    const double plain = pass_times_[0].median;
    if (plain == 0) return 0;
    // What everything is compared with must not rest on a few old times.
    if (n_passes_ - pass_times_[0].last_pass >= (pass_times_[0].n < 8 ? 3 : 32)) return 0;
    int largest_known = 1;
    for (int n = 2; n <= max_proposed + 1; ++n)
        if (pass_times_[static_cast<std::size_t>(n - 1)].n > 0) largest_known = n;
    // The unknown is approached in steps: four columns, then eight.
    limit = std::min(limit, (largest_known < 4 ? 4 : 8) - 1);
    const double may_lose = balance_ + allowed_loss * elapsed_ + first_loss[is_free_] * plain;
    const double guess = guess_times_.median;
    int best = 0;
    double best_speed = least_gain / plain;
    for (int n = 1; n <= limit; ++n) {
        const double seconds = std::max(plain, pass_seconds(n + 1)) + n * guess;
        const double speed = expected_tokens(evidence, n) / seconds;
        if (speed > best_speed && seconds - plain <= may_lose) best = n, best_speed = speed;
    }
    return best;
}

void SpeculationPolicy::count_pass(int n_columns, double seconds) {
    ++n_passes_;
    Times& times = pass_times_[static_cast<std::size_t>(n_columns - 1)];
    times.count(seconds);
    times.last_pass = n_passes_;
    for (std::size_t i = 1; i < pass_times_.size(); ++i)
        if (n_passes_ - pass_times_[i].last_pass > stale_after) pass_times_[i] = {};
    // What is not tried is slowly forgotten, and so tried again. Guesses that are watched all the time need no forgetting.
    if (n_columns == 1 && !is_free_)
        for (std::size_t e = 0; e < first_.size(); ++e) first_[e].fade(), later_[e].fade();
    pass_seconds_ = seconds;
}

void SpeculationPolicy::count_guessing(int n_tokens, double seconds) {
    guessing_seconds_ = seconds;
    if (n_tokens > 0) guess_times_.count(seconds / n_tokens);
}

void SpeculationPolicy::count_verdict(int evidence, int proposed, int accepted) {
    const auto e = static_cast<std::size_t>(evidence);
    if (proposed < 1) return;
    first_[e].count(accepted > 0);
    for (int i = 1; i < proposed && i <= accepted; ++i) later_[e].count(accepted > i);
}

void SpeculationPolicy::count_tokens(int n_tokens, bool speculative) {
    const double seconds = pass_seconds_ + guessing_seconds_, plain = pass_times_[0].median;
    elapsed_ += seconds;
    if (speculative && plain > 0) balance_ = std::min(balance_ + n_tokens * plain - seconds, most_credit * plain);
}

}  // namespace skiff
