// Weights that the device has no room for: they wait in pinned host memory and are copied, block by block, into one of two buffers on the device while the block before them computes.
// Each buffer's next content is asked for when its last reader has been launched, so that the first blocks of the next run are on their way before it begins.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/cuda/device.h"

namespace skiff::cuda {

class WeightStream {
public:
    explicit WeightStream(Device& device) : device_(device) {}
    ~WeightStream();
    WeightStream(const WeightStream&) = delete;
    WeightStream& operator=(const WeightStream&) = delete;

    // ---- while the model is built: blocks in the order of their use, each of them weights
    Result<int> begin_block();
    // Where the weight will be in its block's buffer.
    Result<std::size_t> add(const std::byte* weight, std::size_t size_bytes);
    // Behind the last one: buffers, and the first copies. Afterwards base() says where a block's weights are.
    Status place();
    std::byte* base(int block) const { return buffers_[static_cast<std::size_t>(block % n_buffers)].memory; }

    // ---- while a run is launched: an error of the table, or 0
    int begin(int block);  // what follows on the device's stream may read the block
    int end(int block);    // nothing that follows does

    int n_blocks() const { return static_cast<int>(blocks_.size()); }
    std::uint64_t bytes() const;         // of all blocks, on the host
    std::uint64_t bytes_per_run() const;  // that are copied for each
    std::uint64_t device_bytes() const;
    // Seconds for a byte of such a copy, measured with the largest block.
    Result<double> seconds_per_byte();

private:
    static constexpr int n_buffers = 2;
    struct Block {
        std::byte* host = nullptr;  // pinned
        std::size_t size_bytes = 0;
    };
    struct Buffer {
        std::byte* memory = nullptr;
        Event copied = nullptr, free = nullptr;
        int block = -1;
    };
    Status pin_last();    // block that was begun
    int copy(int block);  // into its buffer, behind all that the device's stream has now

    Device& device_;
    Stream copies_ = nullptr;
    std::vector<Block> blocks_;
    Buffer buffers_[n_buffers];
    std::vector<std::byte> packed_;  // of the block that was begun last
    std::size_t largest_ = 0;
};

// In a program: where a block's weights must be there, and where they are read no more.
struct StreamArgs {
    WeightStream* stream = nullptr;
    int block = 0;
    enum class When : std::uint8_t { begin, end } when = When::begin;
};

}  // namespace skiff::cuda
