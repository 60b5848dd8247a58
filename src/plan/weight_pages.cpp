#include "plan/weight_pages.h"

#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>

#include "base/checked.h"
#include "base/memory_pages.h"
#include "plan/pack_file.h"

namespace skiff {
namespace {

constexpr std::uint64_t least_bytes = std::uint64_t{32} << 20;  // fewer stay in the caches, or in what the processor remembers of small pages
constexpr std::uint64_t piece_bytes = std::uint64_t{4} << 20;   // that a thread copies at a time

// The sizes of what a weight's pointers lead to; nothing where its layout does not know.
std::optional<SectionBytes> sizes_of(const PackedWeight& weight) { return weight.layout->sections == nullptr ? std::nullopt : weight.layout->sections(weight); }

std::uint64_t room_for(const SectionBytes& sizes) {
    std::uint64_t room = 0;
    for (const PackSection& section : pack_sections) room += round_up(sizes.*section.size, pack_section_alignment);
    return room;
}

// Whether the pages of a section may be given back: of what is read as stored only these two are surely the file's (Weight::file_backed); the others may be copies, and are small.
bool is_of_file(const PackSection& section) { return section.pointer == &PackedWeight::data || section.pointer == &PackedWeight::scales; }

void move_section(const std::byte* source, std::byte* target, std::uint64_t size, bool mapped, ThreadPool& pool) {
    std::atomic<std::uint64_t> next{0};
    pool.run([&](int) {
        for (std::uint64_t at = next.fetch_add(piece_bytes); at < size; at = next.fetch_add(piece_bytes)) {
            const std::uint64_t n = std::min(piece_bytes, size - at);
            std::memcpy(target + at, source + at, n);
            if (mapped) give_back_pages({source + at, static_cast<std::size_t>(n)});
        }
    });
}

}  // namespace

Result<std::uint64_t> place_weights(WeightPages choice, const std::vector<LoadedWeight>& weights, ThreadPool& pool) {
    if (choice == WeightPages::mapped) return std::uint64_t{0};
    std::uint64_t total = 0;
    for (const LoadedWeight& loaded : weights)
        if (const auto sizes = sizes_of(*loaded.weight)) total += room_for(*sizes);
    const bool off = huge_page_setting() == "never";
    if (choice == WeightPages::huge && off)
        return unsupported("huge pages are switched off here: echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled, or let the weights stay mapped");
    if (choice == WeightPages::automatic && (off || total < least_bytes || total > available_memory_bytes() / 2)) return std::uint64_t{0};
    auto memory = HugeMemory::reserve(total);
    if (!memory.ok()) return choice == WeightPages::huge ? Result<std::uint64_t>(memory.take_error()) : Result<std::uint64_t>(std::uint64_t{0});
    std::byte* free = (*memory)->data();
    for (const LoadedWeight& loaded : weights) {
        PackedWeight& weight = *loaded.weight;
        const auto sizes = sizes_of(weight);
        if (!sizes) continue;
        for (const PackSection& section : pack_sections) {
            const std::uint64_t size = (*sizes).*section.size;
            if (size == 0) continue;
            move_section(weight.*section.pointer, free, size, loaded.mapped && is_of_file(section), pool);
            weight.*section.pointer = free;
            free += round_up(size, pack_section_alignment);
        }
        weight.owner = *memory;
        weight.buffer = AlignedBuffer();
    }
    ::malloc_trim(0);
    return total;
}

}  // namespace skiff
