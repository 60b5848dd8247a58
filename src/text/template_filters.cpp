// Filters over strings and numbers; those over sequences are in template_sequence_filters.cpp.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "text/template_operators.h"
#include "text/template_tables.h"
#include "text/template_unicode.h"

namespace skiff::tmpl {
namespace {

// The string that a text filter works on: markup stays markup, other values are printed.
Result<Value> soft_text(Context& context, const Value& value) {
    if (value.is_text()) return value;
    SKIFF_TRY(auto printed, to_text(context, value));
    return context.text(std::move(printed));
}

template <std::string (*Map)(std::string_view)>
Result<Value> mapped(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "this filter", {}, 0));
    static_cast<void>(bound);
    SKIFF_TRY(Value subject, soft_text(context, self));
    SKIFF_CHECK(context.spend_bytes(4 * subject.bytes().size()));
    return context.text_like(subject, Map(subject.bytes()));
}

// Jinja's own title: words begin behind spaces, hyphens and opening brackets.
std::string title_words(std::string_view text) {
    std::string out;
    std::size_t word_start = 0;
    auto flush = [&](std::size_t end) {
        if (word_start >= end) return;
        std::size_t rest = word_start;
        next_point(text, rest);
        out += upper(text.substr(word_start, rest - word_start));
        out += lower(text.substr(rest, end - rest));
    };
    for (std::size_t position = 0; position < text.size();) {
        std::size_t start = position;
        char32_t point = next_point(text, position);
        bool separates = point == '-' || point == '(' || point == '{' || point == '[' || point == '<' || is_python_space(point);
        if (!separates) continue;
        flush(start);
        out += text.substr(start, position - start);
        word_start = position;
    }
    flush(text.size());
    return out;
}

Result<Value> trim(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "trim", {"chars"}, 0));
    SKIFF_TRY(Value subject, soft_text(context, self));
    if (!bound[0] || bound[0]->is_none()) return context.text_like(subject, std::string(strip_spaces(subject.bytes(), Side::both)));
    SKIFF_TRY(auto points, to_view(*bound[0], "trim"));
    SKIFF_CHECK(context.spend_bytes(points.size()));
    return context.text_like(subject, std::string(strip_points(subject.bytes(), points, Side::both)));
}

Result<Value> replace(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "replace", {"old", "new", "count"}, 2));
    SKIFF_TRY(auto subject, to_text(context, self));
    SKIFF_TRY(auto old_part, to_text(context, *bound[0]));
    SKIFF_TRY(auto new_part, to_text(context, *bound[1]));
    std::int64_t limit = -1;
    if (bound[2] && !bound[2]->is_none()) {
        SKIFF_TRY(limit, to_index(*bound[2], "replace"));
    }
    SKIFF_TRY(auto replaced, replace_text(context, subject, old_part, new_part, limit));
    return context.text(std::move(replaced));
}

Result<Value> string(Context& context, const Value& self, const Arguments&) { return soft_text(context, self); }

Result<Value> safe(Context& context, const Value& self, const Arguments&) {
    SKIFF_TRY(auto subject, to_text(context, self));
    return Value::markup(subject);
}

Result<Value> escape(Context& context, const Value& self, const Arguments&) {
    SKIFF_TRY(Value subject, soft_text(context, self));
    return arithmetic(context, Operator::add, Value::markup(""), subject);
}

Result<Value> force_escape(Context& context, const Value& self, const Arguments&) {
    SKIFF_TRY(auto subject, to_text(context, self));
    return arithmetic(context, Operator::add, Value::markup(""), Value::text(subject));
}

Result<Value> indent(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "indent", {"width", "first", "blank"}, 0));
    if (!self.is_text()) return type_error("indent: expected a string", self);
    std::string margin(4, ' ');
    if (bound[0] && bound[0]->is_text()) {
        margin = bound[0]->bytes();
    } else if (bound[0]) {
        SKIFF_TRY(auto width, to_index(*bound[0], "indent"));
        if (width > static_cast<std::int64_t>(context.options().max_output_bytes)) return resource_error("indent: the width is over the limit for strings");
        margin.assign(static_cast<std::size_t>(std::max<std::int64_t>(0, width)), ' ');
    }
    bool all_lines = bound[2] && bound[2]->truthy();
    std::string text = std::string(self.bytes()) + "\n";
    auto lines = split_lines(text, LineEnds::drop);
    if (margin.size() > 0 && lines.size() > 4 * context.options().max_output_bytes / margin.size()) return resource_error("indent: the result is over the limit for strings");
    SKIFF_CHECK(context.spend_bytes(text.size() + lines.size() * margin.size()));
    std::string out = bound[1] && bound[1]->truthy() ? margin : "";
    for (std::size_t i = 0; i < lines.size(); ++i) {
        if (i) out += '\n';
        if (i && (all_lines || !lines[i].empty())) out += margin;
        out += lines[i];
    }
    return context.text_like(self, std::move(out));
}

