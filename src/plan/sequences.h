// What a session remembers of its sequences, as those see it who feed it: it appends, is cut, copied, taken out and put back. How it is stored is the
// session's own business (state.h on the CPU).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/result.h"

namespace skiff {

struct StateSnapshot {
    std::int64_t n_tokens = 0;
    std::vector<std::byte> bytes;
};

class Sequences {
public:
    virtual ~Sequences() = default;
    virtual std::int64_t capacity() const = 0;  // tokens of a sequence
    virtual std::int64_t n_sequences() const = 0;
    virtual std::int64_t length(std::int64_t sequence) const = 0;
    virtual std::uint64_t bytes_per_token() const = 0;  // that a long sequence takes
    // Forgets all behind the first n_tokens. Recurrent states know the last tokens only: going far back is refused, but for the beginning.
    virtual Status truncate(std::int64_t sequence, std::int64_t n_tokens) = 0;
    virtual void fork(std::int64_t from, std::int64_t to) = 0;  // `to` becomes a copy
    // For measurements at a depth: the sequence has at least attention_chunk tokens; their state is repeated until it has n_tokens.
    virtual void repeat(std::int64_t sequence, std::int64_t n_tokens) = 0;
    virtual StateSnapshot snapshot(std::int64_t sequence) const = 0;
    virtual Status restore(std::int64_t sequence, const StateSnapshot& snapshot) = 0;
};

}  // namespace skiff
