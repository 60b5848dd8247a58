// The state of a session's sequences: cut, shared, repeated, kept and given back.
#include <algorithm>

#include "backend/cuda/cuda_session.h"

namespace skiff::cuda {

Status CudaSession::truncate(std::int64_t sequence, std::int64_t n_tokens) {
    const std::int64_t length = pages_->length(sequence);
    if (n_tokens < 0 || n_tokens > length) return usage_error("cannot truncate a sequence of " + std::to_string(length) + " tokens to " + std::to_string(n_tokens));
    if (recurrent_ && n_tokens != 0 && n_tokens != length)
        return unsupported("on the device this model's convolutions remember only the last tokens: a sequence of " + std::to_string(length) + " tokens cannot go back to " + std::to_string(n_tokens) + "; begin it anew");
    if (feed_.has(sequence)) end_chain();
    pages_->truncate(sequence, n_tokens);
    return {};
}

Status CudaSession::fork(std::int64_t from, std::int64_t to) {
    if (from == to) return {};
    SKIFF_CHECK(device_->enter());
    end_chain();
    pages_->fork(from, to);
    for (const Pool& pool : pools_)
        if (pool.ring_bytes > 0)
            SKIFF_CHECK(device_->check(device_->table().copy_within(pool.keys + static_cast<std::size_t>(to) * pool.ring_bytes, pool.keys + static_cast<std::size_t>(from) * pool.ring_bytes, pool.ring_bytes, device_->stream()),
                                       "copying the state"));
    return {};
}

// Copies, not shared pages: what is measured at a depth must be read from memory as that depth is.
Status CudaSession::repeat(std::int64_t sequence, std::int64_t n_tokens) {
    SKIFF_CHECK(device_->enter());
    end_chain();
    const std::int64_t n_whole = pages_->length(sequence) / page_positions;
    const std::size_t before = pages_->pages(sequence).size();
    SKIFF_CHECK(append(sequence, n_tokens - pages_->length(sequence)));
    const auto pages = pages_->pages(sequence);
    std::vector<PageCopy> copies;
    for (std::size_t i = static_cast<std::size_t>(n_whole); i < pages.size() && n_whole > 0; ++i)
        if (i >= before || i == static_cast<std::size_t>(n_whole)) copies.push_back({pages[i % static_cast<std::size_t>(n_whole)], pages[i]});
    return copy_pages(copies);
}

Status CudaSession::copy_rings(std::byte* backup, bool back) {
    for (const Pool& pool : pools_) {
        const std::size_t size = pool.ring_bytes * static_cast<std::size_t>(pages_->n_sequences());
        if (size == 0) continue;
        std::byte *to = back ? pool.keys : backup, *from = back ? backup : pool.keys;
        SKIFF_CHECK(device_->check(device_->table().copy_within(to, from, size, device_->stream()), "copying the convolutions' state"));
        backup += size;
    }
    return {};
}

// Whole pages, layer by layer.
StateSnapshot CudaSession::snapshot(std::int64_t sequence) const {
    StateSnapshot snapshot;
    snapshot.n_tokens = pages_->length(sequence);
    const auto fail = [&](Status status) {
        if (broken_.ok()) broken_ = std::move(status);
        return StateSnapshot{-1, {}};
    };
    if (Status status = device_->enter(); !status.ok()) return fail(std::move(status));
    std::size_t largest = 1;
    for (const Pool& pool : pools_) largest = std::max({largest, pool.page_bytes, pool.ring_bytes});
    if (host_page_ == nullptr) {
        auto pinned = device_->allocate_pinned(largest, "a page of the state");
        if (!pinned.ok()) return fail(pinned.take_error());
        host_page_ = *pinned;
    }
    const auto take = [&](const std::byte* from, std::size_t size) -> Status {
        SKIFF_CHECK(device_->check(device_->table().copy_out(host_page_, from, size, device_->stream()), "copying the state from the device"));
        SKIFF_CHECK(device_->wait());
        snapshot.bytes.insert(snapshot.bytes.end(), host_page_, host_page_ + size);
        return {};
    };
    for (const Pool& pool : pools_) {
        if (pool.ring_bytes > 0 && snapshot.n_tokens > 0) {
            if (Status status = take(pool.keys + static_cast<std::size_t>(sequence) * pool.ring_bytes, pool.ring_bytes); !status.ok()) return fail(std::move(status));
        }
        for (const std::byte* base : {pool.keys, pool.values})
            for (std::int32_t page : pages_->pages(sequence))
                if (pool.page_bytes > 0)
                    if (Status status = take(base + static_cast<std::size_t>(page) * pool.page_bytes, pool.page_bytes); !status.ok()) return fail(std::move(status));
    }
    return snapshot;
}

Status CudaSession::restore(std::int64_t sequence, const StateSnapshot& snapshot) {
    SKIFF_CHECK(device_->enter());
    std::size_t expected = 0;
    const bool in_range = snapshot.n_tokens >= 0 && snapshot.n_tokens <= pages_->capacity();
    const std::int64_t n_pages = in_range ? (snapshot.n_tokens + page_positions - 1) / page_positions : 0;
    for (const Pool& pool : pools_) expected += static_cast<std::size_t>(2 * n_pages) * pool.page_bytes + (snapshot.n_tokens > 0 ? pool.ring_bytes : 0);
    if (!in_range || snapshot.bytes.size() != expected) return usage_error("the snapshot was taken from another model or a longer context");
    end_chain();
    pages_->truncate(sequence, 0);
    SKIFF_CHECK(append(sequence, snapshot.n_tokens));
    const std::byte* source = snapshot.bytes.data();
    for (const Pool& pool : pools_) {
        if (pool.ring_bytes > 0 && snapshot.n_tokens > 0) {
            SKIFF_CHECK(device_->upload(pool.keys + static_cast<std::size_t>(sequence) * pool.ring_bytes, source, pool.ring_bytes));
            source += pool.ring_bytes;
        }
        for (std::byte* base : {pool.keys, pool.values})
            for (std::int32_t page : pages_->pages(sequence)) {
                if (pool.page_bytes == 0) continue;
                SKIFF_CHECK(device_->upload(base + static_cast<std::size_t>(page) * pool.page_bytes, source, pool.page_bytes));
                source += pool.page_bytes;
            }
    }
    return {};
}

}  // namespace skiff::cuda
