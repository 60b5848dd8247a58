#include "text/added_tokens.h"

#include "text/unicode.h"

namespace skiff {
namespace {

std::size_t character_before(std::string_view text, std::size_t at) {
    std::size_t begin = at - 1;
    while (begin > 0 && (text[begin] & 0xC0) == 0x80) --begin;
    return begin;
}

}  // namespace

void AddedTokenFinder::add(const AddedToken& token, std::string_view pattern) {
    trie_.insert(pattern, static_cast<std::uint32_t>(tokens_.size()));
    tokens_.push_back(token);
}

bool AddedTokenFinder::stands_alone(std::string_view text, std::size_t begin, std::size_t end) const {
    if (begin > 0 && is_word_character(decode_utf8(text, character_before(text, begin)).code_point)) return false;
    return end == text.size() || !is_word_character(decode_utf8(text, end).code_point);
}

void AddedTokenFinder::split(std::string_view text, Specials specials, FunctionRef<void(std::string_view, const AddedToken*)> on_part) const {
    std::size_t done = 0;
    for (std::size_t at = 0; at < text.size() && !trie_.empty();) {
        const auto match = trie_.may_start(text[at]) ? trie_.longest(text.substr(at)) : ByteTrie::Match{};
        if (match.n_bytes == 0) {
            ++at;
            continue;
        }
        const AddedToken& token = tokens_[match.value];
        std::size_t begin = at, end = at + match.n_bytes;
        at = end;
        if (begin < done) continue;  // swallowed by the white space of the token before
        if (token.special && specials == Specials::ignore) continue;
        if (token.single_word && !stands_alone(text, begin, end)) continue;
        while (token.lstrip && begin > done) {
            const std::size_t before = character_before(text, begin);
            if (!is_white_space(decode_utf8(text, before).code_point)) break;
            begin = before;
        }
        while (token.rstrip && end < text.size()) {
            const Utf8Step step = decode_utf8(text, end);
            if (!is_white_space(step.code_point)) break;
            end += static_cast<std::size_t>(step.n_bytes);
        }
        if (begin > done) on_part(text.substr(done, begin - done), nullptr);
        on_part(text.substr(begin, end - begin), &token);
        done = end;
    }
    if (done < text.size()) on_part(text.substr(done), nullptr);
}

}  // namespace skiff
