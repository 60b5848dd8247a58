// Cuts long documents into pieces whose tokens, put together, are those of the whole.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace skiff {

// A byte-level BPE works on the words that a pre-tokenizer cuts, so a text may be cut between two words if neither's pattern looks across. Which places those
// are depends on the pattern (GPT-2's takes "\n\n" as one word at the end of a text, as two before a letter; Llama 3's as one everywhere),
// so a place is not taken on a rule's word: the text about it is encoded whole and in two, and the place is taken if the tokens are the same. Blank
// lines are tried first, then, in texts that have none, any white space.
// Other tokenizers merge across words or put a space before the text: they are never cut.
class PieceCutter {
public:
    PieceCutter(Tokenizer tokenizer, std::size_t piece_bytes);
    // Where the first piece of a text ends: about piece_bytes, or the size of the text.
    std::size_t end_of_piece(std::string_view text) const;

private:
    std::size_t cut_among(std::string_view text, std::size_t from, std::size_t limit, bool blank_lines) const;
    std::size_t cut_in_run(std::string_view text, std::size_t begin, std::size_t end) const;
    bool same_tokens(std::string_view text, std::size_t at) const;

    Tokenizer tokenizer_;
    std::size_t piece_bytes_;
    bool may_cut_;
};

// What every encoding for a token file uses: no begin and end tokens, control tokens in the text are text.
inline constexpr EncodeOptions corpus_encoding{.add_special = false, .parse_special = false};

}  // namespace skiff
