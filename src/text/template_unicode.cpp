#include "text/template_unicode.h"

#include <utf8proc.h>

#include <algorithm>

namespace skiff::tmpl {
namespace {

// Upper-case forms of more than one code point (Unicode SpecialCasing.txt, unconditional rows), sorted.
struct LongUpper {
    char32_t point;
    char32_t upper[3];
};
constexpr LongUpper long_uppers[] = {
    {0x00DF, {0x0053, 0x0053}}, {0x0149, {0x02BC, 0x004E}}, {0x01F0, {0x004A, 0x030C}}, {0x0390, {0x0399, 0x0308, 0x0301}},
    {0x03B0, {0x03A5, 0x0308, 0x0301}}, {0x0587, {0x0535, 0x0552}}, {0x1E96, {0x0048, 0x0331}}, {0x1E97, {0x0054, 0x0308}},
    {0x1E98, {0x0057, 0x030A}}, {0x1E99, {0x0059, 0x030A}}, {0x1E9A, {0x0041, 0x02BE}}, {0x1F50, {0x03A5, 0x0313}},
    {0x1F52, {0x03A5, 0x0313, 0x0300}}, {0x1F54, {0x03A5, 0x0313, 0x0301}}, {0x1F56, {0x03A5, 0x0313, 0x0342}}, {0x1F80, {0x1F08, 0x0399}},
    {0x1F81, {0x1F09, 0x0399}}, {0x1F82, {0x1F0A, 0x0399}}, {0x1F83, {0x1F0B, 0x0399}}, {0x1F84, {0x1F0C, 0x0399}},
    {0x1F85, {0x1F0D, 0x0399}}, {0x1F86, {0x1F0E, 0x0399}}, {0x1F87, {0x1F0F, 0x0399}}, {0x1F88, {0x1F08, 0x0399}},
    {0x1F89, {0x1F09, 0x0399}}, {0x1F8A, {0x1F0A, 0x0399}}, {0x1F8B, {0x1F0B, 0x0399}}, {0x1F8C, {0x1F0C, 0x0399}},
    {0x1F8D, {0x1F0D, 0x0399}}, {0x1F8E, {0x1F0E, 0x0399}}, {0x1F8F, {0x1F0F, 0x0399}}, {0x1F90, {0x1F28, 0x0399}},
    {0x1F91, {0x1F29, 0x0399}}, {0x1F92, {0x1F2A, 0x0399}}, {0x1F93, {0x1F2B, 0x0399}}, {0x1F94, {0x1F2C, 0x0399}},
    {0x1F95, {0x1F2D, 0x0399}}, {0x1F96, {0x1F2E, 0x0399}}, {0x1F97, {0x1F2F, 0x0399}}, {0x1F98, {0x1F28, 0x0399}},
    {0x1F99, {0x1F29, 0x0399}}, {0x1F9A, {0x1F2A, 0x0399}}, {0x1F9B, {0x1F2B, 0x0399}}, {0x1F9C, {0x1F2C, 0x0399}},
    {0x1F9D, {0x1F2D, 0x0399}}, {0x1F9E, {0x1F2E, 0x0399}}, {0x1F9F, {0x1F2F, 0x0399}}, {0x1FA0, {0x1F68, 0x0399}},
    {0x1FA1, {0x1F69, 0x0399}}, {0x1FA2, {0x1F6A, 0x0399}}, {0x1FA3, {0x1F6B, 0x0399}}, {0x1FA4, {0x1F6C, 0x0399}},
    {0x1FA5, {0x1F6D, 0x0399}}, {0x1FA6, {0x1F6E, 0x0399}}, {0x1FA7, {0x1F6F, 0x0399}}, {0x1FA8, {0x1F68, 0x0399}},
    {0x1FA9, {0x1F69, 0x0399}}, {0x1FAA, {0x1F6A, 0x0399}}, {0x1FAB, {0x1F6B, 0x0399}}, {0x1FAC, {0x1F6C, 0x0399}},
    {0x1FAD, {0x1F6D, 0x0399}}, {0x1FAE, {0x1F6E, 0x0399}}, {0x1FAF, {0x1F6F, 0x0399}}, {0x1FB2, {0x1FBA, 0x0399}},
    {0x1FB3, {0x0391, 0x0399}}, {0x1FB4, {0x0386, 0x0399}}, {0x1FB6, {0x0391, 0x0342}}, {0x1FB7, {0x0391, 0x0342, 0x0399}},
    {0x1FBC, {0x0391, 0x0399}}, {0x1FC2, {0x1FCA, 0x0399}}, {0x1FC3, {0x0397, 0x0399}}, {0x1FC4, {0x0389, 0x0399}},
    {0x1FC6, {0x0397, 0x0342}}, {0x1FC7, {0x0397, 0x0342, 0x0399}}, {0x1FCC, {0x0397, 0x0399}}, {0x1FD2, {0x0399, 0x0308, 0x0300}},
    {0x1FD3, {0x0399, 0x0308, 0x0301}}, {0x1FD6, {0x0399, 0x0342}}, {0x1FD7, {0x0399, 0x0308, 0x0342}}, {0x1FE2, {0x03A5, 0x0308, 0x0300}},
    {0x1FE3, {0x03A5, 0x0308, 0x0301}}, {0x1FE4, {0x03A1, 0x0313}}, {0x1FE6, {0x03A5, 0x0342}}, {0x1FE7, {0x03A5, 0x0308, 0x0342}},
    {0x1FF2, {0x1FFA, 0x0399}}, {0x1FF3, {0x03A9, 0x0399}}, {0x1FF4, {0x038F, 0x0399}}, {0x1FF6, {0x03A9, 0x0342}},
    {0x1FF7, {0x03A9, 0x0342, 0x0399}}, {0x1FFC, {0x03A9, 0x0399}}, {0xFB00, {0x0046, 0x0046}}, {0xFB01, {0x0046, 0x0049}},
    {0xFB02, {0x0046, 0x004C}}, {0xFB03, {0x0046, 0x0046, 0x0049}}, {0xFB04, {0x0046, 0x0046, 0x004C}}, {0xFB05, {0x0053, 0x0054}},
    {0xFB06, {0x0053, 0x0054}}, {0xFB13, {0x0544, 0x0546}}, {0xFB14, {0x0544, 0x0535}}, {0xFB15, {0x0544, 0x053B}},
    {0xFB16, {0x054E, 0x0546}}, {0xFB17, {0x0544, 0x053D}},
};

utf8proc_category_t category(char32_t point) {
    return point > 0x10FFFF ? UTF8PROC_CATEGORY_CN : utf8proc_category(static_cast<utf8proc_int32_t>(point));
}

void append_upper(std::string& out, char32_t point) {
    if (point < 0x80) {
        out += static_cast<char>(point >= 'a' && point <= 'z' ? point - 32 : point);
        return;
    }
    auto row = std::lower_bound(std::begin(long_uppers), std::end(long_uppers), point, [](const LongUpper& a, char32_t b) { return a.point < b; });
    if (row != std::end(long_uppers) && row->point == point) {
        for (char32_t part : row->upper)
            if (part) append_point(out, part);
        return;
    }
    append_point(out, static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(point))));
}

