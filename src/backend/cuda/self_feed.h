// The tokens that a device has chosen and that the host has not read yet. Each comes back by a second stream, behind an event of the step that chose it, so that the steps follow one another
// without waiting for a copy; the host waits for the oldest.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "backend/cuda/device.h"

namespace skiff::cuda {

class FeedQueue {
public:
    static constexpr std::int64_t most = 32;  // steps on their way

    ~FeedQueue() { close(); }
    // What it needs on the device, once.
    Status open(Device& device);
    bool is_open() const { return copies_ != nullptr; }
    void close();

    void begin(std::int64_t sequence) { sequence_ = sequence, read_ = written_; }
    void end() { sequence_ = -1, read_ = written_; }  // what is on its way is not read any more
    std::int64_t sequence() const { return sequence_; }  // -1: no chain
    std::int64_t n_waiting() const { return static_cast<std::int64_t>(written_ - read_); }

    // Behind the step that was launched last: its token comes from `chosen` on the device.
    Status put(const std::int32_t* chosen);
    // The oldest one, when it is there. // negative: the device found no choice
    Result<std::int32_t> take();

private:
    Device* device_ = nullptr;
    Stream copies_ = nullptr;
    std::int32_t* tokens_ = nullptr;  // pinned: (most)
    std::vector<Event> chosen_, copied_;
    std::int64_t sequence_ = -1;
    std::uint64_t written_ = 0, read_ = 0;
};

}  // namespace skiff::cuda
