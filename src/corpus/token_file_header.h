// The first 64 bytes of a token file (token_file.h has the picture).
#pragma once

#include <cstdint>
#include <string_view>

namespace skiff {

inline constexpr std::string_view token_file_magic = "SKIFFTOK";
inline constexpr std::uint32_t token_file_version = 1;

struct TokenFileHeader {
    TokenFileHeader() = default;
    TokenFileHeader(std::int64_t vocabulary_size, std::uint64_t vocabulary_hash);

    char magic[8] = {};
    std::uint32_t version = token_file_version;
    std::uint32_t bytes_per_token = 2;
    std::uint64_t n_tokens = 0;
    std::uint64_t n_documents = 0;
    std::uint64_t n_vocab = 0;
    std::uint64_t tokenizer_hash = 0;
    std::uint64_t reserved[2] = {};
};
static_assert(sizeof(TokenFileHeader) == 64);

}  // namespace skiff
