#include "backend/cuda/self_feed.h"

namespace skiff::cuda {

Status FeedQueue::open(Device& device) {
    if (is_open()) return {};
    device_ = &device;
    const Table& table = device.table();
    SKIFF_TRY(std::byte * pinned, device.allocate_pinned(most * sizeof(std::int32_t)));
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

Status FeedQueue::put(const std::int32_t* chosen) {
    const Table& table = device_->table();
    const std::size_t slot = written_ % static_cast<std::size_t>(most);
    SKIFF_CHECK(device_->check(table.record(chosen_[slot], device_->stream()), "recording an event"));
    SKIFF_CHECK(device_->check(table.stream_waits(copies_, chosen_[slot]), "waiting for a token"));
    SKIFF_CHECK(device_->check(table.copy_out(tokens_ + slot, chosen, sizeof(std::int32_t), copies_), "copying a token from the device"));
    SKIFF_CHECK(device_->check(table.record(copied_[slot], copies_), "recording an event"));
    ++written_;
    return {};
}

Result<std::int32_t> FeedQueue::take() {
    const std::size_t slot = read_ % static_cast<std::size_t>(most);
    SKIFF_CHECK(device_->check(device_->table().wait_event(copied_[slot]), "waiting for a token"));
    ++read_;
    return tokens_[slot];
}

}  // namespace skiff::cuda
