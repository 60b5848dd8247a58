#include "corpus/piece_cutter.h"

#include <algorithm>

#include "text/tokenizer_state.h"

namespace skiff {
namespace {

constexpr std::size_t context_bytes = 256;     // encoded on either side of a place: a few words, more than a pattern looks at
constexpr int max_tries = 64;                  // a tokenizer that refuses so many places refuses all
constexpr std::size_t nowhere = std::string_view::npos;

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }
bool continues_character(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// Byte-level BPE behind a pre-tokenizer that cuts at white space; without one, merges may go across any place.
bool works_on_words(const TokenizerState& state) {
    if (state.bytes_of_token != BytesOfToken::byte_level || state.unigram || state.wordpiece) return false;
    int n_words = 0;
    const Status status = pre_tokenize(state.pre_tokenizers, Piece{"a\nb", true}, [&](Piece) -> Status {
        ++n_words;
        return {};
    });
    return status.ok() && n_words > 1;
}

// A place at most context_bytes before or behind `at`, not within a character.
std::size_t context_begin(std::string_view text, std::size_t at) {
    std::size_t begin = at - std::min(at, context_bytes);
    while (begin < at && continues_character(text[begin])) ++begin;
    return begin;
}
std::size_t context_end(std::string_view text, std::size_t at) {
    std::size_t end = std::min(text.size(), at + context_bytes);
    while (end > at && end < text.size() && continues_character(text[end])) --end;
    return end;
}

}  // namespace

PieceCutter::PieceCutter(Tokenizer tokenizer, std::size_t piece_bytes)
    : tokenizer_(std::move(tokenizer)), piece_bytes_(piece_bytes), may_cut_(works_on_words(tokenizer_.state())) {}

std::size_t PieceCutter::end_of_piece(std::string_view text) const {
    if (!may_cut_ || text.size() <= piece_bytes_ + piece_bytes_ / 2) return text.size();
    const std::size_t limit = std::min(text.size(), piece_bytes_ * 4);
    std::size_t at = cut_among(text, piece_bytes_, limit, true);
    if (at == nowhere) at = cut_among(text, piece_bytes_, text.size(), false);
    return at == nowhere ? text.size() : at;
}

std::size_t PieceCutter::cut_among(std::string_view text, std::size_t from, std::size_t limit, bool blank_lines) const {
    int tries = 0;
    for (std::size_t i = from; i < limit && tries < max_tries;) {
        if (!is_space(text[i])) {
            ++i;
            continue;
        }
        std::size_t end = i, n_newlines = 0;
        while (end < text.size() && is_space(text[end])) n_newlines += text[end++] == '\n';
        // A run of white space that fills the context shows nothing of what stands at its other end.
        if (end < text.size() && end - i < context_bytes / 4 && i > from && (!blank_lines || n_newlines >= 2)) {
            ++tries;
            if (const std::size_t at = cut_in_run(text, i, end); at != nowhere) return at;
        }
        i = end + 1;
    }
    return nowhere;
}

// A run of white space, text[begin, end), with something visible on both sides.
std::size_t PieceCutter::cut_in_run(std::string_view text, std::size_t begin, std::size_t end) const {
    const std::size_t newline = text.substr(0, end).rfind('\n');
    const std::size_t behind_newlines = newline == nowhere || newline < begin ? begin : newline + 1;
    for (std::size_t at : {behind_newlines, end - 1, begin}) {
        if (same_tokens(text, at)) return at;
    }
    return nowhere;
}

bool PieceCutter::same_tokens(std::string_view text, std::size_t at) const {
    const std::size_t begin = context_begin(text, at), end = context_end(text, at);
    const auto whole = tokenizer_.encode(text.substr(begin, end - begin), corpus_encoding);
    const auto left = tokenizer_.encode(text.substr(begin, at - begin), corpus_encoding), right = tokenizer_.encode(text.substr(at, end - at), corpus_encoding);
    if (!whole.ok() || !left.ok() || !right.ok()) return false;  // encoding the piece will tell the error
    return whole->size() == left->size() + right->size() && std::equal(left->begin(), left->end(), whole->begin()) &&
           std::equal(right->begin(), right->end(), whole->end() - static_cast<std::ptrdiff_t>(right->size()));
}

}  // namespace skiff
