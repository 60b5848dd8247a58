// SentencePiece's own normalization: rules of the charsmap, extra spaces away, a space in front, spaces to U+2581.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "text/byte_trie.h"
#include "text/charsmap.h"
#include "text/normalizer.h"

namespace skiff {

struct SentencePieceNormalizerOptions {
    std::shared_ptr<const Charsmap> charsmap;     // may be null
    std::shared_ptr<const ByteTrie> user_defined; // passed through as they are; may be null
    bool add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true, space_as_suffix = false;
};
Normalizer sentencepiece_normalizer(SentencePieceNormalizerOptions options);

}  // namespace skiff
