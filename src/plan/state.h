// What sequences remember: keys and values of every attention operator, one region per sequence.
#pragma once

#include <cstddef>
#include <span>
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "plan/plan.h"
#include "plan/sequences.h"

namespace skiff {

// Zeroed memory that costs nothing until it is touched.
class LazyMemory {
public:
    LazyMemory() = default;
    static Result<LazyMemory> reserve(std::size_t size_bytes);
    LazyMemory(LazyMemory&& other) noexcept;
    LazyMemory& operator=(LazyMemory&& other) noexcept;
    ~LazyMemory();
    std::byte* data() const { return data_; }

private:
    std::byte* data_ = nullptr;
    std::size_t size_bytes_ = 0;
};

// A recurrent state is a ring of rows: that of token t is number t % ring_rows(). It holds what the operator sees and some more, so that tokens which were
// only guessed can be taken back.
inline constexpr std::int64_t recurrent_slack = 64;
inline std::int64_t ring_rows(const StateSpec& spec) { return spec.window - 1 + recurrent_slack; }

class StateCache final : public Sequences {
public:
    // `schemes`: of each need.
    static Result<StateCache> create(const std::vector<StateNeed>& needs, const std::vector<StateScheme>& schemes, std::int64_t n_sequences, std::int64_t capacity);

    const std::vector<StateScheme>& schemes() const { return schemes_; }  // by state
    std::int64_t capacity() const override { return capacity_; }  // tokens of a sequence
    std::int64_t n_sequences() const override { return static_cast<std::int64_t>(lengths_.size()); }
    std::int64_t length(std::int64_t sequence) const override { return lengths_[static_cast<std::size_t>(sequence)]; }
    std::uint64_t bytes_per_token() const override;

    std::byte* keys(std::size_t state, std::int64_t sequence) const;    // as kernels/state_layout.h says; of a recurrent state: its rows
    std::byte* values(std::size_t state, std::int64_t sequence) const;

    void append(std::int64_t sequence, std::int64_t n_tokens) { lengths_[static_cast<std::size_t>(sequence)] += n_tokens; }
    Status truncate(std::int64_t sequence, std::int64_t n_tokens) override;
    void fork(std::int64_t from, std::int64_t to) override;
    void repeat(std::int64_t sequence, std::int64_t n_tokens) override;
    // A run that fails must leave a sequence as it was: what truncate() alone cannot bring back. Empty without recurrent states.
    std::vector<std::byte> recurrent_rows(std::int64_t sequence) const;
    void take_back(std::int64_t sequence, std::int64_t n_tokens, std::span<const std::byte> recurrent_rows);
    StateSnapshot snapshot(std::int64_t sequence) const override;
    Status restore(std::int64_t sequence, const StateSnapshot& snapshot) override;

private:
    std::byte* region(std::size_t state, StatePart part, std::int64_t sequence) const;
    template <class Use>
    void for_each_piece(std::int64_t n_tokens, Use use) const;
    std::vector<StateLayout> layouts_;
    std::vector<StateNeed> needs_;
    std::vector<LazyMemory> keys_, values_;
    std::vector<std::int64_t> lengths_, longest_;  // by sequence; longest: since it was last empty
    std::vector<StateScheme> schemes_;
    std::int64_t capacity_ = 0;
};

}  // namespace skiff
