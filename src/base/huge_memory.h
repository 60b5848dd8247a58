// Memory for what is read over and over: anonymous, in pages of 2 MiB where the system gives them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"

namespace skiff {

inline constexpr std::size_t huge_page_bytes = std::size_t{2} << 20;

class HugeMemory {
public:
    // Begins at a multiple of huge_page_bytes and is not touched: a page comes, full of zeros, when something is written to it.
    static Result<std::shared_ptr<HugeMemory>> reserve(std::size_t size_bytes);
    HugeMemory(const HugeMemory&) = delete;
    HugeMemory& operator=(const HugeMemory&) = delete;
    ~HugeMemory();
    std::byte* data() const { return data_; }

private:
    HugeMemory(void* mapping, std::size_t mapped_bytes, std::byte* data) : mapping_(mapping), mapped_bytes_(mapped_bytes), data_(data) {}
    void* mapping_;
    std::size_t mapped_bytes_;
    std::byte* data_;
};

// The system's setting of transparent huge pages: "always", "madvise", "never", or "unknown".
std::string huge_page_setting();

// Bytes that this process may still take without swapping: of the machine, or of its control group where that leaves less. 0: not known.
std::uint64_t available_memory_bytes();

}  // namespace skiff
