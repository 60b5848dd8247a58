#include "backend/cuda/page_table.h"

namespace skiff::cuda {

PageTable::PageTable(std::int64_t n_sequences, std::int64_t capacity, std::int64_t page_positions)
    : page_positions_(page_positions), capacity_(capacity), max_pages_(used(capacity)), n_pages_(n_sequences * max_pages_) {
    rows_.assign(static_cast<std::size_t>(n_pages_), 0);
    users_.assign(static_cast<std::size_t>(n_pages_), 0);
    for (std::int64_t page = n_pages_; page-- > 0;) free_.push_back(static_cast<std::int32_t>(page));  // the lowest is taken first
    lengths_.assign(static_cast<std::size_t>(n_sequences), 0);
    held_ = lengths_;
}

std::span<const std::int32_t> PageTable::pages(std::int64_t sequence) const {
    return std::span(rows_).subspan(static_cast<std::size_t>(sequence * max_pages_), static_cast<std::size_t>(held_[static_cast<std::size_t>(sequence)]));
}

std::int32_t PageTable::take() {
    const std::int32_t page = free_.back();
    free_.pop_back();
    users_[static_cast<std::size_t>(page)] = 1;
    changed_ = true;
    return page;
}

void PageTable::drop(std::int32_t page) {
    if (--users_[static_cast<std::size_t>(page)] == 0) free_.push_back(page);
}

Status PageTable::append(std::int64_t sequence, std::int64_t n_tokens, std::vector<PageCopy>& copies) {
    std::int64_t &length = lengths_[static_cast<std::size_t>(sequence)], &held = held_[static_cast<std::size_t>(sequence)];
    if (n_tokens < 0 || length + n_tokens > capacity_) return resource_error("the context of " + std::to_string(capacity_) + " tokens is full; start with a larger --ctx");
    if (n_tokens == 0) return {};
    // A sequence never holds more than max_pages, and what it shares others hold too, so a page is always free.
    if (const std::int64_t partial = length / page_positions_; length % page_positions_ != 0 && users_[static_cast<std::size_t>(row(sequence, partial))] > 1) {
        const std::int32_t shared = row(sequence, partial), own = take();
        copies.push_back({shared, own});
        row(sequence, partial) = own;
        drop(shared);
    }
    length += n_tokens;
    for (; held < used(length); ++held) row(sequence, held) = take();
    return {};
}

void PageTable::truncate(std::int64_t sequence, std::int64_t n_tokens) {
    std::int64_t &length = lengths_[static_cast<std::size_t>(sequence)], &held = held_[static_cast<std::size_t>(sequence)];
    length = n_tokens;
    while (held > used(length)) drop(row(sequence, --held));
}

void PageTable::fork(std::int64_t from, std::int64_t to) {
    if (from == to) return;
    truncate(to, 0);
    const std::int64_t n = held_[static_cast<std::size_t>(from)];
    for (std::int64_t i = 0; i < n; ++i) {
        row(to, i) = row(from, i);
        ++users_[static_cast<std::size_t>(row(to, i))];
    }
    held_[static_cast<std::size_t>(to)] = n;
    lengths_[static_cast<std::size_t>(to)] = length(from);
    changed_ = true;
}

}  // namespace skiff::cuda
