#include "text/pre_tokenizer.h"

#include <cstdint>
#include <vector>

#include "text/byte_level.h"
#include "text/normalizer.h"
#include "text/unicode.h"

namespace skiff {
namespace {

// A stretch of a piece, matched by the splitting pattern or between two matches.
struct Stretch {
    std::size_t begin, end;
    bool matched;
};

// Turns matches, told from left to right, into pieces by a behavior, holding one stretch back for the merging ones.
class Splitter {
public:
    Splitter(Piece piece, SplitOptions options, PieceSink sink) : piece_(piece), options_(options), sink_(sink) {}

    void match(std::size_t begin, std::size_t end) {
        if (begin > at_) add({at_, begin, false});
        add({begin, end, true});
        at_ = end;
    }
    Status finish() {
        if (at_ < piece_.text.size()) add({at_, piece_.text.size(), false});
        if (has_held_) emit(held_);
        return std::move(status_);
    }

private:
    void add(Stretch next) {
        if (!status_.ok() || next.begin == next.end) return;
        next.matched = next.matched != options_.invert;
        if (has_held_ && joins(next)) {
            held_ = {held_.begin, next.end, next.matched};
            return;
        }
        if (has_held_) emit(held_);
        held_ = next;
        has_held_ = true;
    }
    // held_.matched is that of the last stretch joined: two matches in a row never merge into one, but for `contiguous`.
    bool joins(const Stretch& next) const {
        switch (options_.behavior) {
            case SplitBehavior::merged_with_previous: return next.matched && !held_.matched;
            case SplitBehavior::merged_with_next: return !next.matched && held_.matched;
            case SplitBehavior::contiguous: return next.matched == held_.matched;
            default: return false;
        }
    }
    void emit(const Stretch& stretch) {
        if (!status_.ok() || (options_.behavior == SplitBehavior::removed && stretch.matched)) return;
        status_ = sink_({piece_.text.substr(stretch.begin, stretch.end - stretch.begin), piece_.at_text_start && stretch.begin == 0});
    }

    Piece piece_;
    SplitOptions options_;
    PieceSink sink_;
    std::size_t at_ = 0;
    Stretch held_{};
    bool has_held_ = false;
    Status status_;
};

bool is_word(char32_t c) { return is_word_character(c); }

Status split_words(Piece piece, PieceSink sink) {
    std::size_t begin = 0;
    int kind_before = -1;  // 0 space, 1 word, 2 other
    auto flush = [&](std::size_t end) -> Status {
        if (kind_before <= 0 || begin == end) return {};
        return sink({piece.text.substr(begin, end - begin), piece.at_text_start && begin == 0});
    };
    for (std::size_t at = 0; at < piece.text.size();) {
        const Utf8Step step = decode_utf8(piece.text, at);
        const int kind = is_word(step.code_point) ? 1 : is_white_space(step.code_point) ? 0 : 2;
        if (kind != kind_before) {
            SKIFF_CHECK(flush(at));
            begin = at;
            kind_before = kind;
        }
        at += static_cast<std::size_t>(step.n_bytes);
    }
    return flush(piece.text.size());
}

}  // namespace

Status pre_tokenize(std::span<const PreTokenizer> chain, Piece piece, PieceSink sink) {
    if (piece.text.empty()) return {};
    if (chain.empty()) return sink(piece);
    auto rest = [&](Piece part) -> Status { return pre_tokenize(chain.subspan(1), part, sink); };
    return chain.front()(piece, rest);
}

PreTokenizer split_by_regex(Regex pattern, SplitOptions options) {
    return [pattern = std::move(pattern), options](Piece piece, PieceSink sink) -> Status {
        Splitter splitter(piece, options, sink);
        SKIFF_CHECK(pattern.for_each_match(piece.text, [&](std::size_t begin, std::size_t end) { splitter.match(begin, end); }));
        return splitter.finish();
    };
}

PreTokenizer split_by_literal(std::string literal, SplitOptions options) {
    return [literal = std::move(literal), options](Piece piece, PieceSink sink) -> Status {
        Splitter splitter(piece, options, sink);
        for (std::size_t at = 0; !literal.empty();) {
            const std::size_t found = piece.text.find(literal, at);
            if (found == std::string_view::npos) break;
            at = found + literal.size();
            splitter.match(found, at);
        }
        return splitter.finish();
    };
}

PreTokenizer split_by_class(bool (*is_member)(char32_t), SplitOptions options) {
    return [is_member, options](Piece piece, PieceSink sink) -> Status {
        Splitter splitter(piece, options, sink);
        for (std::size_t at = 0; at < piece.text.size();) {
            const Utf8Step step = decode_utf8(piece.text, at);
            const std::size_t end = at + static_cast<std::size_t>(step.n_bytes);
            if (is_member(step.code_point)) splitter.match(at, end);
            at = end;
        }
        return splitter.finish();
    };
}

PreTokenizer whitespace_words() { return split_words; }

PreTokenizer metaspace(MetaspaceOptions options) {
    return [options = std::move(options)](Piece piece, PieceSink sink) -> Status {
        std::string text = replace_all(piece.text, " ", options.replacement);
        const bool wanted = options.prepend == PrependScheme::always || (options.prepend == PrependScheme::first && piece.at_text_start);
        if (wanted && !text.starts_with(options.replacement)) text.insert(0, options.replacement);
        const Piece marked{text, piece.at_text_start};
        if (!options.split) return sink(marked);
        Splitter splitter(marked, {SplitBehavior::merged_with_next, false}, sink);
        for (std::size_t at = 0; (at = text.find(options.replacement, at)) != std::string::npos; at += options.replacement.size()) {
            splitter.match(at, at + options.replacement.size());
        }
        return splitter.finish();
    };
}

PreTokenizer prepend_space() {
    return [](Piece piece, PieceSink sink) -> Status {
        if (piece.text.starts_with(' ')) return sink(piece);
        const std::string text = " " + std::string(piece.text);
        return sink({text, piece.at_text_start});
    };
}

PreTokenizer byte_level_spelling() {
    return [](Piece piece, PieceSink sink) -> Status {
        std::string text;
        text.reserve(piece.text.size() * 2);
        append_byte_level(text, piece.text);
        return sink({text, piece.at_text_start});
    };
}

Result<PreTokenizer> gpt2_split() {
    SKIFF_TRY(auto pattern, Regex::compile(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"));
    return split_by_regex(std::move(pattern), {SplitBehavior::isolated, false});
}

}  // namespace skiff
