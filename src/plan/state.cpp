#include "plan/state.h"

#include <sys/mman.h>

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

Result<StateCache> StateCache::create(const std::vector<StateNeed>& needs, DType dtype, std::int64_t n_sequences, std::int64_t capacity) {
    if (dtype != DType::f32 && dtype != DType::f16 && dtype != DType::bf16) return usage_error("the state is kept in f32, f16 or bf16");
    if (n_sequences < 1 || capacity < 1) return usage_error("a session needs room for at least one sequence of one token");
    StateCache cache;
    cache.needs_ = needs;
    cache.dtype_ = dtype;
    cache.capacity_ = capacity;
    cache.lengths_.assign(static_cast<std::size_t>(n_sequences), 0);
    for (const StateNeed& need : needs) {
        for (std::int64_t width : {need.spec.key_width, need.spec.value_width}) {
            const std::int64_t factors[] = {n_sequences, capacity, cache.row_bytes(width)};
            auto size = checked_product(factors);
            if (!size) return resource_error("the state of " + need.name + " would be too large; ask for a shorter context");
            SKIFF_TRY(auto memory, LazyMemory::reserve(static_cast<std::size_t>(*size)));
            (cache.keys_.size() == cache.values_.size() ? cache.keys_ : cache.values_).push_back(std::move(memory));
        }
    }
    return cache;
}

std::uint64_t StateCache::bytes_per_token() const {
    std::int64_t total = 0;
    for (const StateNeed& need : needs_) total += row_bytes(need.spec.key_width) + row_bytes(need.spec.value_width);
    return static_cast<std::uint64_t>(total);
}

std::byte* StateCache::keys(std::size_t state, std::int64_t sequence) const {
    return keys_[state].data() + sequence * capacity_ * row_bytes(needs_[state].spec.key_width);
}

std::byte* StateCache::values(std::size_t state, std::int64_t sequence) const {
    return values_[state].data() + sequence * capacity_ * row_bytes(needs_[state].spec.value_width);
}

Status StateCache::truncate(std::int64_t sequence, std::int64_t n_tokens) {
    if (n_tokens < 0 || n_tokens > length(sequence))
        return usage_error("cannot truncate a sequence of " + std::to_string(length(sequence)) + " tokens to " + std::to_string(n_tokens));
    lengths_[static_cast<std::size_t>(sequence)] = n_tokens;
    return {};
}

void StateCache::fork(std::int64_t from, std::int64_t to) {
    if (from == to) return;
    const std::int64_t n = length(from);
    for (std::size_t state = 0; state < needs_.size(); ++state) {
        std::memcpy(keys(state, to), keys(state, from), static_cast<std::size_t>(n * row_bytes(needs_[state].spec.key_width)));
        std::memcpy(values(state, to), values(state, from), static_cast<std::size_t>(n * row_bytes(needs_[state].spec.value_width)));
    }
    lengths_[static_cast<std::size_t>(to)] = n;
}

StateSnapshot StateCache::snapshot(std::int64_t sequence) const {
    StateSnapshot snapshot;
    snapshot.n_tokens = length(sequence);
    for (std::size_t state = 0; state < needs_.size(); ++state) {
        const std::byte* key = keys(state, sequence);
        const std::byte* value = values(state, sequence);
        snapshot.bytes.insert(snapshot.bytes.end(), key, key + snapshot.n_tokens * row_bytes(needs_[state].spec.key_width));
        snapshot.bytes.insert(snapshot.bytes.end(), value, value + snapshot.n_tokens * row_bytes(needs_[state].spec.value_width));
    }
    return snapshot;
}

Status StateCache::restore(std::int64_t sequence, const StateSnapshot& snapshot) {
    if (snapshot.n_tokens > capacity_ || snapshot.bytes.size() != static_cast<std::size_t>(snapshot.n_tokens) * bytes_per_token())
        return usage_error("the snapshot was taken from another model or a longer context");
    const std::byte* source = snapshot.bytes.data();
    for (std::size_t state = 0; state < needs_.size(); ++state) {
        for (auto [target, width] :
             {std::pair(keys(state, sequence), needs_[state].spec.key_width), std::pair(values(state, sequence), needs_[state].spec.value_width)}) {
            const auto size = static_cast<std::size_t>(snapshot.n_tokens * row_bytes(width));
            std::memcpy(target, source, size);
            source += size;
        }
    }
    lengths_[static_cast<std::size_t>(sequence)] = snapshot.n_tokens;
    return {};
}

}  // namespace skiff
