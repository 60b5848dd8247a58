// UTF-8 and the character classes, case and normal forms that tokenizers are defined by.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace skiff {

// One step of reading UTF-8. An invalid sequence gives U+FFFD with valid = false and the length of its maximal subpart
// (Unicode 15, section 3.9, "U+FFFD Substitution of Maximal Subparts"), so that every reader replaces the same bytes.
struct Utf8Step {
    char32_t code_point = 0xFFFD;
    int n_bytes = 1;
    bool valid = false;
};
Utf8Step decode_utf8(std::string_view text, std::size_t at);  // at < text.size()

void append_utf8(std::string& out, char32_t code_point);
bool is_valid_utf8(std::string_view text);
std::string make_valid_utf8(std::string_view text);  // invalid sequences become U+FFFD
// Bytes at the end that begin a character which more bytes may complete: 0 to 3.
std::size_t incomplete_utf8_tail(std::string_view text);
std::size_t utf8_length(std::string_view text);  // characters of valid text
// Byte length of the character that starts with this byte, in valid text.
inline int utf8_lead_length(unsigned char lead) { return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4; }

bool is_white_space(char32_t c);         // property White_Space
bool is_word_character(char32_t c);      // \w of UTS 18: alphabetic, mark, decimal number, connector punctuation, join control
bool is_punctuation(char32_t c);         // ASCII punctuation and symbols, and category P
bool is_numeric(char32_t c);             // categories Nd, Nl, No
bool is_mark(char32_t c);                // categories Mn, Mc, Me
bool is_nonspacing_mark(char32_t c);     // category Mn
bool is_control_or_format(char32_t c);   // categories Cc, Cf, Cs, Co
bool is_cjk_ideograph(char32_t c);       // the blocks that BERT spaces out
void append_lowercase(std::string& out, char32_t c);

enum class NormalForm { nfc, nfd, nfkc, nfkd };
// `text` must be valid UTF-8. Time is n log(run of marks), not the square of it.
std::string normalize_unicode(std::string_view text, NormalForm form);

// Byte offsets of the ends of the extended grapheme clusters (UAX 29).
std::vector<std::size_t> grapheme_ends(std::string_view text);

}  // namespace skiff
