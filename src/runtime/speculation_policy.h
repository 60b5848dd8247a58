// How many tokens to guess ahead: the number that gives most tokens per second by what was measured in this very run, or none.
#pragma once

#include <array>
#include <cstdint>

#include "runtime/proposer.h"

namespace skiff {

struct SpeculationStats {
    std::int64_t passes = 0, speculative_passes = 0;  // runs of the model, and those of them with guesses
    std::int64_t tokens = 0;                          // that the passes gave
    std::int64_t proposed = 0, accepted = 0;
    double seconds = 0;        // of all passes and of guessing
    double plain_seconds = 0;  // of a pass without guesses; 0: none was timed
    double tokens_per_pass() const { return passes > 0 ? static_cast<double>(tokens) / static_cast<double>(passes) : 0; }
    static constexpr std::int64_t fewest_passes = 20;  // that say anything about the speed
    // Against passes of one token each; 0: too few were timed.
    double speed_up() const { return passes >= fewest_passes && seconds > 0 && plain_seconds > 0 ? static_cast<double>(tokens) * plain_seconds / seconds : 0; }
};

class SpeculationPolicy {
public:
    // always > 0: that many tokens whenever there is a proposal, whatever it costs. first_guess: of the proposer, by class of evidence.
    SpeculationPolicy(int always, const Proposer& proposer);

    int choose(int evidence, int limit);  // tokens to guess now; 0: none

    void count_pass(int n_columns, double seconds);            // the model ran over one token and n_columns - 1 guesses
    void count_guessing(int n_tokens, double seconds);         // before the pass
    void count_verdict(int evidence, int proposed, int accepted);  // of guesses, also of such that were only watched
    void count_tokens(int n_tokens, bool speculative);         // that the pass gave

    double pass_seconds(int n_columns) const;  // as estimated now; 0: nothing is known

private:
    // A share of successes in which a trial of n trials ago counts 0.97^n, and a guess beforehand as much as `weight` trials.
    struct Share {
        double hits = 0, trials = 0;
        void count(bool hit) { hits = 0.97 * hits + (hit ? 1 : 0), trials = 0.97 * trials + 1; }
        void fade() { hits *= 0.995, trials *= 0.995; }
        double value(double guess, double weight) const { return (hits + weight * guess) / (trials + weight); }
    };
    // The median of the last times, so that a neighbour's burst does not count.
    struct Times {
        std::array<double, 31> values{};
        int n = 0, next = 0;
        std::int64_t last_pass = 0;
        double median = 0;  // 0: none
        void count(double seconds);
    };
    double expected_tokens(int evidence, int n_guesses) const;

    int always_;
    bool is_free_;
    std::array<double, Proposer::n_evidence> guesses_;
    std::array<Share, Proposer::n_evidence> first_, later_;  // the first guess is right; a later one, when those before it were
    std::array<Times, max_proposed + 1> pass_times_;         // by number of columns, less one
    Times guess_times_;                                      // per guess
    std::int64_t n_passes_ = 0;
    // What guessing has won or lost so far, in seconds against plain passes, and the time of all passes: it may lose a two-hundredth of that.
    double balance_ = 0, elapsed_ = 0, pass_seconds_ = 0, guessing_seconds_ = 0;
};

}  // namespace skiff
