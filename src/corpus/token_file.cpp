#include "corpus/token_file.h"

#include <bit>
#include <cstring>
#include <limits>

#include "base/hash.h"
#include "base/span_reader.h"
#include "corpus/token_file_header.h"

namespace skiff {

static_assert(std::endian::native == std::endian::little, "token files are read in place");

TokenFileHeader::TokenFileHeader(std::int64_t vocabulary_size, std::uint64_t vocabulary_hash)
    : bytes_per_token(vocabulary_size <= 0x10000 ? 2 : 4), n_vocab(static_cast<std::uint64_t>(vocabulary_size)), tokenizer_hash(vocabulary_hash) {
    std::memcpy(magic, token_file_magic.data(), sizeof magic);
}

Result<TokenFile> TokenFile::open(const std::string& path) {
    SKIFF_TRY(auto mapped, MappedFile::open(path));
    auto fail = [&](const std::string& what) { return corrupt(path + ": " + what); };
    SpanReader reader(mapped->bytes());
    auto read = reader.read<TokenFileHeader>("the header of a token file");
    if (!read.ok()) return fail("no token file: " + read.error().message);
    const TokenFileHeader& header = *read;
    if (std::memcmp(header.magic, token_file_magic.data(), sizeof header.magic) != 0) {
        return fail("no token file: it does not begin with " + std::string(token_file_magic) + "; texts are packed into one first");
    }
    if (header.version != token_file_version) {
        return Error{ErrorCode::unsupported,
                     path + ": token file of version " + std::to_string(header.version) + ", this program reads version " + std::to_string(token_file_version) +
                         "; pack the texts again", {}};
    }
    if (header.bytes_per_token != 2 && header.bytes_per_token != 4) return fail(std::to_string(header.bytes_per_token) + " bytes per token; 2 or 4 expected");
    const std::uint64_t largest = header.bytes_per_token == 2 ? 0x10000 : std::uint64_t{1} << 31;
    if (header.n_vocab < 1 || header.n_vocab > largest) {
        return fail("a vocabulary of " + std::to_string(header.n_vocab) + " with " + std::to_string(header.bytes_per_token) + " bytes per token; 1 to " +
                    std::to_string(largest) + " expected");
    }
    if (header.reserved[0] != 0 || header.reserved[1] != 0) return fail("bytes 48 to 63 are not zero, as they are in version 1");
    const std::uint64_t room = reader.remaining() / header.bytes_per_token;
    if (header.n_tokens != room || reader.remaining() % header.bytes_per_token != 0) {
        return fail("the header tells of " + std::to_string(header.n_tokens) + " tokens of " + std::to_string(header.bytes_per_token) + " bytes, but " +
                    std::to_string(reader.remaining()) + " bytes follow it; the file is cut short or not one of these");
    }
    if (header.n_documents > header.n_tokens) {
        return fail(std::to_string(header.n_documents) + " documents in " + std::to_string(header.n_tokens) + " tokens; each has at least one");
    }
    TokenFile file;
    file.file_ = std::move(mapped);
    file.bytes_per_token_ = header.bytes_per_token;
    file.n_tokens_ = header.n_tokens;
    file.n_documents_ = header.n_documents;
    file.n_vocab_ = static_cast<std::int64_t>(header.n_vocab);
    file.tokenizer_hash_ = header.tokenizer_hash;
    return file;
}

void TokenFile::read(std::uint64_t first, std::span<std::int32_t> target) const {
    const std::byte* source = file_->bytes().data() + sizeof(TokenFileHeader) + first * bytes_per_token_;
    if (bytes_per_token_ == 4) {
        std::memcpy(target.data(), source, target.size_bytes());
        return;
    }
    for (std::size_t i = 0; i < target.size(); ++i) {
        std::uint16_t id;
        std::memcpy(&id, source + 2 * i, 2);
        target[i] = id;
    }
}

Status TokenFile::check_tokens() const {
    std::vector<std::int32_t> part(std::size_t{1} << 16);
    for (std::uint64_t first = 0; first < n_tokens_; first += part.size()) {
        const std::uint64_t n = std::min<std::uint64_t>(part.size(), n_tokens_ - first);
        read(first, std::span(part).first(static_cast<std::size_t>(n)));
        for (std::size_t i = 0; i < n; ++i) {
            const std::uint32_t id = static_cast<std::uint32_t>(part[i]);
            if (id >= n_vocab_) {
                return corrupt(path() + ": token " + std::to_string(first + i) + " is " + std::to_string(id) + ", but the vocabulary has " +
                               std::to_string(n_vocab_) + "; pack the texts again");
            }
        }
    }
    return {};
}

std::uint64_t tokenizer_hash(const Tokenizer& tokenizer) {
    std::string texts;
    for (std::int32_t id = 0; id < tokenizer.n_vocab(); ++id) {
        const std::string text = tokenizer.token_text(id);
        const auto length = static_cast<std::uint32_t>(text.size());
        texts.append(reinterpret_cast<const char*>(&length), sizeof length);
        texts += text;
    }
    return hash64(std::as_bytes(std::span(texts)));
}

}  // namespace skiff
