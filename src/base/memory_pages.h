// Pages of memory: large ones for what is read over and over, giving back those of a mapped file, how much there is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace skiff {

inline constexpr std::size_t huge_page_bytes = std::size_t{2} << 20;

// Anonymous memory in pages of 2 MiB, where the system gives them.
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

// Gives back the pages that lie wholly within these bytes of a mapped file; they are read from it again if somebody asks. Never for memory that is no file's: it would be lost.
void give_back_pages(std::span<const std::byte> mapped);

// The system's setting of transparent huge pages: "always", "madvise", "never", or "unknown".
std::string huge_page_setting();

// Bytes that this process may still take without swapping: of the machine, or of its control group where that leaves less. 0: not known.
std::uint64_t available_memory_bytes();

}  // namespace skiff
