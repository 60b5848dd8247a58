// A tokenizer as GGUF metadata keeps it (tokenizer.ggml.*): plain data between the file's reader or writer and the tokenizer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace skiff {

// Values of tokenizer.ggml.token_type.
enum class GgufTokenType : std::int32_t { undefined = 0, normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

struct VocabData {
    std::string kind;                       // tokenizer.ggml.model: "llama", "gpt2", "bert", "t5"
    std::string pre;                        // tokenizer.ggml.pre: "llama-bpe", "qwen2" ...; "" if absent
    std::vector<std::string> tokens;
    std::vector<float> scores;              // empty, or one per token
    std::vector<std::int32_t> token_types;  // empty, or one GgufTokenType per token
    std::vector<std::string> merges;        // "left right", best first
    // Ids as the file has them; -1 and 4294967295 mean none.
    std::optional<std::int64_t> bos_id, eos_id, eot_id, eom_id, unk_id, pad_id, cls_id, sep_id, mask_id;
    std::optional<bool> add_bos, add_eos, add_sep, add_space_prefix, remove_extra_whitespaces;
    std::string precompiled_charsmap;       // raw bytes; "" if absent
    std::string chat_template;              // tokenizer.chat_template; "" if absent
};

}  // namespace skiff
