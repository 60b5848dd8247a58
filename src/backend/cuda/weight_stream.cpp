#include "backend/cuda/weight_stream.h"

#include <algorithm>
#include <cstring>

#include "base/progress.h"

namespace skiff::cuda {

WeightStream::~WeightStream() {
    const Table& table = device_.table();
    if (copies_ != nullptr) {
        table.wait_stream(copies_);
        table.destroy_stream(copies_);
    }
    for (const Buffer& buffer : buffers_)
        for (Event event : {buffer.copied, buffer.free})
            if (event != nullptr) table.destroy_event(event);
}

Result<int> WeightStream::begin_block() {
    SKIFF_CHECK(pin_last());
    blocks_.emplace_back();
    return n_blocks() - 1;
}

Status WeightStream::pin_last() {
    if (blocks_.empty() || blocks_.back().host != nullptr) return {};
    Block& block = blocks_.back();
    block.size_bytes = packed_.size();
    largest_ = std::max(largest_, block.size_bytes);
    SKIFF_TRY(block.host, device_.allocate_pinned(block.size_bytes, "the weights of a layer that is copied to the device", "take --offload processor or a smaller --scheme"));
    if (block.size_bytes > 0) std::memcpy(block.host, packed_.data(), block.size_bytes);
    packed_.clear();
    return {};
}

Result<std::size_t> WeightStream::add(const std::byte* weight, std::size_t size_bytes) {
    const std::size_t offset = (packed_.size() + 255) / 256 * 256;
    packed_.resize(offset + size_bytes);
    std::memcpy(packed_.data() + offset, weight, size_bytes);
    return offset;
}

Status WeightStream::place() {
    const Table& table = device_.table();
    SKIFF_CHECK(pin_last());
    packed_ = std::vector<std::byte>();
    SKIFF_CHECK(device_.check(table.make_stream(&copies_), "making a stream"));
    for (int b = 0; b < std::min(n_buffers, n_blocks()); ++b) {
        Buffer& buffer = buffers_[b];
        SKIFF_TRY(buffer.memory, device_.allocate(largest_, "the weights of a layer that is copied there"));
        SKIFF_CHECK(device_.check(table.make_event(&buffer.copied), "making an event"));
        SKIFF_CHECK(device_.check(table.make_event(&buffer.free), "making an event"));
        SKIFF_CHECK(device_.check(copy(b), "copying weights to the device"));
    }
    return {};
}

int WeightStream::copy(int block) {
    const Table& table = device_.table();
    Buffer& buffer = buffers_[block % n_buffers];
    buffer.block = -1;
    if (const int error = table.record(buffer.free, device_.stream()); error != 0) return error;
    if (const int error = table.stream_waits(copies_, buffer.free); error != 0) return error;
    const Block& source = blocks_[static_cast<std::size_t>(block)];
    if (source.size_bytes > 0)
        if (const int error = table.copy_in(buffer.memory, source.host, source.size_bytes, copies_); error != 0) return error;
    if (const int error = table.record(buffer.copied, copies_); error != 0) return error;
    buffer.block = block;
    return 0;
}

// A run that failed, or one that had other blocks, may have left something else there.
int WeightStream::begin(int block) {
    const Buffer& buffer = buffers_[block % n_buffers];
    if (buffer.block != block)
        if (const int error = copy(block); error != 0) return error;
    return device_.table().stream_waits(device_.stream(), buffer.copied);
}

int WeightStream::end(int block) {
    const int next = block + n_buffers < n_blocks() ? block + n_buffers : block % n_buffers;
    return next == block ? 0 : copy(next);
}

std::uint64_t WeightStream::bytes() const {
    std::uint64_t total = 0;
    for (const Block& block : blocks_) total += block.size_bytes;
    return total;
}

std::uint64_t WeightStream::bytes_per_run() const { return n_blocks() > n_buffers ? bytes() : 0; }

std::uint64_t WeightStream::device_bytes() const { return static_cast<std::uint64_t>(std::min(n_buffers, n_blocks())) * largest_; }

Result<double> WeightStream::seconds_per_byte() {
    const Table& table = device_.table();
    const auto largest = std::max_element(blocks_.begin(), blocks_.end(), [](const Block& a, const Block& b) { return a.size_bytes < b.size_bytes; });
    if (largest == blocks_.end() || largest->size_bytes == 0) return runtime_error("there are no weights to copy");
    SKIFF_CHECK(device_.wait());
    Buffer& buffer = buffers_[(largest - blocks_.begin()) % n_buffers];
    double best = 0;
    for (int pass = 0; pass < 3; ++pass) {
        SKIFF_CHECK(device_.check(table.wait_stream(copies_), "waiting for copies"));
        const double begin = monotonic_seconds();
        SKIFF_CHECK(device_.check(table.copy_in(buffer.memory, largest->host, largest->size_bytes, copies_), "copying weights to the device"));
        SKIFF_CHECK(device_.check(table.wait_stream(copies_), "waiting for copies"));
        const double seconds = monotonic_seconds() - begin;
        best = pass == 0 ? seconds : std::min(best, seconds);
    }
    buffer.block = -1;  // copied again where it is used
    return best / static_cast<double>(largest->size_bytes);
}

}  // namespace skiff::cuda
