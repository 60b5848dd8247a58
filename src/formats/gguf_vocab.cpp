#include "formats/gguf_vocab.h"

#include <string_view>
#include <unordered_set>

namespace skiff {
namespace {

constexpr std::int32_t byte_type = 6, highest_type = 6;
constexpr std::int64_t no_id = 0xffffffff;  // what some converters write for "none"

struct IdKey {
    std::string_view key;
    std::optional<std::int64_t> GgufVocab::*field;
};
constexpr IdKey id_keys[] = {
    {"tokenizer.ggml.bos_token_id", &GgufVocab::bos_id},
    {"tokenizer.ggml.eos_token_id", &GgufVocab::eos_id},
    {"tokenizer.ggml.eot_token_id", &GgufVocab::eot_id},
    {"tokenizer.ggml.eom_token_id", &GgufVocab::eom_id},
    {"tokenizer.ggml.unknown_token_id", &GgufVocab::unk_id},
    {"tokenizer.ggml.padding_token_id", &GgufVocab::pad_id},
    {"tokenizer.ggml.cls_token_id", &GgufVocab::cls_id},
    {"tokenizer.ggml.seperator_token_id", &GgufVocab::sep_id},  // the format's own spelling
    {"tokenizer.ggml.mask_token_id", &GgufVocab::mask_id},
};

struct FlagKey {
    std::string_view key;
    std::optional<bool> GgufVocab::*field;
};
constexpr FlagKey flag_keys[] = {
    {"tokenizer.ggml.add_bos_token", &GgufVocab::add_bos},
    {"tokenizer.ggml.add_eos_token", &GgufVocab::add_eos},
    {"tokenizer.ggml.add_sep_token", &GgufVocab::add_sep},
    {"tokenizer.ggml.add_space_prefix", &GgufVocab::add_space_prefix},
    {"tokenizer.ggml.remove_extra_whitespaces", &GgufVocab::remove_extra_whitespaces},
};

std::vector<std::string> copy_strings(const GgufStrings& strings) {
    std::vector<std::string> copy;
    copy.reserve(strings.size());
    for (std::size_t i = 0; i < strings.size(); ++i) copy.emplace_back(strings[i]);
    return copy;
}

GgufStrings pack_strings(const std::vector<std::string>& strings) {
    GgufStrings packed;
    packed.reserve(strings.size());
    for (const std::string& text : strings) packed.push_back(text);
    return packed;
}

Status read_lists(const GgufMetadata& metadata, GgufVocab& vocab) {
    if (metadata.contains("tokenizer.ggml.scores")) {
        SKIFF_TRY(vocab.scores, metadata.floats("tokenizer.ggml.scores"));
    }
    if (metadata.contains("tokenizer.ggml.token_type")) {
        SKIFF_TRY(const auto types, metadata.integers("tokenizer.ggml.token_type"));
        vocab.token_types.reserve(types.size());
        for (std::int64_t type : types) vocab.token_types.push_back(type < 0 || type > highest_type ? -1 : static_cast<std::int32_t>(type));
    }
    if (metadata.contains("tokenizer.ggml.merges")) {
        SKIFF_TRY(const auto merges, metadata.strings("tokenizer.ggml.merges"));
        vocab.merges = copy_strings(*merges);
    }
    if (metadata.contains("tokenizer.ggml.precompiled_charsmap")) {
        SKIFF_TRY(const auto bytes, metadata.bytes("tokenizer.ggml.precompiled_charsmap"));
        vocab.precompiled_charsmap.assign(bytes.begin(), bytes.end());
    }
    return {};
}

bool is_byte_token(std::string_view token) {
    auto is_digit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F'); };
    return token.size() == 6 && token.starts_with("<0x") && token[5] == '>' && is_digit(token[3]) && is_digit(token[4]);
}

Status check_length(std::string_view what, std::size_t found, std::size_t n_tokens) {
    if (found == 0 || found == n_tokens) return {};
    return corrupt("GGUF tokenizer: " + std::to_string(found) + " " + std::string(what) + " for " + std::to_string(n_tokens) + " tokens");
}

Status check_types(const GgufVocab& vocab) {
    for (std::size_t i = 0; i < vocab.token_types.size(); ++i) {
        const std::int32_t type = vocab.token_types[i];
        if (type < 0 || type > highest_type) return corrupt("GGUF tokenizer: token " + std::to_string(i) + " has an unknown type, expected 0 to 6");
        if (type == byte_type && !is_byte_token(vocab.tokens[i]))
            return corrupt("GGUF tokenizer: token " + std::to_string(i) + " is of the byte type but not spelled like <0xA5>");
    }
    return {};
}

Status check_merges(const GgufVocab& vocab) {
    if (vocab.merges.empty()) return {};
    const std::unordered_set<std::string_view> tokens(vocab.tokens.begin(), vocab.tokens.end());
    for (std::size_t i = 0; i < vocab.merges.size(); ++i) {
        const std::string_view merge = vocab.merges[i];
        const std::size_t space = merge.find(' ', 1);  // a piece may itself begin with a space
        if (space == std::string_view::npos || !tokens.contains(merge.substr(0, space)) || !tokens.contains(merge.substr(space + 1)))
            return corrupt("GGUF tokenizer: merge " + std::to_string(i) + " does not join two tokens of the vocabulary");
    }
    return {};
}

}  // namespace

Status check_gguf_vocab(const GgufVocab& vocab) {
    SKIFF_CHECK(check_length("scores", vocab.scores.size(), vocab.tokens.size()));
    SKIFF_CHECK(check_length("token types", vocab.token_types.size(), vocab.tokens.size()));
    SKIFF_CHECK(check_types(vocab));
    SKIFF_CHECK(check_merges(vocab));
    for (const IdKey& id : id_keys) {
        const auto& value = vocab.*id.field;
        if (value && (*value < 0 || *value >= static_cast<std::int64_t>(vocab.tokens.size())))
            return corrupt("GGUF tokenizer: " + std::string(id.key) + " is " + std::to_string(*value) + ", there are " +
                           std::to_string(vocab.tokens.size()) + " tokens");
    }
    if (vocab.chat_template.size() > max_chat_template_bytes)
        return corrupt("GGUF tokenizer: the chat template has " + std::to_string(vocab.chat_template.size()) + " bytes, at most " +
                       std::to_string(max_chat_template_bytes) + " are allowed");
    return {};
}

Result<GgufVocab> read_gguf_vocab(const GgufMetadata& metadata) {
    GgufVocab vocab;
    SKIFF_TRY(vocab.kind, metadata.text("tokenizer.ggml.model"));
    SKIFF_TRY(vocab.pre, metadata.text_or("tokenizer.ggml.pre", ""));
    SKIFF_TRY(const auto tokens, metadata.strings("tokenizer.ggml.tokens"));
    vocab.tokens = copy_strings(*tokens);
    SKIFF_CHECK(read_lists(metadata, vocab));
    for (const IdKey& id : id_keys) {
        SKIFF_TRY(const auto value, metadata.integer_or(id.key, no_id));
        if (value != no_id && value != -1) vocab.*id.field = value;
    }
    for (const FlagKey& flag : flag_keys) {
        if (!metadata.contains(flag.key)) continue;
        SKIFF_TRY(vocab.*flag.field, metadata.boolean(flag.key));
    }
    SKIFF_TRY(vocab.chat_template, metadata.text_or("tokenizer.chat_template", ""));
    SKIFF_CHECK(check_gguf_vocab(vocab));
    return vocab;
}

Status write_gguf_vocab(const GgufVocab& vocab, GgufMetadata& metadata) {
    SKIFF_CHECK(check_gguf_vocab(vocab));
    metadata.set("tokenizer.ggml.model", vocab.kind);
    if (!vocab.pre.empty()) metadata.set("tokenizer.ggml.pre", vocab.pre);
    metadata.set("tokenizer.ggml.tokens", GgufArray(pack_strings(vocab.tokens)));
    if (!vocab.scores.empty()) metadata.set("tokenizer.ggml.scores", GgufArray(vocab.scores));
    if (!vocab.token_types.empty()) metadata.set("tokenizer.ggml.token_type", GgufArray(vocab.token_types));
    if (!vocab.merges.empty()) metadata.set("tokenizer.ggml.merges", GgufArray(pack_strings(vocab.merges)));
    for (const IdKey& id : id_keys) {
        if (vocab.*id.field) metadata.set(std::string(id.key), static_cast<std::uint32_t>(*(vocab.*id.field)));
    }
    for (const FlagKey& flag : flag_keys) {
        if (vocab.*flag.field) metadata.set(std::string(flag.key), *(vocab.*flag.field));
    }
    const std::vector<std::uint8_t> charsmap(vocab.precompiled_charsmap.begin(), vocab.precompiled_charsmap.end());
    if (!charsmap.empty()) metadata.set("tokenizer.ggml.precompiled_charsmap", GgufArray(charsmap));
    if (!vocab.chat_template.empty()) metadata.set("tokenizer.chat_template", vocab.chat_template);
    return {};
}

}  // namespace skiff