Result<Value> format(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(Value subject, soft_text(context, self));
    if (!arguments.named.empty()) {
        if (!arguments.positional.empty()) return runtime_error("format takes arguments by position or by name, not both");
        Dict members;
        for (const auto& [name, value] : arguments.named) members.set(Value::text(name), value);
        SKIFF_TRY(Value values, context.dict(std::move(members)));
        return percent_format(context, subject, values);
    }
    SKIFF_TRY(Value values, context.tuple(arguments.positional));
    return percent_format(context, subject, values);
}

Result<Value> truncate(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "truncate", {"length", "killwords", "end", "leeway"}, 0));
    SKIFF_TRY(auto text, to_view(self, "truncate"));
    std::int64_t size = 255, leeway = 5;
    std::string_view end = "...";
    if (bound[0]) {
        SKIFF_TRY(size, to_index(*bound[0], "truncate"));
    }
    if (bound[2]) {
        SKIFF_TRY(end, to_view(*bound[2], "truncate"));
    }
    if (bound[3] && !bound[3]->is_none()) {
        SKIFF_TRY(leeway, to_index(*bound[3], "truncate"));
    }
    auto n_end = static_cast<std::int64_t>(count_points(end));
    if (size < n_end || leeway < 0) return runtime_error("truncate: the length is shorter than the end, or the leeway negative");
    if (static_cast<std::int64_t>(self.text().n_points) <= size + std::min<std::int64_t>(leeway, INT64_MAX - size)) return self;
    std::string kept(text.substr(0, byte_offset(text, static_cast<std::size_t>(size - n_end))));
    if (!(bound[1] && bound[1]->truthy())) kept.resize(std::min(kept.size(), kept.rfind(' ')));
    return context.text_like(self, kept + std::string(end));
}

Result<Value> word_count(Context& context, const Value& self, const Arguments&) {
    SKIFF_TRY(auto text, to_text(context, self));
    std::int64_t n = 0;
    bool inside = false;
    for (std::size_t position = 0; position < text.size();) {
        char32_t point = next_point(text, position);
        bool is_word = is_python_alpha(point) || is_python_digit(point) || point == '_';
        n += is_word && !inside;
        inside = is_word;
    }
    return Value(n);
}

Result<Value> center(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "center", {"width"}, 0));
    SKIFF_TRY(Value subject, soft_text(context, self));
    return find_text_method("center").function(context, subject, {{bound[0] ? *bound[0] : Value(std::int64_t{80})}, {}});
}

// The digits of an integer or float literal as Python's int() and float() read them; empty where they would refuse.
std::string python_number(std::string_view text) {
    text = strip_spaces(text, Side::both);
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        bool between_digits = i > 0 && i + 1 < text.size() && std::isalnum(static_cast<unsigned char>(text[i - 1])) && std::isalnum(static_cast<unsigned char>(text[i + 1]));
        if (text[i] == '_' && between_digits) continue;
        out += text[i];
    }
    if (!out.empty() && out[0] == '+') out.erase(0, 1);
    return out.empty() || out[0] == '+' || (out[0] == '-' && out.size() > 1 && out[1] == '+') ? "" : out;
}

std::optional<double> parse_real(std::string_view text) {
    std::string number = python_number(text);
    if (number.empty() || number.find_first_of("xXpP(") != std::string::npos || std::isspace(static_cast<unsigned char>(number[0]))) return std::nullopt;
    char* end = nullptr;
    double value = std::strtod(number.c_str(), &end);
    return end == number.c_str() + number.size() ? std::optional<double>(value) : std::nullopt;
}

