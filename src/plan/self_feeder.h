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

    // Queues n_steps: each feeds a token behind the state of the sequence, which grows at once, and chooses the next one. The first feeds `token`, or (nothing) what the
    // step before it chose. uniforms: a number in [0, 1) for each step, none at temperature 0. Whoever feeds or changes the session otherwise ends the chain; tokens that were
    // not read are then lost, and the state still has them: it is to be truncated. // uniforms: (n_steps)
    virtual Status queue(std::int64_t sequence, std::optional<std::int32_t> token, const ChoiceRule& rule, std::int64_t n_steps, std::span<const double> uniforms) = 0;
    // What the oldest step that was not read has chosen; waits for it. Nothing: its logits leave no choice (NaN, no finite number), and they say why when they are looked at.
    virtual Result<std::optional<std::int32_t>> next() = 0;
};

}  // namespace skiff
