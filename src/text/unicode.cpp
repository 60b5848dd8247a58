// The only file that includes utf8proc.
#include "text/unicode.h"

#include <algorithm>
#include <utf8proc.h>

namespace skiff {
namespace {

int category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }
bool in(char32_t c, char32_t low, char32_t high) { return c >= low && c <= high; }

// Canonical ordering: a stable sort of every run of characters with a combining class by that class.
void sort_marks(std::vector<utf8proc_int32_t>& points) {
    auto combining_class = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
    for (std::size_t begin = 0; begin < points.size();) {
        if (points[begin] < 0x300 || combining_class(points[begin]) == 0) {
            ++begin;
            continue;
        }
        std::size_t end = begin + 1;
        while (end < points.size() && combining_class(points[end]) != 0) ++end;
        std::stable_sort(points.begin() + static_cast<std::ptrdiff_t>(begin), points.begin() + static_cast<std::ptrdiff_t>(end),
                         [&](auto a, auto b) { return combining_class(a) < combining_class(b); });
        begin = end;
    }
}

}  // namespace

Utf8Step decode_utf8(std::string_view text, std::size_t at) {
    auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char lead = byte(at);
    if (lead < 0x80) return {lead, 1, true};
    if (lead < 0xC2 || lead > 0xF4) return {};
    const int length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    // The second byte's range excludes overlong forms, surrogates and values above U+10FFFF.
    unsigned char low = 0x80, high = 0xBF;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
    char32_t value = lead & (0xFF >> (length + 1));
    for (int i = 1; i < length; ++i) {
        if (at + static_cast<std::size_t>(i) >= text.size()) return {0xFFFD, i, false};
        const unsigned char next = byte(at + static_cast<std::size_t>(i));
        if (next < low || next > high) return {0xFFFD, i, false};
        value = (value << 6) | (next & 0x3F);
        low = 0x80, high = 0xBF;
    }
    return {value, length, true};
}

void append_utf8(std::string& out, char32_t c) {
    if (c < 0x80) {
        out += static_cast<char>(c);
    } else if (c < 0x800) {
        out += static_cast<char>(0xC0 | (c >> 6));
        out += static_cast<char>(0x80 | (c & 0x3F));
    } else if (c < 0x10000) {
        out += static_cast<char>(0xE0 | (c >> 12));
        out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
        out += static_cast<char>(0x80 | (c & 0x3F));
    } else {
        out += static_cast<char>(0xF0 | (c >> 18));
        out += static_cast<char>(0x80 | ((c >> 12) & 0x3F));
        out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
        out += static_cast<char>(0x80 | (c & 0x3F));
    }
}

bool is_valid_utf8(std::string_view text) {
    for (std::size_t at = 0; at < text.size();) {
        if (static_cast<unsigned char>(text[at]) < 0x80) {
            ++at;
            continue;
        }
        const Utf8Step step = decode_utf8(text, at);
        if (!step.valid) return false;
        at += static_cast<std::size_t>(step.n_bytes);
    }
    return true;
}

std::string make_valid_utf8(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
        const Utf8Step step = decode_utf8(text, at);
        if (step.valid) {
            out.append(text.substr(at, static_cast<std::size_t>(step.n_bytes)));
        } else {
            append_utf8(out, 0xFFFD);
        }
        at += static_cast<std::size_t>(step.n_bytes);
    }
    return out;
}

std::size_t incomplete_utf8_tail(std::string_view text) {
    for (std::size_t n = 1; n <= 3 && n <= text.size(); ++n) {
        const auto byte = static_cast<unsigned char>(text[text.size() - n]);
        if (byte < 0x80) return 0;
        if (byte < 0xC0) continue;
        const Utf8Step step = decode_utf8(text, text.size() - n);
        return !step.valid && byte >= 0xC2 && byte <= 0xF4 && static_cast<std::size_t>(step.n_bytes) == n ? n : 0;
    }
    return 0;
}

