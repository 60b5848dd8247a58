// links: skiff_plan
// The index of a file of packed weights, any bytes under right checksums: no crash; and what it accepts lies inside the file.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "plan/pack_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::span<const std::byte> input(reinterpret_cast<const std::byte*>(data), size);
    if (auto bare = skiff::parse_pack_file(input); !bare.ok() && bare.error().message.empty()) std::abort();
    constexpr std::uint64_t data_bytes = 3 * skiff::pack_section_alignment;
    std::vector<std::byte> file = skiff::pack_file_head();
    file.resize(data_bytes);
    file.insert(file.end(), input.begin(), input.end());
    const auto trailer = skiff::pack_trailer(data_bytes, input);
    file.insert(file.end(), trailer.begin(), trailer.end());
    auto index = skiff::parse_pack_file(file);
    if (!index.ok()) {
        if (index.error().message.empty()) std::abort();
        return 0;
    }
    if (index->block_hashes.size() != 1) std::abort();
    for (const skiff::PackRecord& record : index->records) {
        if (record.form == skiff::PackRecord::Form::as_stored) continue;
        const auto wanted = record.weight.layout->sections(record.weight);
        if (!wanted || wanted->total() != record.sizes.total()) std::abort();
        for (std::size_t i = 0; i < skiff::n_pack_sections; ++i)
            if (const std::uint64_t bytes = record.sizes.*skiff::pack_sections[i].size; bytes > 0 && record.offsets[i] + bytes > data_bytes) std::abort();
    }
    // What was accepted is written as it was read.
    if (skiff::parse_pack_file(file).ok() && skiff::pack_index_bytes(*index).size() != size + trailer.size()) std::abort();
    return 0;
}
