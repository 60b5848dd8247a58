// Tokenizers in and out of GGUF metadata.
#pragma once

#include "formats/gguf_value.h"
#include "text/tokenizer.h"

namespace skiff {

Result<Tokenizer> read_gguf_tokenizer(const GgufMetadata& metadata);

// Adds the tokenizer.* keys. GGUF has one token for each of the `n_vocab` rows of the embedding: missing ones are added as unused.
Status add_gguf_tokenizer(const Tokenizer& tokenizer, std::int64_t n_vocab, GgufMetadata& metadata);

}  // namespace skiff
