#include "backend/cuda/self_feed.h"

namespace skiff::cuda {

Status FeedQueue::open(Device& device) {
    if (is_open()) return {};
    device_ = &device;
    const Table& table = device.table();
    SKIFF_TRY(std::byte * pinned, device.allocate_pinned(most * most_wide * sizeof(std::int32_t), "chosen tokens"));
    tokens_ = reinterpret_cast<std::int32_t*>(pinned);
    for (std::vector<Event>* events : {&chosen_, &copied_})
        while (events->size() < static_cast<std::size_t>(most)) {
            Event event = nullptr;
            SKIFF_CHECK(device.check(table.make_event(&event), "making an event"));
            events->push_back(event);
        }
    return device.check(table.make_stream(&copies_), "making a stream");
}

void FeedQueue::close() {
    if (device_ == nullptr) return;
    const Table& table = device_->table();
    if (copies_ != nullptr) {
        table.wait_stream(copies_);
        table.destroy_stream(copies_);
    }
    for (const std::vector<Event>* events : {&chosen_, &copied_})
        for (Event event : *events) table.destroy_event(event);
    chosen_.clear();
    copied_.clear();
    copies_ = nullptr;
    device_ = nullptr;
}

Status FeedQueue::put(const std::int32_t* history, std::span<const std::int64_t> positions) {
    const Table& table = device_->table();
    const std::size_t slot = written_ % static_cast<std::size_t>(most), width = positions.size();
    SKIFF_CHECK(device_->check(table.record(chosen_[slot], device_->stream()), "recording an event"));
    SKIFF_CHECK(device_->check(table.stream_waits(copies_, chosen_[slot]), "waiting for a token"));
    for (std::size_t first = 0; first < width;) {  // neighbours at one position come in one copy
        std::size_t end = first + 1;
        while (end < width && positions[end] == positions[first]) ++end;
        const std::int32_t* from = history + static_cast<std::size_t>(positions[first]) * width + first;
        SKIFF_CHECK(device_->check(table.copy_out(tokens_ + slot * most_wide + first, from, (end - first) * sizeof(std::int32_t), copies_), "copying tokens from the device"));
        first = end;
    }
    SKIFF_CHECK(device_->check(table.record(copied_[slot], copies_), "recording an event"));
    ++written_;
    return {};
}

Result<std::span<const std::int32_t>> FeedQueue::take() {
    const std::size_t slot = read_ % static_cast<std::size_t>(most);
    SKIFF_CHECK(device_->check(device_->table().wait_event(copied_[slot]), "waiting for a token"));
    ++read_;
    taken_.assign(tokens_ + slot * most_wide, tokens_ + slot * most_wide + sequences_.size());
    return std::span<const std::int32_t>(taken_);
}

}  // namespace skiff::cuda
