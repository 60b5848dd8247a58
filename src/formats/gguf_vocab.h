// The tokenizer inside GGUF metadata (tokenizer.*), as plain data both ways.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "formats/gguf_value.h"

namespace skiff {

// Field for field what the tokenizer's VocabData holds.
struct GgufVocab {
    std::string kind;                       // tokenizer.ggml.model: "llama", "gpt2", "bert", "t5"
    std::string pre;                        // tokenizer.ggml.pre; "" if absent
    std::vector<std::string> tokens;
    std::vector<float> scores;              // empty, or one per token
    std::vector<std::int32_t> token_types;  // empty, or one per token, 0 to 6
    std::vector<std::string> merges;        // "left right", best first
    std::optional<std::int64_t> bos_id, eos_id, eot_id, eom_id, unk_id, pad_id, cls_id, sep_id, mask_id;  // below the number of tokens
    std::optional<bool> add_bos, add_eos, add_sep, add_space_prefix, remove_extra_whitespaces;
    std::string precompiled_charsmap;       // raw bytes; "" if absent
    std::string chat_template;              // "" if absent

    bool operator==(const GgufVocab&) const = default;
};

inline constexpr std::size_t max_chat_template_bytes = std::size_t{256} << 10;

// not_found when the file holds no tokenizer (no tokenizer.ggml.model or no tokens); corrupt when its parts do not fit together.
Result<GgufVocab> read_gguf_vocab(const GgufMetadata& metadata);

// Sets the keys, in the order that converters write them. The same checks as when reading.
Status write_gguf_vocab(const GgufVocab& vocab, GgufMetadata& metadata);

// Scores and types one per token, merges made of tokens, byte tokens spelled <0xA5>, ids below the number of tokens, template of at most 256 KiB.
Status check_gguf_vocab(const GgufVocab& vocab);

}  // namespace skiff
