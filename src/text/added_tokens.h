// Tokens that are found in a text before anything else is done to it: control tokens, and words added to a vocabulary later.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/byte_trie.h"
#include "text/function_ref.h"

namespace skiff {

struct AddedToken {
    std::string text;
    std::int32_t id = 0;
    bool special = false;      // a control token: found only where the caller allows it, and left out of decoded text on request
    bool normalized = false;   // looked for in the normalized text, by its own normalized form
    bool single_word = false;  // only where no word character touches it
    bool lstrip = false;       // takes the white space before it
    bool rstrip = false;       // takes the white space after it
};

// Finds a set of added tokens in a text: leftmost first, the longest of those.
class AddedTokenFinder {
public:
    // `pattern` is what to look for: the token's text or its normalized form.
    void add(const AddedToken& token, std::string_view pattern);
    bool empty() const { return trie_.empty(); }

    enum class Specials { find, ignore };
    // Calls on_part(text, token) from left to right, token nullptr for what lies between tokens.
    void split(std::string_view text, Specials specials, FunctionRef<void(std::string_view, const AddedToken*)> on_part) const;

private:
    bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) const;
    ByteTrie trie_;
    std::vector<AddedToken> tokens_;
};

}  // namespace skiff
