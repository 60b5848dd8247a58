// How a normalized text is cut into the pieces that the model then works on: a chain of cutters.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "text/function_ref.h"
#include "text/regex.h"

namespace skiff {

struct Piece {
    std::string_view text;
    bool at_text_start = false;  // nothing of the caller's text stands before it
};
using PieceSink = FunctionRef<Status(Piece)>;
// Gives the parts of a piece to the sink, from left to right; a part may live only during the call. Empty parts are dropped.
using PreTokenizer = std::function<Status(Piece, PieceSink)>;

Status pre_tokenize(std::span<const PreTokenizer> chain, Piece piece, PieceSink sink);

// What becomes of the matches of a splitting pattern.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };
struct SplitOptions {
    SplitBehavior behavior = SplitBehavior::isolated;
    bool invert = false;  // the pattern describes the pieces, not what stands between them
};
// Whether the first piece of a text gets the space marker that the others have.
enum class PrependScheme { always, first, never };

PreTokenizer split_by_regex(Regex pattern, SplitOptions options);
PreTokenizer split_by_literal(std::string literal, SplitOptions options);
PreTokenizer split_by_class(bool (*is_member)(char32_t), SplitOptions options);  // every member is one match
PreTokenizer whitespace_words();                                                  // runs of \w, runs of the other visible characters
struct MetaspaceOptions {
    std::string replacement = "\xE2\x96\x81";
    PrependScheme prepend = PrependScheme::always;
    bool split = true;
};
PreTokenizer metaspace(MetaspaceOptions options);
PreTokenizer prepend_space();     // unless the piece starts with one
PreTokenizer byte_level_spelling();
Result<PreTokenizer> gpt2_split();

}  // namespace skiff
