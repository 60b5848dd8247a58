// From token texts back to text: a chain of functions over the list of token texts, as tokenizer.json describes it.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "text/pre_tokenizer.h"
#include "text/regex.h"

namespace skiff {

using TokenTexts = std::vector<std::string>;
using TokenDecoder = std::function<TokenTexts(TokenTexts)>;

// Bytes spelled by byte-level characters, over all tokens; a token with another character stands for its own bytes.
TokenDecoder byte_level_decoder();
// Runs of <0x..> become characters; a run that is not valid UTF-8 becomes U+FFFD for each of its bytes.
TokenDecoder byte_fallback_decoder();
TokenDecoder fuse_decoder();
TokenDecoder replace_decoder(std::string literal, std::string content);
TokenDecoder replace_decoder(Regex pattern, std::string content);
struct StripCount {
    std::size_t start = 0, stop = 0;  // at most so many at the two ends of every token
};
TokenDecoder strip_decoder(std::string character, StripCount count);
TokenDecoder metaspace_decoder(std::string replacement, PrependScheme prepend);
enum class Cleanup { none, english };  // english: " ." becomes ".", " n't" "n't", and so on
TokenDecoder wordpiece_decoder(std::string prefix, Cleanup cleanup);
TokenDecoder leading_space_decoder(std::string space);  // one space off every token for as long as no text has come
TokenDecoder suffix_decoder(std::string suffix);  // a word's end becomes a space, but for the last one

std::string clean_up_english(std::string text);

}  // namespace skiff
