#include "base/file_identity.h"

#include <algorithm>

#include "base/hash.h"

namespace skiff {

std::string file_identity(const MappedFile& file) {
    constexpr std::size_t head_bytes = 1 << 20, page_bytes = 4096, n_samples = 64;
    const auto bytes = file.bytes();
    const std::size_t n_head = std::min(head_bytes, bytes.size()), rest = bytes.size() - n_head;
    std::uint64_t hash = hash64(bytes.subspan(0, n_head));
    // The last sample ends with the file.
    for (std::size_t i = 1; i <= n_samples && rest > 0; ++i) {
        const std::size_t end = n_head + static_cast<std::size_t>(static_cast<unsigned __int128>(rest) * i / n_samples);
        const std::size_t begin = end - std::min(end - n_head, page_bytes);
        hash = hash64(bytes.subspan(begin, end - begin), hash);
    }
    file.drop(0, bytes.size());
    const FileStamp& stamp = file.stamp();
    return std::to_string(stamp.size_bytes) + ":" + std::to_string(stamp.modified_ns) + ":" + std::to_string(stamp.inode) + ":" + hex64(hash);
}

}  // namespace skiff