void append_title(std::string& out, char32_t point) {
    char32_t mapped = static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(point)));
    if (mapped != point) {
        append_point(out, mapped);
        return;
    }
    std::string upper_form;
    append_upper(upper_form, point);  // multi-letter forms: the first letter stays a capital
    std::size_t position = 0;
    append_point(out, next_point(upper_form, position));
    if (position < upper_form.size()) out += lower(std::string_view(upper_form).substr(position));
}

bool is_cased(char32_t point) {
    auto kind = category(point);
    return kind == UTF8PROC_CATEGORY_LU || kind == UTF8PROC_CATEGORY_LL || kind == UTF8PROC_CATEGORY_LT;
}

bool is_case_ignorable(char32_t point) {
    auto kind = category(point);
    return kind == UTF8PROC_CATEGORY_MN || kind == UTF8PROC_CATEGORY_ME || kind == UTF8PROC_CATEGORY_CF || kind == UTF8PROC_CATEGORY_LM ||
           kind == UTF8PROC_CATEGORY_SK || point == '\'' || point == '.' || point == ':' || point == 0xB7 || point == 0x2019;
}

// Greek capital sigma becomes a final sigma after a letter and before none (Unicode 3.13, Final_Sigma).
bool is_final_sigma(std::string_view text, std::size_t start, std::size_t end) {
    bool letter_before = false;
    while (start > 0) {
        std::size_t before = previous_point(text, start), at = before;
        char32_t point = next_point(text, at);
        start = before;
        if (is_case_ignorable(point)) continue;
        letter_before = is_cased(point);
        break;
    }
    if (!letter_before) return false;
    while (end < text.size()) {
        char32_t point = next_point(text, end);
        if (is_case_ignorable(point)) continue;
        return !is_cased(point);
    }
    return true;
}

void append_lower(std::string& out, std::string_view text, std::size_t start, std::size_t end, char32_t point) {
    if (point < 0x80) {
        out += static_cast<char>(point >= 'A' && point <= 'Z' ? point + 32 : point);
    } else if (point == 0x130) {
        out += "i\xCC\x87";
    } else if (point == 0x3A3 && is_final_sigma(text, start, end)) {
        append_point(out, 0x3C2);
    } else {
        append_point(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(point))));
    }
}

