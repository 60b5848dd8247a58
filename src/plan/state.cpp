#include "plan/state.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/checked.h"

namespace skiff {

Result<LazyMemory> LazyMemory::reserve(std::size_t size_bytes) {
    LazyMemory memory;
    if (size_bytes == 0) return memory;
    void* address = ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED)
        return resource_error("cannot reserve " + std::to_string(size_bytes) + " bytes; ask for a shorter context, a smaller batch or fewer threads");
    memory.data_ = static_cast<std::byte*>(address);
    memory.size_bytes_ = size_bytes;
    return memory;
}

LazyMemory::LazyMemory(LazyMemory&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_bytes_(std::exchange(other.size_bytes_, 0)) {}
LazyMemory& LazyMemory::operator=(LazyMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_bytes_, other.size_bytes_);
    return *this;
}
LazyMemory::~LazyMemory() {
    if (data_ != nullptr) ::munmap(data_, size_bytes_);
}

namespace {

bool is_recurrent(const StateNeed& need) { return need.spec.kind == StateSpec::Kind::recurrent; }
std::int64_t ring_bytes(const StateNeed& need) { return ring_rows(need.spec) * need.spec.key_width * static_cast<std::int64_t>(sizeof(float)); }

}  // namespace

Result<StateCache> StateCache::create(const std::vector<StateNeed>& needs, const std::vector<StateScheme>& schemes, std::int64_t n_sequences, std::int64_t capacity) {
    if (n_sequences < 1 || capacity < 1) return usage_error("a session needs room for at least one sequence of one token");
    StateCache cache;
    cache.needs_ = needs;
    cache.schemes_ = schemes;
    cache.capacity_ = capacity;
    cache.lengths_.assign(static_cast<std::size_t>(n_sequences), 0);
    cache.longest_ = cache.lengths_;
    for (const StateNeed& need : needs) {
        if (is_recurrent(need)) {
            const std::int64_t factors[] = {n_sequences, ring_bytes(need)};
            const auto size = checked_product(factors);
            if (!size) return resource_error("the state of " + need.name + " would be too large; ask for fewer sequences");
            SKIFF_TRY(auto memory, LazyMemory::reserve(static_cast<std::size_t>(*size)));
            cache.layouts_.emplace_back();
            cache.keys_.push_back(std::move(memory));
            cache.values_.emplace_back();
            continue;
        }
        cache.layouts_.push_back(state_layout(schemes[cache.layouts_.size()], need.n_kv_heads, need.head_dim));
        for (StatePart part : {StatePart::keys, StatePart::values}) {
            const std::int64_t token_bytes = ceil_div<std::int64_t>(need.n_kv_heads * cache.layouts_.back().part(part).size_bytes, attention_chunk);
            const std::int64_t factors[] = {n_sequences, round_up<std::int64_t>(capacity, attention_chunk), token_bytes};
            if (!checked_product(factors)) return resource_error("the state of " + need.name + " would be too large; ask for a shorter context");
            const std::int64_t size = n_sequences * state_region_bytes(cache.layouts_.back(), part, capacity);
            SKIFF_TRY(auto memory, LazyMemory::reserve(static_cast<std::size_t>(size)));
            (part == StatePart::keys ? cache.keys_ : cache.values_).push_back(std::move(memory));
        }
    }
    return cache;
}

std::uint64_t StateCache::bytes_per_token() const {
    std::int64_t total = 0;
    for (std::size_t i = 0; i < needs_.size(); ++i)
        if (!is_recurrent(needs_[i])) total += layouts_[i].n_kv_heads * (layouts_[i].key.size_bytes + layouts_[i].value.size_bytes);
    return static_cast<std::uint64_t>(ceil_div<std::int64_t>(total, attention_chunk));
}

std::byte* StateCache::keys(std::size_t state, std::int64_t sequence) const {
    if (is_recurrent(needs_[state])) return keys_[state].data() + sequence * ring_bytes(needs_[state]);
    return keys_[state].data() + sequence * state_region_bytes(layouts_[state], StatePart::keys, capacity_);
}

std::byte* StateCache::values(std::size_t state, std::int64_t sequence) const {
    if (is_recurrent(needs_[state])) return nullptr;
    return values_[state].data() + sequence * state_region_bytes(layouts_[state], StatePart::values, capacity_);
}

Status StateCache::truncate(std::int64_t sequence, std::int64_t n_tokens) {
    if (n_tokens < 0 || n_tokens > length(sequence))
        return usage_error("cannot truncate a sequence of " + std::to_string(length(sequence)) + " tokens to " + std::to_string(n_tokens));
    auto& longest = longest_[static_cast<std::size_t>(sequence)];
    longest = std::max(longest, length(sequence));
    for (const StateNeed& need : needs_) {
        const bool known = n_tokens == length(sequence) || n_tokens == 0 || longest <= ring_rows(need.spec) || n_tokens - (need.spec.window - 1) >= longest - ring_rows(need.spec);
        if (is_recurrent(need) && !known)
            return unsupported("this model's convolutions remember the last " + std::to_string(recurrent_slack) + " tokens only: a sequence of " + std::to_string(longest) + " tokens cannot go back to " +
                               std::to_string(n_tokens) + "; begin it anew");
    }
    if (n_tokens == 0) longest = 0;
    lengths_[static_cast<std::size_t>(sequence)] = n_tokens;
    return {};
}

