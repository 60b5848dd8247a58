#include "text/sentencepiece_normalizer.h"

#include "text/unicode.h"

namespace skiff {
namespace {

struct Rewritten {
    std::string_view text;
    std::size_t n_bytes;  // of the source
};

Rewritten rewrite_prefix(const SentencePieceNormalizerOptions& options, std::string_view text) {
    if (options.user_defined) {
        const auto match = options.user_defined->longest(text);
        if (match.n_bytes > 0) return {text.substr(0, match.n_bytes), match.n_bytes};
    }
    if (options.charsmap) {
        const auto match = options.charsmap->match(text, Charsmap::Prefer::longest);
        if (match.n_bytes > 0) return {match.replacement, match.n_bytes};
    }
    const auto n_bytes = static_cast<std::size_t>(utf8_lead_length(static_cast<unsigned char>(text[0])));
    return {text.substr(0, n_bytes), n_bytes};
}

std::string normalize(const SentencePieceNormalizerOptions& options, std::string_view text) {
    const std::string_view space = options.escape_whitespaces ? "\xE2\x96\x81" : " ";
    if (options.remove_extra_whitespaces) {
        while (!text.empty()) {
            const Rewritten first = rewrite_prefix(options, text);
            if (first.text != " ") break;
            text.remove_prefix(first.n_bytes);
        }
    }
    if (text.empty()) return "";
    std::string out;
    out.reserve(text.size() * 2);
    if (options.add_dummy_prefix && !options.space_as_suffix) out += space;
    bool after_space = options.remove_extra_whitespaces;
    while (!text.empty()) {
        Rewritten next = rewrite_prefix(options, text);
        text.remove_prefix(next.n_bytes);
        while (after_space && next.text.starts_with(' ')) next.text.remove_prefix(1);
        for (char c : next.text) {
            if (c == ' ') {
                out += space;
            } else {
                out += c;
            }
        }
        if (!next.text.empty()) after_space = options.remove_extra_whitespaces && next.text.ends_with(' ');
    }
    if (options.remove_extra_whitespaces) {
        while (out.ends_with(space)) out.resize(out.size() - space.size());
    }
    if (options.add_dummy_prefix && options.space_as_suffix) out += space;
    return out;
}

}  // namespace

Normalizer sentencepiece_normalizer(SentencePieceNormalizerOptions options) {
    return [options = std::move(options)](std::string text) -> Result<std::string> { return normalize(options, text); };
}

}  // namespace skiff