bool is_line_end(char32_t point) {
    return (point >= 0x0A && point <= 0x0D) || (point >= 0x1C && point <= 0x1E) || point == 0x85 || point == 0x2028 || point == 0x2029;
}

}  // namespace

char32_t next_point(std::string_view text, std::size_t& position) {
    auto lead = static_cast<unsigned char>(text[position]);
    if (lead < 0x80) {
        ++position;
        return lead;
    }
    utf8proc_int32_t point = 0;
    auto length = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data() + position),
                                   static_cast<utf8proc_ssize_t>(std::min<std::size_t>(4, text.size() - position)), &point);
    if (length <= 0) {
        ++position;
        return 0xDC00 + lead;
    }
    position += static_cast<std::size_t>(length);
    return static_cast<char32_t>(point);
}

std::size_t previous_point(std::string_view text, std::size_t position) {
    for (std::size_t back = 1; back <= 4 && back <= position; ++back) {
        std::size_t start = position - back, end = start;
        auto byte = static_cast<unsigned char>(text[start]);
        if ((byte & 0xC0) == 0x80) continue;
        next_point(text, end);
        return end == position ? start : position - 1;
    }
    return position - 1;
}

void append_point(std::string& out, char32_t point) {
    if (point < 0x80) {
        out += static_cast<char>(point);
    } else if (point >= 0xDC80 && point <= 0xDCFF) {
        out += static_cast<char>(point - 0xDC00);
    } else if (point < 0x800) {
        out += static_cast<char>(0xC0 | (point >> 6));
        out += static_cast<char>(0x80 | (point & 63));
    } else if (point < 0x10000) {
        out += static_cast<char>(0xE0 | (point >> 12));
        out += static_cast<char>(0x80 | ((point >> 6) & 63));
        out += static_cast<char>(0x80 | (point & 63));
    } else {
        out += static_cast<char>(0xF0 | (point >> 18));
        out += static_cast<char>(0x80 | ((point >> 12) & 63));
        out += static_cast<char>(0x80 | ((point >> 6) & 63));
        out += static_cast<char>(0x80 | (point & 63));
    }
}

std::size_t count_points(std::string_view text) {
    std::size_t count = 0;
    for (std::size_t position = 0; position < text.size(); ++count) next_point(text, position);
    return count;
}

std::size_t byte_offset(std::string_view text, std::size_t index) {
    std::size_t position = 0;
    for (; index > 0 && position < text.size(); --index) next_point(text, position);
    return position;
}

std::vector<std::string_view> split_points(std::string_view text) {
    std::vector<std::string_view> points;
    for (std::size_t position = 0; position < text.size();) {
        std::size_t start = position;
        next_point(text, position);
        points.push_back(text.substr(start, position - start));
    }
    return points;
}

bool is_python_space(char32_t point) {
    if (point < 0x80) return point == ' ' || (point >= 9 && point <= 13) || (point >= 0x1C && point <= 0x1F);
    return point == 0x85 || point == 0xA0 || point == 0x1680 || (point >= 0x2000 && point <= 0x200A) || point == 0x2028 || point == 0x2029 ||
           point == 0x202F || point == 0x205F || point == 0x3000;
}

bool is_python_printable(char32_t point) {
    if (point == ' ') return true;
    switch (category(point)) {
        case UTF8PROC_CATEGORY_CC:
        case UTF8PROC_CATEGORY_CF:
        case UTF8PROC_CATEGORY_CS:
        case UTF8PROC_CATEGORY_CO:
        case UTF8PROC_CATEGORY_CN:
        case UTF8PROC_CATEGORY_ZL:
        case UTF8PROC_CATEGORY_ZP:
        case UTF8PROC_CATEGORY_ZS: return false;
        default: return true;
    }
}

bool is_python_upper(char32_t point) { return category(point) == UTF8PROC_CATEGORY_LU; }
bool is_python_lower(char32_t point) { return category(point) == UTF8PROC_CATEGORY_LL || point == 0xAA || point == 0xBA; }
bool is_python_alpha(char32_t point) {
    auto kind = category(point);
    return kind == UTF8PROC_CATEGORY_LU || kind == UTF8PROC_CATEGORY_LL || kind == UTF8PROC_CATEGORY_LT || kind == UTF8PROC_CATEGORY_LM ||
           kind == UTF8PROC_CATEGORY_LO;
}
bool is_python_digit(char32_t point) { return category(point) == UTF8PROC_CATEGORY_ND; }

std::string upper(std::string_view text) {
    std::string out;
    for (std::size_t position = 0; position < text.size();) append_upper(out, next_point(text, position));
    return out;
}

