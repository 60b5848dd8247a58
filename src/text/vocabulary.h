// Tokens by id and ids by token. Ids may have holes.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"

namespace skiff {

inline constexpr std::size_t max_vocabulary_size = std::size_t{1} << 23;
inline constexpr std::size_t max_token_bytes = 4096;

class Vocabulary {
public:
    Vocabulary() = default;
    Vocabulary(const Vocabulary&) = delete;
    Vocabulary& operator=(const Vocabulary&) = delete;
    Vocabulary(Vocabulary&&) = default;
    Vocabulary& operator=(Vocabulary&&) = default;

    // The first token with a text keeps the text; a second token on one id, or a token or id beyond the limits, is an error.
    Status add(std::string text, std::int64_t id);
    // Tokens at 0 .. n-1.
    static Result<Vocabulary> from_list(std::vector<std::string> tokens);

    std::int32_t size() const { return static_cast<std::int32_t>(texts_.size()); }
    bool has(std::int32_t id) const { return id >= 0 && id < size() && present_[static_cast<std::size_t>(id)]; }
    const std::string& text(std::int32_t id) const { return *texts_[static_cast<std::size_t>(id)]; }  // has(id)
    std::optional<std::int32_t> find(std::string_view text) const {
        auto found = ids_.find(text);
        if (found == ids_.end()) return std::nullopt;
        return found->second;
    }

private:
    std::vector<std::unique_ptr<std::string>> texts_;  // the map's keys point at them
    std::vector<bool> present_;
    std::unordered_map<std::string_view, std::int32_t> ids_;
    std::size_t n_tokens_ = 0;
};

// The byte that "<0xA5>" stands for; strict: two upper-case hexadecimal digits.
std::optional<unsigned char> parse_byte_token(std::string_view token);
std::string byte_token(unsigned char byte);

// Ids of the 256 byte tokens, -1 where one is absent.
std::array<std::int32_t, 256> byte_token_ids(const Vocabulary& vocabulary);

}  // namespace skiff
