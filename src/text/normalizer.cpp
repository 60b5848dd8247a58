#include "text/normalizer.h"

#include "text/byte_level.h"

namespace skiff {
namespace {

template <class OnCharacter>
std::string by_character(std::string_view text, OnCharacter on_character) {
    std::string out;
    out.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
        const Utf8Step step = decode_utf8(text, at);
        on_character(out, step.code_point);
        at += static_cast<std::size_t>(step.n_bytes);
    }
    return out;
}

void append_clean(std::string& out, char32_t c) {
    if (c == '\t' || c == '\n' || c == '\r') {
        out += ' ';
    } else if (c != 0 && c != 0xFFFD && !is_control_or_format(c)) {
        append_utf8(out, is_white_space(c) ? U' ' : c);
    }
}

void append_spaced_ideograph(std::string& out, char32_t c) {
    const bool ideograph = is_cjk_ideograph(c);
    if (ideograph) out += ' ';
    append_utf8(out, c);
    if (ideograph) out += ' ';
}

// The table of SentencePiece's "nmt" rules: control characters go, odd spaces become spaces.
void append_nmt(std::string& out, char32_t c) {
    const bool removed = (c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F;
    const bool space = c == 9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 || (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 ||
                       c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
    if (space) {
        out += ' ';
    } else if (!removed) {
        append_utf8(out, c);
    }
}

std::string_view strip_spaces(std::string_view text, StripSide side) {
    if (side == StripSide::left || side == StripSide::both) {
        while (!text.empty()) {
            const Utf8Step step = decode_utf8(text, 0);
            if (!is_white_space(step.code_point)) break;
            text.remove_prefix(static_cast<std::size_t>(step.n_bytes));
        }
    }
    if (side == StripSide::right || side == StripSide::both) {
        while (!text.empty()) {
            std::size_t at = text.size() - 1;
            while (at > 0 && (text[at] & 0xC0) == 0x80) --at;
            if (!is_white_space(decode_utf8(text, at).code_point)) break;
            text.remove_suffix(text.size() - at);
        }
    }
    return text;
}

}  // namespace

Result<std::string> normalize_text(std::span<const Normalizer> chain, std::string text) {
    // No real normalizer makes a text eighteen times as long (NFKD's worst); a chain of replacements from a hostile file could do anything.
    const std::size_t limit = 64 * text.size() + 65536;
    for (const Normalizer& step : chain) {
        SKIFF_TRY(text, step(std::move(text)));
        if (text.size() > limit) return resource_error("normalization makes the text more than 64 times as long");
    }
    return text;
}

std::string replace_all(std::string_view text, std::string_view literal, std::string_view content) {
    std::string out;
    out.reserve(text.size());
    std::size_t at = 0;
    while (!literal.empty()) {
        const std::size_t found = text.find(literal, at);
        if (found == std::string_view::npos) break;
        out += text.substr(at, found - at);
        out += content;
        at = found + literal.size();
    }
    out += text.substr(at);
    return out;
}

Normalizer unicode_normalizer(NormalForm form) {
    return [form](std::string text) -> Result<std::string> { return normalize_unicode(text, form); };
}

Normalizer lowercase_normalizer() {
    return [](std::string text) -> Result<std::string> { return by_character(text, append_lowercase); };
}

Normalizer strip_accents_normalizer() {
    return [](std::string text) -> Result<std::string> {
        return by_character(text, [](std::string& out, char32_t c) {
            if (!is_mark(c)) append_utf8(out, c);
        });
    };
}

Normalizer bert_normalizer(const BertNormalizerOptions& options) {
    return [options](std::string text) -> Result<std::string> {
        if (options.clean_text) text = by_character(text, append_clean);
        if (options.handle_chinese_chars) text = by_character(text, append_spaced_ideograph);
        if (options.strip_accents) {
            text = by_character(normalize_unicode(text, NormalForm::nfd), [](std::string& out, char32_t c) {
                if (!is_nonspacing_mark(c)) append_utf8(out, c);
            });
        }
        if (options.lowercase) text = by_character(text, append_lowercase);
        return text;
    };
}

Normalizer strip_normalizer(StripSide side) {
    return [side](std::string text) -> Result<std::string> { return std::string(strip_spaces(text, side)); };
}

Normalizer nmt_normalizer() {
    return [](std::string text) -> Result<std::string> { return by_character(text, append_nmt); };
}

Normalizer prepend_normalizer(std::string prefix) {
    return [prefix = std::move(prefix)](std::string text) -> Result<std::string> { return text.empty() ? text : prefix + text; };
}

Normalizer replace_normalizer(std::string literal, std::string content) {
    return [literal = std::move(literal), content = std::move(content)](std::string text) -> Result<std::string> {
        return replace_all(text, literal, content);
    };
}

Normalizer replace_normalizer(Regex pattern, std::string content) {
    return [pattern = std::move(pattern), content = std::move(content)](std::string text) -> Result<std::string> {
        std::string out;
        out.reserve(text.size());
        std::size_t copied = 0;
        SKIFF_CHECK(pattern.for_each_match(text, [&](std::size_t begin, std::size_t end) {
            out.append(text, copied, begin - copied);
            out += content;
            copied = end;
        }));
        out.append(text, copied);
        return out;
    };
}

Normalizer byte_level_normalizer() {
    return [](std::string text) -> Result<std::string> {
        std::string out;
        out.reserve(text.size() * 2);
        append_byte_level(out, text);
        return out;
    };
}

Normalizer charsmap_normalizer(std::shared_ptr<const Charsmap> map) {
    return [map = std::move(map)](std::string text) -> Result<std::string> { return apply_charsmap_by_grapheme(*map, text); };
}

}  // namespace skiff
