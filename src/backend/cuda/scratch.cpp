#include "backend/cuda/scratch.h"

#include <algorithm>

namespace skiff::cuda {
namespace {

constexpr std::size_t alignment = 256;
// Stands for the arena before there is one: addresses that are never read.
std::byte* imaginary() { return reinterpret_cast<std::byte*>(std::uintptr_t{1} << 44); }

}  // namespace

void Scratch::begin() {
    taken_.clear();
    for (auto& [key, slots] : operands_)
        for (Slot& slot : slots) slot.used = false;
}

// The first gap that is large enough.
void* Scratch::take(std::size_t size_bytes) {
    size_bytes = (std::max<std::size_t>(size_bytes, 1) + alignment - 1) / alignment * alignment;
    std::size_t offset = 0;
    for (const auto& [begin, size] : taken_) {
        if (begin - offset >= size_bytes) break;
        offset = begin + size;
    }
    taken_.emplace(offset, size_bytes);
    peak_ = std::max(peak_, offset + size_bytes);
    return (base_ != nullptr ? base_ : imaginary()) + offset;
}

void Scratch::give(const void* address) {
    if (address == nullptr) return;
    taken_.erase(static_cast<std::size_t>(static_cast<const std::byte*>(address) - (base_ != nullptr ? base_ : imaginary())));
}

Operand Scratch::take_operand(Operand like) {
    const OperandForm form = like.form;
    auto& slots = operands_[key_of(like)];
    auto found = std::find_if(slots.begin(), slots.end(), [](const Slot& slot) { return !slot.used; });
    if (found == slots.end()) {
        std::size_t before = 0;
        for (const auto& [key, others] : operands_) before += others.size();
        slots.push_back({imaginary() + (std::size_t{1} << 43) + before * alignment, table_.operand_bytes(form, operand_tokens(form), like.n_columns)});
        ++unplaced_;
        found = slots.end() - 1;
    }
    found->used = true;
    like.data = found->address;
    return like;
}

void Scratch::give(const Operand& operand) {
    const auto slots = operands_.find(key_of(operand));
    if (operand.data == nullptr || slots == operands_.end()) return;
    for (Slot& slot : slots->second)
        if (slot.address == operand.data) slot.used = false;
}

std::size_t Scratch::operand_bytes() const {
    std::size_t total = 0;
    for (const auto& [key, slots] : operands_)
        for (const Slot& slot : slots) total += slot.size_bytes;
    return total;
}

Status Scratch::place(Device& device) {
    Status status = place_all(device);
    unplaced_ = 0;
    for (auto& [key, slots] : operands_) {
        if (!status.ok()) {
            for (const Slot& slot : slots)
                if (slot.is_new && slot.placed) device.release(slot.address);
            std::erase_if(slots, [](const Slot& slot) { return slot.is_new; });
        }
        for (Slot& slot : slots) slot.is_new = false;
    }
    if (!status.ok()) {
        if (base_ != nullptr) device.release(base_);
        base_ = nullptr;
        size_ = peak_ = 0;
    }
    return status;
}

Status Scratch::place_all(Device& device) {
    if (peak_ > size_ || base_ == nullptr) {
        SKIFF_CHECK(device.wait());
        if (base_ != nullptr) device.release(base_);
        base_ = nullptr;
        SKIFF_TRY(base_, device.allocate(peak_, "scratch memory"));
        size_ = peak_;
    }
    for (auto& [key, slots] : operands_)
        for (Slot& slot : slots) {
            if (slot.placed) continue;
            SKIFF_TRY(slot.address, device.allocate(slot.size_bytes, "operands of matrices"));
            slot.placed = true;
            SKIFF_CHECK(device.check(table_.fill(slot.address, 0, slot.size_bytes, device.stream()), "clearing operands"));
        }
    return {};
}

}  // namespace skiff::cuda
