#include "base/memory_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <sstream>

#include "base/checked.h"
#include "base/cpu_features.h"
#include "base/mapped_file.h"

namespace skiff {

Result<std::shared_ptr<HugeMemory>> HugeMemory::reserve(std::size_t size_bytes) {
    const std::size_t mapped_bytes = round_up(size_bytes, huge_page_bytes) + huge_page_bytes;
    void* mapping = ::mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) return resource_error("cannot reserve " + std::to_string(size_bytes) + " bytes: " + std::strerror(errno));
    auto* data = reinterpret_cast<std::byte*>(round_up(reinterpret_cast<std::uintptr_t>(mapping), huge_page_bytes));
    ::madvise(data, round_up(size_bytes, huge_page_bytes), MADV_HUGEPAGE);
    return std::shared_ptr<HugeMemory>(new HugeMemory(mapping, mapped_bytes, data));
}

HugeMemory::~HugeMemory() { ::munmap(mapping_, mapped_bytes_); }

void give_back_pages(std::span<const std::byte> mapped) {
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto begin = round_up(reinterpret_cast<std::uintptr_t>(mapped.data()), page), end = reinterpret_cast<std::uintptr_t>(mapped.data() + mapped.size()) / page * page;
    if (end > begin) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

std::string huge_page_setting() {
    auto text = read_text_file("/sys/kernel/mm/transparent_hugepage/enabled", 4096);
    if (!text.ok()) return "unknown";
    const auto open = text->find('['), close = text->find(']');
    return open == std::string::npos || close == std::string::npos ? "unknown" : text->substr(open + 1, close - open - 1);
}

namespace {

std::optional<std::uint64_t> number_in(const std::string& path) {
    auto text = read_text_file(path, 4096);
    if (!text.ok() || text->empty() || text->front() < '0' || text->front() > '9') return std::nullopt;  // "max": no limit
    return std::strtoull(text->c_str(), nullptr, 10);
}

// What a control group leaves; the files that it has in memory count as free.
std::optional<std::uint64_t> left_in_group(const std::string& limit_file, const std::string& usage_file, const std::string& statistics_file) {
    const auto limit = number_in(limit_file), usage = number_in(usage_file);
    if (!limit || !usage) return std::nullopt;
    std::uint64_t files = 0;
    if (auto text = read_text_file(statistics_file, 1 << 16); text.ok()) {
        std::istringstream lines(*text);
        std::string name;
        std::uint64_t value = 0;
        while (lines >> name >> value)
            if (name == "active_file" || name == "inactive_file" || name == "total_active_file" || name == "total_inactive_file") files += value;
    }
    const std::uint64_t taken = *usage - std::min(*usage, files);
    return *limit - std::min(*limit, taken);
}

}  // namespace

std::uint64_t available_memory_bytes() {
    std::uint64_t available = read_cpu_info().available_memory_bytes;
    const std::string group = "/sys/fs/cgroup/";
    for (const auto& left : {left_in_group(group + "memory.max", group + "memory.current", group + "memory.stat"),
                             left_in_group(group + "memory/memory.limit_in_bytes", group + "memory/memory.usage_in_bytes", group + "memory/memory.stat")})
        if (left) available = std::min(available, *left);
    return available;
}

}  // namespace skiff
