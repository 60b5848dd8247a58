// Cuts long texts into parts that several threads may pre-tokenize, with the pieces that the whole text would give.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace skiff {

// Where `text` may be cut at or behind `from` and before `limit`; `limit` if nowhere. Two kinds of places are safe for the patterns of GPT-2,
// Llama 3 and Qwen 2, since no match goes across them and none depends on what lies on the other side:
//   letter | space   letters end a match there, and only the matches of the right part begin with a space;
//   newline | x      if the newline is the only white space between visible characters: then it ends a match, alone or behind punctuation.
//                    (In a longer run GPT-2's \s+(?!\S) leaves the last character to the next match, unless the text ends.)
std::size_t safe_cut(std::string_view text, std::size_t from, std::size_t limit);

// Parts of about `part_bytes`, cut at safe places or at separators, never within one.
class TextCutter {
public:
    TextCutter(std::string_view text, std::string_view separator, std::size_t part_bytes);
    std::optional<std::string_view> next();  // nothing at the end

private:
    void find_separator(std::size_t from);
    std::string_view text_, separator_;
    std::size_t part_bytes_, at_ = 0;
    std::size_t separator_at_ = 0;  // the first one that is not in a part yet; remembered, or a text without any would be searched at each part
};

// Parts of whole lines.
class LineCutter {
public:
    LineCutter(std::string_view text, std::size_t part_bytes) : text_(text), part_bytes_(part_bytes) {}
    std::optional<std::string_view> next();

private:
    std::string_view text_;
    std::size_t part_bytes_, at_ = 0;
};

}  // namespace skiff
