#include "net/idx_file.h"

#include <limits>

#include "base/mapped_file.h"

namespace skiff::net {
namespace {

constexpr std::uint8_t unsigned_byte = 0x08;
constexpr std::size_t most_dimensions = 4;

}  // namespace

Result<IdxArray> parse_idx(std::span<const std::byte> bytes) {
    if (bytes.size() >= 2 && bytes[0] == std::byte{0x1f} && bytes[1] == std::byte{0x8b}) return unsupported("the file is compressed; unpack it with gunzip");
    if (bytes.size() < 4) return corrupt("an IDX file has a head of at least 4 bytes, this one " + std::to_string(bytes.size()));
    if (bytes[0] != std::byte{0} || bytes[1] != std::byte{0}) return corrupt("not an IDX file: it does not begin with two zero bytes");
    if (static_cast<std::uint8_t>(bytes[2]) != unsigned_byte) return unsupported("an IDX file of type " + std::to_string(static_cast<int>(bytes[2])) + "; only unsigned bytes (8) are read");
    const auto n_dimensions = static_cast<std::size_t>(bytes[3]);
    if (n_dimensions < 1 || n_dimensions > most_dimensions) return corrupt("an IDX file of " + std::to_string(n_dimensions) + " dimensions, expected 1 to 4");
    if (bytes.size() < 4 + 4 * n_dimensions) return corrupt("the IDX file ends in its head");
    const auto n_values = static_cast<std::uint64_t>(bytes.size() - 4 - 4 * n_dimensions);
    IdxArray array;
    std::uint64_t n = 1;
    for (std::size_t i = 0; i < n_dimensions; ++i) {
        std::uint32_t size = 0;
        for (std::size_t byte = 0; byte < 4; ++byte) size = size << 8 | static_cast<std::uint32_t>(bytes[4 + 4 * i + byte]);
        if (size == 0 || size > std::numeric_limits<std::int32_t>::max() || n > n_values / size) return corrupt("the IDX file says a size of " + std::to_string(size) + " and holds " + std::to_string(n_values) + " numbers in all");
        n *= size;
        array.shape.push_back(size);
    }
    if (n != n_values) return corrupt("the sizes in the IDX file make " + std::to_string(n) + " numbers, it holds " + std::to_string(n_values));
    for (const std::byte value : bytes.subspan(4 + 4 * n_dimensions)) array.values.push_back(static_cast<std::uint8_t>(value));
    return array;
}

Result<IdxArray> read_idx(const std::string& path) {
    SKIFF_TRY(const auto file, MappedFile::open(path));
    auto array = parse_idx(file->bytes());
    if (!array.ok()) return array.take_error().with_context(path);
    return array;
}

}  // namespace skiff::net