std::vector<std::byte> StateCache::recurrent_rows(std::int64_t sequence) const {
    std::vector<std::byte> bytes;
    for (std::size_t state = 0; state < needs_.size(); ++state)
        if (is_recurrent(needs_[state])) bytes.insert(bytes.end(), keys(state, sequence), keys(state, sequence) + ring_bytes(needs_[state]));
    return bytes;
}

void StateCache::take_back(std::int64_t sequence, std::int64_t n_tokens, std::span<const std::byte> recurrent_rows) {
    const std::byte* source = recurrent_rows.data();
    for (std::size_t state = 0; state < needs_.size(); ++state) {
        if (!is_recurrent(needs_[state])) continue;
        std::memcpy(keys(state, sequence), source, static_cast<std::size_t>(ring_bytes(needs_[state])));
        source += ring_bytes(needs_[state]);
    }
    lengths_[static_cast<std::size_t>(sequence)] = n_tokens;
}

// Calls use(state, part, offset, size_bytes) for what the first n_tokens of a sequence occupy.
template <class Use>
void StateCache::for_each_piece(std::int64_t n_tokens, Use use) const {
    for (std::size_t state = 0; state < needs_.size(); ++state) {
        if (is_recurrent(needs_[state])) {
            if (n_tokens > 0) use(state, StatePart::keys, std::int64_t{0}, ring_bytes(needs_[state]));
            continue;
        }
        for (StatePart part : {StatePart::keys, StatePart::values})
            for_each_state_piece(layouts_[state], part, n_tokens, [&](std::int64_t offset, std::int64_t size_bytes) { use(state, part, offset, size_bytes); });
    }
}

std::byte* StateCache::region(std::size_t state, StatePart part, std::int64_t sequence) const {
    return part == StatePart::keys ? keys(state, sequence) : values(state, sequence);
}

void StateCache::fork(std::int64_t from, std::int64_t to) {
    if (from == to) return;
    for_each_piece(length(from), [&](std::size_t state, StatePart part, std::int64_t offset, std::int64_t size_bytes) {
        std::memcpy(region(state, part, to) + offset, region(state, part, from) + offset, static_cast<std::size_t>(size_bytes));
    });
    lengths_[static_cast<std::size_t>(to)] = length(from);
    longest_[static_cast<std::size_t>(to)] = std::max(longest_[static_cast<std::size_t>(from)], length(from));
}

void StateCache::repeat(std::int64_t sequence, std::int64_t n_tokens) {
    for (std::size_t state = 0; state < needs_.size(); ++state) {
        if (is_recurrent(needs_[state])) continue;
        for (StatePart part : {StatePart::keys, StatePart::values}) {
            std::byte* base = region(state, part, sequence);
            const std::int64_t chunk = state_region_bytes(layouts_[state], part, attention_chunk);
            for (std::int64_t i = length(sequence) / attention_chunk; i * attention_chunk < n_tokens; ++i)
                if (i > 0) std::memcpy(base + i * chunk, base, static_cast<std::size_t>(chunk));
        }
    }
    lengths_[static_cast<std::size_t>(sequence)] = n_tokens;
}

StateSnapshot StateCache::snapshot(std::int64_t sequence) const {
    StateSnapshot snapshot;
    snapshot.n_tokens = length(sequence);
    for_each_piece(snapshot.n_tokens, [&](std::size_t state, StatePart part, std::int64_t offset, std::int64_t size_bytes) {
        const std::byte* source = region(state, part, sequence) + offset;
        snapshot.bytes.insert(snapshot.bytes.end(), source, source + size_bytes);
    });
    return snapshot;
}

Status StateCache::restore(std::int64_t sequence, const StateSnapshot& snapshot) {
    std::int64_t expected = 0;
    if (snapshot.n_tokens >= 0 && snapshot.n_tokens <= capacity_)
        for_each_piece(snapshot.n_tokens, [&](std::size_t, StatePart, std::int64_t, std::int64_t size_bytes) { expected += size_bytes; });
    if (snapshot.n_tokens < 0 || snapshot.n_tokens > capacity_ || snapshot.bytes.size() != static_cast<std::size_t>(expected))
        return usage_error("the snapshot was taken from another model or a longer context");
    const std::byte* source = snapshot.bytes.data();
    for_each_piece(snapshot.n_tokens, [&](std::size_t state, StatePart part, std::int64_t offset, std::int64_t size_bytes) {
        std::memcpy(region(state, part, sequence) + offset, source, static_cast<std::size_t>(size_bytes));
        source += size_bytes;
    });
    lengths_[static_cast<std::size_t>(sequence)] = longest_[static_cast<std::size_t>(sequence)] = snapshot.n_tokens;
    return {};
}

}  // namespace skiff