std::string lower(std::string_view text) {
    std::string out;
    for (std::size_t position = 0; position < text.size();) {
        std::size_t start = position;
        char32_t point = next_point(text, position);
        append_lower(out, text, start, position, point);
    }
    return out;
}

std::string capitalize(std::string_view text) {
    std::string out;
    for (std::size_t position = 0; position < text.size();) {
        std::size_t start = position;
        char32_t point = next_point(text, position);
        if (start == 0) {
            append_title(out, point);
        } else {
            append_lower(out, text, start, position, point);
        }
    }
    return out;
}

std::string title(std::string_view text) {
    std::string out;
    bool inside_word = false;
    for (std::size_t position = 0; position < text.size();) {
        std::size_t start = position;
        char32_t point = next_point(text, position);
        if (inside_word) {
            append_lower(out, text, start, position, point);
        } else {
            append_title(out, point);
        }
        inside_word = is_cased(point);
    }
    return out;
}

std::string swap_case(std::string_view text) {
    std::string out;
    for (std::size_t position = 0; position < text.size();) {
        std::size_t start = position;
        char32_t point = next_point(text, position);
        if (is_python_upper(point)) {
            append_lower(out, text, start, position, point);
        } else if (is_python_lower(point)) {
            append_upper(out, point);
        } else {
            append_point(out, point);
        }
    }
    return out;
}

namespace {

template <class Predicate>
std::string_view strip_where(std::string_view text, Side side, Predicate&& strips) {
    std::size_t begin = 0, end = text.size();
    if (side != Side::right) {
        while (begin < end) {
            std::size_t position = begin;
            char32_t point = next_point(text, position);
            if (!strips(point)) break;
            begin = position;
        }
    }
    if (side != Side::left) {
        while (end > begin) {
            std::size_t start = previous_point(text, end), position = start;
            char32_t point = next_point(text, position);
            if (!strips(point)) break;
            end = start;
        }
    }
    return text.substr(begin, end - begin);
}

}  // namespace

std::string_view strip_spaces(std::string_view text, Side side) { return strip_where(text, side, is_python_space); }

std::string_view strip_points(std::string_view text, std::string_view points, Side side) {
    std::u32string set;
    for (std::size_t position = 0; position < points.size();) set += next_point(points, position);
    std::sort(set.begin(), set.end());
    return strip_where(text, side, [&](char32_t point) { return std::binary_search(set.begin(), set.end(), point); });
}

std::vector<std::string_view> split_lines(std::string_view text, LineEnds ends) {
    std::vector<std::string_view> lines;
    std::size_t line_start = 0;
    for (std::size_t position = 0; position < text.size();) {
        std::size_t start = position;
        char32_t point = next_point(text, position);
        if (!is_line_end(point)) continue;
        if (point == '\r' && position < text.size() && text[position] == '\n') ++position;
        lines.push_back(text.substr(line_start, (ends == LineEnds::keep ? position : start) - line_start));
        line_start = position;
    }
    if (line_start < text.size()) lines.push_back(text.substr(line_start));
    return lines;
}

std::vector<std::string_view> split_spaces(std::string_view text, long long max_splits) {
    std::vector<std::string_view> words;
    text = strip_spaces(text, Side::left);
    while (!text.empty()) {
        if (max_splits >= 0 && static_cast<long long>(words.size()) >= max_splits) {
            words.push_back(strip_spaces(text, Side::right));
            break;
        }
        std::size_t position = 0, end = 0;
        while (position < text.size()) {
            end = position;
            if (is_python_space(next_point(text, position))) break;
            end = position;
        }
        words.push_back(text.substr(0, end));
        text = strip_spaces(text.substr(end), Side::left);
    }
    return words;
}

std::string python_repr(std::string_view text) {
    static constexpr char hex[] = "0123456789abcdef";
    char quote = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos ? '"' : '\'';
    std::string out(1, quote);
    auto escape = [&](char letter, char32_t point, int digits) {
        out += '\\';
        out += letter;
        for (int shift = (digits - 1) * 4; shift >= 0; shift -= 4) out += hex[(point >> shift) & 15];
    };
    for (std::size_t position = 0; position < text.size();) {
        char32_t point = next_point(text, position);
        if (point == static_cast<char32_t>(quote) || point == '\\') {
            out += '\\';
            out += static_cast<char>(point);
        } else if (point == '\n') {
            out += "\\n";
        } else if (point == '\r') {
            out += "\\r";
        } else if (point == '\t') {
            out += "\\t";
        } else if (is_python_printable(point)) {
            append_point(out, point);
        } else if (point < 0x100) {
            escape('x', point, 2);
        } else if (point < 0x10000) {
            escape('u', point, 4);
        } else {
            escape('U', point, 8);
        }
    }
    out += quote;
    return out;
}

}  // namespace skiff::tmpl
