// links: skiff_formats
// The safetensors header on any bytes: no crash; and what it accepts lies inside the file, tensor after tensor.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "base/checked.h"
#include "formats/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
    auto header = skiff::parse_safetensors_header(bytes, size);
    if (!header.ok()) {
        if (header.error().message.empty()) std::abort();
        return 0;
    }
    std::uint64_t position = 0;
    for (const auto& entry : header->entries) {
        if (entry.begin != position || entry.end < entry.begin) std::abort();
        auto n_elements = skiff::checked_product(entry.shape);
        if (!n_elements || skiff::dtype_bytes(entry.dtype, *n_elements) != static_cast<std::int64_t>(entry.end - entry.begin)) std::abort();
        position = entry.end;
    }
    if (header->data_begin + position != size) std::abort();
    // A file whose data are not there must be refused, whatever size is claimed for it.
    if (position > 0 && skiff::parse_safetensors_header(bytes, size - 1).ok()) std::abort();
    return 0;
}
