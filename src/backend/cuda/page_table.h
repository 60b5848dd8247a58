// Which page of the state holds which positions of which sequence. Pages are counted: sequences that were forked share whole pages, and who writes into a
// shared one gets a copy first. Host arithmetic only; the device has a copy of rows().
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"

namespace skiff::cuda {

struct PageCopy {
    std::int32_t from, to;
};

class PageTable {
public:
    PageTable(std::int64_t n_sequences, std::int64_t capacity, std::int64_t page_positions);

    std::int64_t n_pages() const { return n_pages_; }       // of a pool: enough for all sequences without sharing
    std::int64_t max_pages() const { return max_pages_; }   // of a sequence
    std::int64_t capacity() const { return capacity_; }
    std::int64_t n_sequences() const { return static_cast<std::int64_t>(lengths_.size()); }
    std::int64_t length(std::int64_t sequence) const { return lengths_[static_cast<std::size_t>(sequence)]; }
    std::span<const std::int32_t> rows() const { return rows_; }  // (n_sequences, max_pages)
    std::span<const std::int32_t> pages(std::int64_t sequence) const;

    // Makes room for positions up to length + n_tokens: pages are taken, and shared ones that will be written are replaced; what must be copied is appended
    // to `copies`. The length grows.
    Status append(std::int64_t sequence, std::int64_t n_tokens, std::vector<PageCopy>& copies);
    void truncate(std::int64_t sequence, std::int64_t n_tokens);
    void fork(std::int64_t from, std::int64_t to);
    bool changed() const { return changed_; }
    bool take_changed() { return std::exchange(changed_, false); }  // since the last call

private:
    std::int32_t& row(std::int64_t sequence, std::int64_t i) { return rows_[static_cast<std::size_t>(sequence * max_pages_ + i)]; }
    std::int64_t used(std::int64_t n_tokens) const { return (n_tokens + page_positions_ - 1) / page_positions_; }
    std::int32_t take();
    void drop(std::int32_t page);
    std::int64_t page_positions_, capacity_, max_pages_, n_pages_;
    std::vector<std::int32_t> rows_, users_, free_;
    std::vector<std::int64_t> lengths_, held_;  // held: pages of a sequence
    bool changed_ = true;
};

}  // namespace skiff::cuda
