// Tokens that a session chooses and feeds to itself, so that nothing has to come back between one token and the next: what a device does while the host reads behind.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/result.h"

namespace skiff {

// How a token is chosen where the logits are: the sampler's rule (runtime/sampler.h) as far as it looks at the largest logits alone.
struct ChoiceRule {
    double temperature = 0;  // 0: the largest
    std::int64_t top_k = 1;
    double top_p = 1, min_p = 0;
    bool operator==(const ChoiceRule&) const = default;
};

class SelfFeeder {
public:
    virtual ~SelfFeeder() = default;
    virtual bool takes(const ChoiceRule& rule) const = 0;
    virtual std::int64_t most_steps() const = 0;  // that may be queued and not read

    virtual std::int64_t most_sequences() const = 0;  // in one chain

    // Queues n_steps: each feeds a token behind the state of every one of the sequences, which grow at once, and chooses their next ones. The first feeds `tokens`, one for each, or (none)
    // what the step before it chose. uniforms: a number in [0, 1) for each token, none at temperature 0. Whoever feeds or changes the session otherwise ends the chain; tokens that were
    // not read are then lost, and the state still has them: it is to be truncated. // uniforms: (n_sequences, n_steps)
    virtual Status queue_together(std::span<const std::int64_t> sequences, std::span<const std::int32_t> tokens, const ChoiceRule& rule, std::int64_t n_steps, std::span<const double> uniforms) = 0;
    // What the oldest step that was not read has chosen, in the order of the sequences, until the next call; waits for it. Negative: its logits leave no choice (NaN, no finite number), and
    // they say why when they are looked at; the chain has ended then.
    virtual Result<std::span<const std::int32_t>> next_together() = 0;

    // The same for one sequence; nothing: no choice.
    Status queue(std::int64_t sequence, std::optional<std::int32_t> token, const ChoiceRule& rule, std::int64_t n_steps, std::span<const double> uniforms) {
        return queue_together({&sequence, 1}, token ? std::span<const std::int32_t>(&*token, 1) : std::span<const std::int32_t>(), rule, n_steps, uniforms);
    }
    Result<std::optional<std::int32_t>> next() {
        SKIFF_TRY(const auto tokens, next_together());
        return tokens.size() == 1 && tokens[0] >= 0 ? std::optional<std::int32_t>(tokens[0]) : std::nullopt;
    }
};

}  // namespace skiff
