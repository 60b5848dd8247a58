#include "text/text_cutter.h"

#include <algorithm>

#include "text/unicode.h"

namespace skiff {
namespace {

bool is_ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// Whether a visible character ends just before `at`. Invalid bytes are visible: they become U+FFFD.
bool is_visible_before(std::string_view text, std::size_t at) {
    if (at == 0) return false;
    std::size_t begin = at - 1;
    while (begin > 0 && at - begin < 4 && (text[begin] & 0xC0) == 0x80) --begin;
    const Utf8Step step = decode_utf8(text, begin);
    const bool whole = step.valid && begin + static_cast<std::size_t>(step.n_bytes) == at;
    return !whole || !is_white_space(step.code_point);
}

bool is_visible_at(std::string_view text, std::size_t at) {
    if (at >= text.size()) return false;
    const Utf8Step step = decode_utf8(text, at);
    return !step.valid || !is_white_space(step.code_point);
}

}  // namespace

std::size_t safe_cut(std::string_view text, std::size_t from, std::size_t limit) {
    for (std::size_t at = std::max<std::size_t>(from, 1); at < limit; ++at) {
        if (text[at] == ' ' && is_ascii_letter(text[at - 1])) return at;
        if (text[at - 1] == '\n' && is_visible_at(text, at) && is_visible_before(text, at - 1)) return at;
    }
    return limit;
}

TextCutter::TextCutter(std::string_view text, std::string_view separator, std::size_t part_bytes)
    : text_(text), separator_(separator), part_bytes_(part_bytes) {
    find_separator(0);
}

void TextCutter::find_separator(std::size_t from) {
    separator_at_ = separator_.empty() ? text_.size() : std::min(text_.find(separator_, from), text_.size());
}

std::optional<std::string_view> TextCutter::next() {
    if (at_ >= text_.size()) return std::nullopt;
    std::size_t end = text_.size();
    if (text_.size() - at_ > part_bytes_) {
        const std::size_t wanted = at_ + part_bytes_;
        std::size_t document = at_;  // where the last separator of this part ends
        while (separator_at_ < text_.size() && separator_at_ + separator_.size() <= wanted) {
            document = separator_at_ + separator_.size();
            find_separator(document);
        }
        // Between `document` and the next separator there is none to cut through.
        end = safe_cut(text_, std::max(document + 1, wanted), separator_at_);
        if (end == at_) end = std::min(at_ + separator_.size(), text_.size());  // a separator longer than a part
        if (separator_at_ < end) find_separator(end);
    }
    const std::string_view part = text_.substr(at_, end - at_);
    at_ = end;
    return part;
}

std::optional<std::string_view> LineCutter::next() {
    if (at_ >= text_.size()) return std::nullopt;
    std::size_t end = text_.size();
    if (text_.size() - at_ > part_bytes_) {
        const std::size_t newline = text_.find('\n', at_ + part_bytes_);
        if (newline != std::string_view::npos) end = newline + 1;
    }
    const std::string_view part = text_.substr(at_, end - at_);
    at_ = end;
    return part;
}

}  // namespace skiff
