// Python's two ways to put values into a string: "%s" % values, and str.format.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "text/template_tables.h"
#include "text/template_unicode.h"

namespace skiff::tmpl {
namespace {

constexpr std::int64_t max_width = 4096;  // of one formatted field

// [[fill]align][sign][#][0][width][,][.precision][type], common to both ways.
struct FieldSpec {
    std::string fill = " ";
    char align = '\0';  // < > ^ =
    char sign = '-';
    bool has_commas = false;
    std::int64_t width = 0, precision = -1;
    char type = '\0';
};

std::string padded(const std::string& text, const FieldSpec& spec, char default_align) {
    auto size = static_cast<std::int64_t>(count_points(text));
    if (size >= spec.width) return text;
    auto missing = static_cast<std::size_t>(spec.width - size);
    char align = spec.align ? spec.align : default_align;
    std::size_t left = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
    std::string out;
    std::size_t n_sign = align == '=' && !text.empty() && (text[0] == '-' || text[0] == '+' || text[0] == ' ') ? 1 : 0;
    out += text.substr(0, n_sign);
    for (std::size_t i = 0; i < left; ++i) out += spec.fill;
    out += text.substr(n_sign);
    for (std::size_t i = left; i < missing; ++i) out += spec.fill;
    return out;
}

std::string with_commas(std::string digits) {
    std::size_t begin = digits.find_first_of("0123456789"), end = digits.find_first_not_of("0123456789", begin);
    if (end == std::string::npos) end = digits.size();
    for (std::size_t i = end; begin != std::string::npos && i > begin + 3; i -= 3) digits.insert(i - 3, ",");
    return digits;
}

std::string signed_text(std::string digits, bool is_negative, char sign) {
    if (is_negative) return "-" + digits;
    return sign == '-' ? digits : sign + digits;
}

std::string format_integer(std::int64_t value, const FieldSpec& spec) {
    std::uint64_t magnitude = value < 0 ? 0 - static_cast<std::uint64_t>(value) : static_cast<std::uint64_t>(value);
    unsigned base = spec.type == 'x' || spec.type == 'X' ? 16 : spec.type == 'o' ? 8 : spec.type == 'b' ? 2 : 10;
    std::string digits;
    do {
        digits += (spec.type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef")[magnitude % base];
        magnitude /= base;
    } while (magnitude);
    while (static_cast<std::int64_t>(digits.size()) < spec.precision) digits += '0';
    std::reverse(digits.begin(), digits.end());
    if (spec.has_commas) digits = with_commas(digits);
    return signed_text(digits, value < 0, spec.sign);
}

std::string format_real(double value, const FieldSpec& spec) {
    std::string digits;
    if (!std::isfinite(value)) {
        digits = std::isnan(value) ? "nan" : "inf";
    } else {
        char type = spec.type == '%' ? 'f' : spec.type;
        char pattern[8] = {'%', '.', '*', type, '\0'};
        double magnitude = std::fabs(spec.type == '%' ? value * 100 : value);
        std::string buffer(static_cast<std::size_t>(420 + std::max<std::int64_t>(spec.precision, 6)), '\0');
        int size = std::snprintf(buffer.data(), buffer.size(), pattern, static_cast<int>(spec.precision < 0 ? 6 : spec.precision), magnitude);
        digits = buffer.substr(0, static_cast<std::size_t>(size));
    }
    if (spec.has_commas) digits = with_commas(digits);
    if (spec.type == '%') digits += '%';
    return signed_text(digits, std::signbit(value) && !std::isnan(value), spec.sign);
}

std::string cut_points(const std::string& text, std::int64_t precision) {
    return precision < 0 ? text : text.substr(0, byte_offset(text, static_cast<std::size_t>(precision)));
}

Result<std::int64_t> read_number(std::string_view format, std::size_t& i) {
    std::int64_t number = 0;
    while (i < format.size() && format[i] >= '0' && format[i] <= '9') {
        number = number * 10 + (format[i++] - '0');
        if (number > max_width) return resource_error("a formatted field wider than " + std::to_string(max_width));
    }
    return number;
}

Result<std::string> percent_field(Context& context, FieldSpec spec, const Value& value) {
    bool zero_pads = spec.fill == "0" && spec.align != '<';
    switch (spec.type) {
        case 's':
        case 'r':
        case 'a': {
            SKIFF_TRY(auto text, spec.type == 's' ? to_text(context, value) : to_repr(context, value));
            spec.fill = " ";
            return padded(cut_points(text, spec.precision), spec, '>');
        }
        case 'd':
        case 'i':
        case 'u':
        case 'x':
        case 'X':
        case 'o': {
            bool is_decimal = spec.type != 'x' && spec.type != 'X' && spec.type != 'o';
            if (!value.is_integral() && !(is_decimal && value.is_double())) return type_error("%d: expected a number", value);
            if (value.is_double() && !(std::fabs(value.number()) < 9e18)) return unsupported("an integer leaves the range of 64 bits");
            std::string digits = format_integer(value.is_double() ? static_cast<std::int64_t>(value.number()) : value.integral(), spec);
            return padded(digits, spec, zero_pads ? '=' : '>');
        }
        case 'f':
        case 'F':
        case 'e':
        case 'E':
        case 'g':
        case 'G':
            if (!value.is_number()) return type_error("%f: expected a number", value);
            return padded(format_real(value.number(), spec), spec, zero_pads ? '=' : '>');
        case 'c': {
            if (value.is_text() && value.text().n_points == 1) return padded(std::string(value.bytes()), spec, '>');
            if (!value.is_integral() || value.integral() < 0 || value.integral() > 0x10FFFF) return type_error("%c: expected a character", value);
            std::string point;
            append_point(point, static_cast<char32_t>(value.integral()));
            return padded(point, spec, '>');
        }
        default: return runtime_error(std::string("unsupported format character '") + spec.type + "'");
    }
}

}  // namespace

Result<Value> percent_format(Context& context, const Value& format_value, const Value& values) {
    std::string_view format = format_value.bytes();
    std::vector<Value> sequence = {values};
    bool is_tuple = values.is_sequence(SequenceKind::tuple);
    if (is_tuple) sequence = values.sequence().items;
    std::size_t n_used = 0;
    bool by_name = false;
    std::string out;
    auto next_value = [&]() -> Result<Value> {
        if (n_used >= sequence.size()) return runtime_error("not enough arguments for the format string");
        return sequence[n_used++];
    };
    for (std::size_t i = 0; i < format.size();) {
        if (format[i] != '%') {
            out += format[i++];
            continue;
        }
        if (++i < format.size() && format[i] == '%') {
            out += format[i++];
            continue;
        }
        FieldSpec spec;
        std::optional<Value> named;
        if (i < format.size() && format[i] == '(') {
            std::size_t close = format.find(')', i);
            if (close == std::string_view::npos || !values.is_dict()) return runtime_error("a format with names requires a dict");
            const Value* found = values.dict().find(format.substr(i + 1, close - i - 1));
            if (!found) return runtime_error("the format names a key that the dict does not have");
            named = *found;
            by_name = true;
            i = close + 1;
        }
        for (; i < format.size() && std::string_view("-+ 0#").find(format[i]) != std::string_view::npos; ++i) {
            if (format[i] == '-') spec.align = '<';
            if (format[i] == '+') spec.sign = '+';
            if (format[i] == ' ' && spec.sign != '+') spec.sign = ' ';
            if (format[i] == '0') spec.fill = "0";
            if (format[i] == '#') return unsupported("the alternate form # in a format");
        }
        if (spec.align == '<') spec.fill = " ";
        if (i < format.size() && format[i] == '*') return unsupported("a width from the arguments in a format");
        SKIFF_TRY(spec.width, read_number(format, i));
        if (i < format.size() && format[i] == '.') {
            ++i;
            SKIFF_TRY(spec.precision, read_number(format, i));
        }
        while (i < format.size() && (format[i] == 'h' || format[i] == 'l' || format[i] == 'L')) ++i;
        if (i >= format.size()) return runtime_error("incomplete format");
        spec.type = format[i++];
        if (!named) {
            SKIFF_TRY(named, next_value());
        }
        SKIFF_TRY(auto field, percent_field(context, spec, *named));
        SKIFF_CHECK(context.spend_bytes(bytes_per_step + field.size()));
        out += field;
    }
    if (!by_name && n_used < sequence.size() && (is_tuple || !values.is_dict())) return runtime_error("not all arguments were used by the format string");
    return context.text_like(format_value, std::move(out));
}

namespace {

Result<FieldSpec> read_spec(std::string_view text) {
    FieldSpec spec;
    std::size_t i = 0, after = 0;
    auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
    if (!text.empty()) next_point(text, after);
    if (after < text.size() && after > 0 && is_align(text[after])) {
        spec.fill = text.substr(0, after);
        spec.align = text[after];
        i = after + 1;
    } else if (!text.empty() && is_align(text[0])) {
        spec.align = text[i++];
    }
    if (i < text.size() && (text[i] == '+' || text[i] == '-' || text[i] == ' ')) spec.sign = text[i++];
    if (i < text.size() && text[i] == '0' && !spec.align) {
        spec.fill = "0";
        spec.align = '=';
        ++i;
    }
    SKIFF_TRY(spec.width, read_number(text, i));
    if (i < text.size() && text[i] == ',') {
        spec.has_commas = true;
        ++i;
    }
    if (i < text.size() && text[i] == '.') {
        ++i;
        SKIFF_TRY(spec.precision, read_number(text, i));
    }
    if (i < text.size()) spec.type = text[i++];
    if (i != text.size()) return runtime_error("invalid format specifier '" + std::string(text.substr(0, 80)) + "'");
    return spec;
}

Result<std::string> brace_field(Context& context, const Value& value, char conversion, std::string_view spec_text) {
    SKIFF_TRY(auto spec, read_spec(spec_text));
    bool is_real = value.is_double() || (value.is_integral() && spec.type != '\0' && std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos);
    bool is_text = conversion || !value.is_number() || (value.is_bool() && spec.type == '\0');
    if (is_text) {
        if (spec.type != '\0' && spec.type != 's') return runtime_error(std::string("unknown format code '") + spec.type + "'");
        if (!value.is_text() && !conversion && !spec_text.empty() && !value.is_bool()) return runtime_error("this value takes no format specifier");
        SKIFF_TRY(auto text, conversion == 'r' ? to_repr(context, value) : to_text(context, value));
        return padded(cut_points(text, spec.precision), spec, '<');
    }
    if (!is_real) {
        if (spec.type != '\0' && std::string_view("dxXob").find(spec.type) == std::string_view::npos) return runtime_error(std::string("unknown format code '") + spec.type + "'");
        if (spec.precision >= 0) return runtime_error("precision not allowed for integers");
        return padded(format_integer(value.integral(), spec), spec, '>');
    }
    if (spec.type == '\0') {
        if (spec.precision >= 0) return unsupported("a float format with precision and without type");
        std::string digits = float_repr(std::fabs(value.number()));
        return padded(signed_text(spec.has_commas ? with_commas(digits) : digits, std::signbit(value.number()), spec.sign), spec, '>');
    }
    if (std::string_view("eEfFgG%").find(spec.type) == std::string_view::npos) return runtime_error(std::string("unknown format code '") + spec.type + "'");
    return padded(format_real(value.number(), spec), spec, '>');
}

// "name.attribute[key]": the argument, then its members.
Result<Value> brace_value(Context& context, std::string_view path, const Arguments& arguments, std::size_t& n_automatic) {
    std::size_t end = path.find_first_of(".[");
    std::string_view head = path.substr(0, end);
    Value value;
    bool is_number = std::all_of(head.begin(), head.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (is_number) {
        std::size_t i = 0;
        SKIFF_TRY(std::int64_t given, read_number(head, i));
        std::size_t place = head.empty() ? n_automatic++ : static_cast<std::size_t>(given);
        if (place >= arguments.positional.size()) return runtime_error("format: an argument is missing");
        value = arguments.positional[place];
    } else {
        auto found = std::find_if(arguments.named.begin(), arguments.named.end(), [&](const auto& row) { return row.first == head; });
        if (found == arguments.named.end()) return runtime_error("format: no argument is named '" + std::string(head) + "'");
        value = found->second;
    }
    while (end < path.size()) {
        bool is_attribute = path[end] == '.';
        std::size_t stop = is_attribute ? path.find_first_of(".[", end + 1) : path.find(']', end);
        if (!is_attribute && stop == std::string_view::npos) return runtime_error("format: expected ']'");
        std::string_view name = path.substr(end + 1, std::min(stop, path.size()) - end - 1);
        bool is_index = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
        std::size_t i = 0;
        SKIFF_TRY(std::int64_t index, read_number(is_index ? name : "", i));
        SKIFF_TRY(value, is_attribute ? get_attribute(context, value, name) : get_item(context, value, is_index ? Value(index) : Value::text(name)));
        end = is_attribute ? stop : stop + 1;
    }
    return value;
}

}  // namespace

Result<Value> brace_format(Context& context, const Value& self, const Arguments& arguments) {
    std::string_view format = self.bytes();
    std::string out;
    std::size_t n_automatic = 0;
    for (std::size_t i = 0; i < format.size();) {
        char c = format[i];
        if (c != '{' && c != '}') {
            out += c;
            ++i;
            continue;
        }
        if (i + 1 < format.size() && format[i + 1] == c) {
            out += c;
            i += 2;
            continue;
        }
        std::size_t close = format.find('}', i);
        if (c == '}' || close == std::string_view::npos) return runtime_error("format: a single brace in the format string");
        std::string_view field = format.substr(i + 1, close - i - 1);
        if (field.find('{') != std::string_view::npos) return unsupported("format: a field inside a field");
        std::size_t colon = field.find(':');
        std::string_view spec = colon == std::string_view::npos ? "" : field.substr(colon + 1);
        std::string_view path = field.substr(0, colon);
        char conversion = '\0';
        if (std::size_t mark = path.find('!'); mark != std::string_view::npos) {
            conversion = mark + 2 == path.size() ? path[mark + 1] : '?';
            if (conversion != 's' && conversion != 'r') return unsupported("format: a conversion other than !s and !r");
            path = path.substr(0, mark);
        }
        SKIFF_TRY(Value value, brace_value(context, path, arguments, n_automatic));
        SKIFF_TRY(auto text, brace_field(context, value, conversion, spec));
        SKIFF_CHECK(context.spend_bytes(bytes_per_step + text.size()));
        out += text;
        i = close + 1;
    }
    return context.text_like(self, std::move(out));
}

}  // namespace skiff::tmpl
