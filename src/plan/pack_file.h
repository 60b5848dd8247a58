// The file that keeps packed weights (docs/formats/pack-cache.md): sections, then an index, then a trailer. This file knows the bytes;
// pack_cache.h knows which file to take and when.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "kernels/layout.h"

namespace skiff {

inline constexpr std::uint32_t pack_file_version = 5;
inline constexpr std::uint64_t pack_block_bytes = std::uint64_t{4} << 20;  // what one checksum covers, and what is written at once
inline constexpr std::uint64_t pack_section_alignment = 4096;

// The parts of a packed weight that are stored; a new one is one line here and one in SectionBytes.
struct PackSection {
    const char* name;
    const std::byte* PackedWeight::* pointer;
    std::uint64_t SectionBytes::* size;
};
inline constexpr PackSection pack_sections[] = {
    {"data", &PackedWeight::data, &SectionBytes::data},
    {"scales", &PackedWeight::scales, &SectionBytes::scales},
    {"zeros", &PackedWeight::zeros, &SectionBytes::zeros},
    {"super scales", &PackedWeight::super_scales, &SectionBytes::super_scales},
    {"minimums", &PackedWeight::minimums, &SectionBytes::minimums},
    {"super minimums", &PackedWeight::super_minimums, &SectionBytes::super_minimums},
    {"books", &PackedWeight::books, &SectionBytes::books},
};
inline constexpr std::size_t n_pack_sections = std::size(pack_sections);

// One packed weight. `weight` has its fields but no pointers; `offsets` say where in the file its sections begin.
struct PackRecord {
    std::string key;
    enum class Form : std::uint8_t { packed, as_stored } form = Form::packed;  // as_stored: the kernels read the model's file itself
    std::uint32_t layout_version = 0;
    std::uint64_t fingerprint = 0;  // of the layout's packing (packing_fingerprint.h)
    PackedWeight weight;
    SectionBytes sizes;
    std::array<std::uint64_t, n_pack_sections> offsets = {};
};

struct PackIndex {
    std::string source;  // what the weights were made from, and for what
    std::vector<PackRecord> records;
    std::vector<std::uint64_t> block_hashes;  // of the file up to the index, block by block
    std::uint64_t data_bytes = 0;             // where the index begins
};

// Layout and fields, without pointers.
void copy_packed_fields(const PackedWeight& from, PackedWeight& to);

// Reads and checks trailer and index of a whole file: every section lies inside, is aligned and has the size that its layout wants.
Result<PackIndex> parse_pack_file(std::span<const std::byte> file);

// Index and trailer as bytes, to stand behind `index.data_bytes`.
std::vector<std::byte> pack_index_bytes(const PackIndex& index);
std::vector<std::byte> pack_trailer(std::uint64_t data_bytes, std::span<const std::byte> index);
// The first 64 bytes of a file.
std::vector<std::byte> pack_file_head();

// Gives each section its place and sets data_bytes.
void place_sections(PackIndex& index);

// Compares all checksums of the data, the threads sharing the blocks; this also brings the pages into memory. Error: which block is damaged.
Status verify_blocks(std::span<const std::byte> file, const PackIndex& index, ThreadPool& pool);

}  // namespace skiff
