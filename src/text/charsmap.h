// SentencePiece's compiled normalization rules: a double-array trie from source strings to places in a pool of replacements.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace skiff {

class Charsmap {
public:
    // `blob`: u32 size of the trie in bytes | the trie, u32 units | replacement strings, each ended by a zero byte.
    static Result<Charsmap> parse(std::string_view blob);

    struct Match {
        std::size_t n_bytes = 0;  // of the source; 0: no rule applies
        std::string_view replacement;
    };
    enum class Prefer { longest, shortest };
    Match match(std::string_view text, Prefer prefer) const;

    const std::string& blob() const { return blob_; }

private:
    std::string blob_;
    std::vector<std::uint32_t> units_;
    std::string pool_;
};

// As the `tokenizers` library applies the rules: by grapheme cluster when it is short, else by character.
std::string apply_charsmap_by_grapheme(const Charsmap& map, std::string_view text);

}  // namespace skiff
