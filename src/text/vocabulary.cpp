#include "text/vocabulary.h"

namespace skiff {

Status Vocabulary::add(std::string text, std::int64_t id) {
    if (text.size() > max_token_bytes) {
        return resource_error("token " + std::to_string(id) + " has " + std::to_string(text.size()) + " bytes; at most " +
                              std::to_string(max_token_bytes));
    }
    if (id < 0 || static_cast<std::size_t>(id) >= max_vocabulary_size) {
        return corrupt("token \"" + text.substr(0, 80) + "\" has id " + std::to_string(id) + "; ids go from 0 to " +
                       std::to_string(max_vocabulary_size - 1));
    }
    const auto at = static_cast<std::size_t>(id);
    if (at >= texts_.size()) {
        // Room for holes, but a lone huge id shall not cost memory that the file did not pay for.
        if (at > 4 * n_tokens_ + (1u << 18)) return corrupt("token id " + std::to_string(id) + " after only " + std::to_string(n_tokens_) + " tokens");
        texts_.resize(at + 1);
        present_.resize(at + 1);
    }
    if (present_[at]) {
        if (*texts_[at] == text) return {};
        return corrupt("id " + std::to_string(id) + " belongs to \"" + texts_[at]->substr(0, 80) + "\" and to \"" + text.substr(0, 80) + "\"");
    }
    texts_[at] = std::make_unique<std::string>(std::move(text));
    present_[at] = true;
    ids_.emplace(*texts_[at], static_cast<std::int32_t>(id));
    ++n_tokens_;
    return {};
}

Result<Vocabulary> Vocabulary::from_list(std::vector<std::string> tokens) {
    Vocabulary vocabulary;
    vocabulary.texts_.reserve(tokens.size());
    vocabulary.ids_.reserve(tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i) SKIFF_CHECK(vocabulary.add(std::move(tokens[i]), static_cast<std::int64_t>(i)));
    return vocabulary;
}

std::optional<unsigned char> parse_byte_token(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
    int value = 0;
    for (char c : token.substr(3, 2)) {
        const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0) return std::nullopt;
        value = value * 16 + digit;
    }
    return static_cast<unsigned char>(value);
}

std::string byte_token(unsigned char byte) {
    static constexpr char digits[] = "0123456789ABCDEF";
    return {'<', '0', 'x', digits[byte >> 4], digits[byte & 15], '>'};
}

std::array<std::int32_t, 256> byte_token_ids(const Vocabulary& vocabulary) {
    std::array<std::int32_t, 256> ids;
    for (int byte = 0; byte < 256; ++byte) {
        ids[static_cast<std::size_t>(byte)] = vocabulary.find(byte_token(static_cast<unsigned char>(byte))).value_or(-1);
    }
    return ids;
}

}  // namespace skiff