std::size_t utf8_length(std::string_view text) {
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

bool is_white_space(char32_t c) {
    return in(c, 9, 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || in(c, 0x2000, 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_word_character(char32_t c) {
    if (c < 0x80) return in(c, 'a', 'z') || in(c, 'A', 'Z') || in(c, '0', '9') || c == '_';
    switch (category(c)) {
        case UTF8PROC_CATEGORY_LU:
        case UTF8PROC_CATEGORY_LL:
        case UTF8PROC_CATEGORY_LT:
        case UTF8PROC_CATEGORY_LM:
        case UTF8PROC_CATEGORY_LO:
        case UTF8PROC_CATEGORY_MN:
        case UTF8PROC_CATEGORY_MC:
        case UTF8PROC_CATEGORY_ME:
        case UTF8PROC_CATEGORY_ND:
        case UTF8PROC_CATEGORY_NL:
        case UTF8PROC_CATEGORY_PC: return true;
        default: break;
    }
    // Other_Alphabetic symbols (circled and squared letters) and Join_Control.
    return in(c, 0x24B6, 0x24E9) || in(c, 0x1F130, 0x1F149) || in(c, 0x1F150, 0x1F169) || in(c, 0x1F170, 0x1F189) || c == 0x200C || c == 0x200D;
}

bool is_punctuation(char32_t c) {
    if (c < 0x80) return in(c, 33, 47) || in(c, 58, 64) || in(c, 91, 96) || in(c, 123, 126);
    return category(c) >= UTF8PROC_CATEGORY_PC && category(c) <= UTF8PROC_CATEGORY_PO;
}

bool is_numeric(char32_t c) {
    if (c < 0x80) return in(c, '0', '9');
    return category(c) >= UTF8PROC_CATEGORY_ND && category(c) <= UTF8PROC_CATEGORY_NO;
}

bool is_mark(char32_t c) { return c >= 0x300 && category(c) >= UTF8PROC_CATEGORY_MN && category(c) <= UTF8PROC_CATEGORY_ME; }
bool is_nonspacing_mark(char32_t c) { return c >= 0x300 && category(c) == UTF8PROC_CATEGORY_MN; }
bool is_control_or_format(char32_t c) { return category(c) >= UTF8PROC_CATEGORY_CC && category(c) <= UTF8PROC_CATEGORY_CO; }

bool is_cjk_ideograph(char32_t c) {
    return in(c, 0x4E00, 0x9FFF) || in(c, 0x3400, 0x4DBF) || in(c, 0x20000, 0x2A6DF) || in(c, 0x2A700, 0x2B73F) || in(c, 0x2B740, 0x2B81F) ||
           in(c, 0x2B820, 0x2CEAF) || in(c, 0xF900, 0xFAFF) || in(c, 0x2F800, 0x2FA1F);
}

void append_lowercase(std::string& out, char32_t c) {
    if (c == 0x130) {  // the one character whose lower case is two, whatever stands around it
        out += "i\xCC\x87";
        return;
    }
    append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
}

std::string normalize_unicode(std::string_view text, NormalForm form) {
    const bool compatible = form == NormalForm::nfkc || form == NormalForm::nfkd;
    const bool compose = form == NormalForm::nfc || form == NormalForm::nfkc;
    if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; })) return std::string(text);

    const int decompose = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0);
    std::vector<utf8proc_int32_t> points;
    points.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
        const Utf8Step step = decode_utf8(text, at);
        at += static_cast<std::size_t>(step.n_bytes);
        utf8proc_int32_t parts[32];
        int boundary = 0;
        const auto n = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(step.code_point), parts, 32, static_cast<utf8proc_option_t>(decompose),
                                               &boundary);
        if (n >= 1 && n <= 32) {
            points.insert(points.end(), parts, parts + n);
        } else {
            points.push_back(static_cast<utf8proc_int32_t>(step.code_point));
        }
    }
    sort_marks(points);
    auto n_points = static_cast<utf8proc_ssize_t>(points.size());
    if (compose) {
        n_points = utf8proc_normalize_utf32(points.data(), n_points, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    }
    std::string out;
    out.reserve(text.size());
    for (utf8proc_ssize_t i = 0; i < n_points; ++i) append_utf8(out, static_cast<char32_t>(points[static_cast<std::size_t>(i)]));
    return out;
}

std::vector<std::size_t> grapheme_ends(std::string_view text) {
    std::vector<std::size_t> ends;
    utf8proc_int32_t previous = 0, state = 0;
    for (std::size_t at = 0; at < text.size();) {
        const Utf8Step step = decode_utf8(text, at);
        const auto current = static_cast<utf8proc_int32_t>(step.code_point);
        if (at > 0 && utf8proc_grapheme_break_stateful(previous, current, &state)) ends.push_back(at);
        previous = current;
        at += static_cast<std::size_t>(step.n_bytes);
    }
    if (!text.empty()) ends.push_back(text.size());
    return ends;
}

}  // namespace skiff
