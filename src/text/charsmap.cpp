#include "text/charsmap.h"

#include <cstring>

#include "text/unicode.h"

namespace skiff {

Result<Charsmap> Charsmap::parse(std::string_view blob) {
    std::uint32_t trie_bytes = 0;
    if (blob.size() < 4) return corrupt("precompiled_charsmap of " + std::to_string(blob.size()) + " bytes; at least 4");
    std::memcpy(&trie_bytes, blob.data(), 4);
    if (trie_bytes % 4 != 0 || trie_bytes == 0 || trie_bytes > blob.size() - 4) {
        return corrupt("precompiled_charsmap: a trie of " + std::to_string(trie_bytes) + " bytes in " + std::to_string(blob.size()));
    }
    Charsmap map;
    map.blob_ = blob;
    map.units_.resize(trie_bytes / 4);
    std::memcpy(map.units_.data(), blob.data() + 4, trie_bytes);
    map.pool_ = blob.substr(4 + trie_bytes);
    if (!map.pool_.empty() && map.pool_.back() != '\0') return corrupt("precompiled_charsmap: the last replacement has no end");
    return map;
}

// The unit format is Darts-clone's: bit 8 has-leaf, bits 0-7 and 31 label, the rest the offset to the children.
Charsmap::Match Charsmap::match(std::string_view text, Prefer prefer) const {
    auto offset = [](std::uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); };
    Match best;
    std::uint32_t node = offset(units_[0]);
    for (std::size_t i = 0; i < text.size(); ++i) {
        const auto label = static_cast<unsigned char>(text[i]);
        node ^= label;
        if (node >= units_.size()) break;
        const std::uint32_t unit = units_[node];
        if ((unit & 0x800000FFu) != label) break;
        node ^= offset(unit);
        if ((unit >> 8 & 1) == 0) continue;
        if (node >= units_.size()) break;
        const std::uint32_t at = units_[node] & 0x7FFFFFFFu;
        if (at >= pool_.size()) break;
        best = {i + 1, std::string_view(pool_.c_str() + at)};  // the pool ends with a zero byte
        if (prefer == Prefer::shortest) break;
    }
    return best;
}

std::string apply_charsmap_by_grapheme(const Charsmap& map, std::string_view text) {
    std::string out;
    out.reserve(text.size());
    std::size_t begin = 0;
    for (std::size_t end : grapheme_ends(text)) {
        const std::string_view cluster = text.substr(begin, end - begin);
        begin = end;
        if (cluster.size() < 6) {
            const auto whole = map.match(cluster, Charsmap::Prefer::shortest);
            if (whole.n_bytes > 0) {
                out += whole.replacement;
                continue;
            }
        }
        for (std::size_t at = 0; at < cluster.size();) {
            const auto n_bytes = static_cast<std::size_t>(utf8_lead_length(static_cast<unsigned char>(cluster[at])));
            const std::string_view character = cluster.substr(at, n_bytes);
            const auto rule = map.match(character, Charsmap::Prefer::shortest);
            out += rule.n_bytes > 0 ? rule.replacement : character;
            at += n_bytes;
        }
    }
    return out;
}

}  // namespace skiff
