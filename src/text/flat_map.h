// An open-addressing map from 64-bit keys to 32-bit values, built once and then only read: merges, tries.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace skiff {

class FlatMap {
public:
    static constexpr std::uint32_t absent = 0xFFFFFFFF;

    void reserve(std::size_t n) {
        if (n * 2 > slots_.size()) grow(std::bit_ceil(n * 2 + 16));
    }
    // Keeps the first value of a key; false if the key was there. `key` must not be UINT64_MAX.
    bool insert(std::uint64_t key, std::uint32_t value) {
        if ((size_ + 1) * 2 > slots_.size()) grow(slots_.empty() ? 16 : slots_.size() * 2);
        Slot& slot = slots_[position(key)];
        if (slot.key == key) return false;
        slot = {key, value};
        ++size_;
        return true;
    }
    std::uint32_t find(std::uint64_t key) const {
        if (slots_.empty()) return absent;
        const Slot& slot = slots_[position(key)];
        return slot.key == key ? slot.value : absent;
    }
    std::size_t size() const { return size_; }

private:
    struct Slot {
        std::uint64_t key = UINT64_MAX;
        std::uint32_t value = absent;
    };
    std::size_t position(std::uint64_t key) const {
        std::uint64_t hash = key * 0x9e3779b97f4a7c15ULL;
        hash ^= hash >> 32;
        std::size_t at = (hash * 0xd6e8feb86659fd93ULL) >> shift_;
        while (slots_[at].key != key && slots_[at].key != UINT64_MAX) at = (at + 1) & (slots_.size() - 1);
        return at;
    }
    void grow(std::size_t n_slots) {
        std::vector<Slot> old(n_slots);
        old.swap(slots_);
        shift_ = 64 - std::countr_zero(n_slots);
        for (const Slot& slot : old)
            if (slot.key != UINT64_MAX) slots_[position(slot.key)] = slot;
    }
    std::vector<Slot> slots_;  // a power of two, at most half full
    int shift_ = 60;
    std::size_t size_ = 0;
};

}  // namespace skiff
