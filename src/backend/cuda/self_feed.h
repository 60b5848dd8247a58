// The tokens that a device has chosen and that the host has not read yet. Each comes back by a second stream, behind an event of the step that chose it, so that the steps follow one another
// without waiting for a copy; the host waits for the oldest.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/cuda/device.h"

namespace skiff::cuda {

class FeedQueue {
public:
    static constexpr std::int64_t most = 32;       // steps on their way
    static constexpr std::int64_t most_wide = 16;  // sequences that go on together

    ~FeedQueue() { close(); }
    // What it needs on the device, once.
    Status open(Device& device);
    bool is_open() const { return copies_ != nullptr; }
    void close();

    void begin(std::span<const std::int64_t> sequences) { sequences_.assign(sequences.begin(), sequences.end()), read_ = written_; }
    void end() { sequences_.clear(), read_ = written_; }  // what is on its way is not read any more
    std::span<const std::int64_t> sequences() const { return sequences_; }  // none: no chain
    bool has(std::int64_t sequence) const { return std::find(sequences_.begin(), sequences_.end(), sequence) != sequences_.end(); }
    std::int64_t n_waiting() const { return static_cast<std::int64_t>(written_ - read_); }

    // Behind the step that was launched last: its tokens, that of each sequence in the row that its position is now, come from `history` on the device. // history: (n_positions, n_sequences)
    Status put(const std::int32_t* history, std::span<const std::int64_t> positions);
    // The oldest ones, when they are there, until the next call. // negative: the device found no choice
    Result<std::span<const std::int32_t>> take();

private:
    Device* device_ = nullptr;
    Stream copies_ = nullptr;
    std::int32_t* tokens_ = nullptr;  // pinned: (most, most_wide)
    std::vector<Event> chosen_, copied_;
    std::vector<std::int64_t> sequences_;
    std::vector<std::int32_t> taken_;
    std::uint64_t written_ = 0, read_ = 0;
};

}  // namespace skiff::cuda