Result<Value> to_int(Context&, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "int", {"default", "base"}, 0));
    Value fallback = bound[0] ? *bound[0] : Value(std::int64_t{0});
    if (self.is_undefined()) return type_error("", self);
    if (self.is_integral()) return Value(self.integral());
    std::optional<double> real;
    if (self.is_double()) {
        real = self.number();
    } else if (self.is_text()) {
        std::int64_t base = 10;
        if (bound[1]) {
            SKIFF_TRY(base, to_index(*bound[1], "int"));
        }
        std::string digits = python_number(self.bytes());
        if (base == 16 && (digits.starts_with("0x") || digits.starts_with("0X"))) digits.erase(0, 2);
        if (base == 2 && (digits.starts_with("0b") || digits.starts_with("0B"))) digits.erase(0, 2);
        if (base == 8 && (digits.starts_with("0o") || digits.starts_with("0O"))) digits.erase(0, 2);
        if (base < 2 || base > 36) return unsupported("int: a base outside of 2 to 36");
        std::int64_t value = 0;
        auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, static_cast<int>(base));
        bool is_whole = !digits.empty() && end == digits.data() + digits.size();
        if (is_whole && error == std::errc()) return Value(value);
        if (is_whole) return unsupported("an integer leaves the range of 64 bits");
        real = parse_real(self.bytes());
    }
    if (!real || !std::isfinite(*real)) return fallback;
    if (std::fabs(*real) >= 9.2e18) return unsupported("an integer leaves the range of 64 bits");
    return Value(static_cast<std::int64_t>(*real));
}

Result<Value> to_float(Context&, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "float", {"default"}, 0));
    if (self.is_undefined()) return type_error("", self);
    if (self.is_number()) return Value(self.number());
    if (self.is_text()) {
        if (auto value = parse_real(self.bytes())) return Value(*value);
    }
    return bound[0] ? *bound[0] : Value(0.0);
}

Result<Value> absolute(Context&, const Value& self, const Arguments&) {
    if (self.is_double()) return Value(std::fabs(self.number()));
    if (!self.is_integral()) return type_error("abs: expected a number", self);
    return self.integral() < 0 ? negate(self) : Value(self.integral());
}

Result<Value> round_number(Context&, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "round", {"precision", "method"}, 0));
    if (!self.is_number()) return type_error("round: expected a number", self);
    std::int64_t precision = 0;
    std::string_view method = "common";
    if (bound[0]) {
        SKIFF_TRY(precision, to_index(*bound[0], "round"));
    }
    if (bound[1]) {
        SKIFF_TRY(method, to_view(*bound[1], "round"));
    }
    if (method != "common" && method != "ceil" && method != "floor") return runtime_error("round: the method must be common, ceil or floor");
    if (precision < 0 || precision > 300) return unsupported("round: a precision outside of 0 to 300");
    if (method != "common") {
        double scale = std::pow(10.0, static_cast<double>(precision));
        double scaled = self.number() * scale;
        return Value((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
    }
    if (self.is_integral()) return Value(self.integral());
    if (!std::isfinite(self.number())) return self;
    char digits[700];
    std::snprintf(digits, sizeof digits, "%.*f", static_cast<int>(precision), self.number());  // exact, halves to even, as Python rounds
    return Value(std::strtod(digits, nullptr));
}

constexpr FunctionRow text_filters[] = {
    {"abs", absolute},
    {"capitalize", mapped<capitalize>},
    {"center", center},
    {"e", escape},
    {"escape", escape},
    {"float", to_float},
    {"forceescape", force_escape},
    {"format", format},
    {"indent", indent},
    {"int", to_int},
    {"lower", mapped<lower>},
    {"replace", replace},
    {"round", round_number},
    {"safe", safe},
    {"string", string},
    {"title", mapped<title_words>},
    {"tojson", to_json_filter},
    {"trim", trim},
    {"truncate", truncate},
    {"upper", mapped<upper>},
    {"wordcount", word_count},
};

}  // namespace

Function find_text_filter(std::string_view name) {
    for (const FunctionRow& row : text_filters)
        if (row.name == name) return row.function;
    return nullptr;
}

Function find_filter(std::string_view name) {
    Function found = find_text_filter(name);
    return found ? found : find_sequence_filter(name);
}

}  // namespace skiff::tmpl
