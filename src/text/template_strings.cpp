// The methods of strings.
#include <algorithm>

#include "text/template_tables.h"
#include "text/template_unicode.h"

namespace skiff::tmpl {
namespace {

Status no_arguments(const Arguments& arguments, std::string_view name) {
    if (arguments.positional.empty() && arguments.named.empty()) return {};
    return runtime_error(std::string(name) + "() takes no arguments");
}

template <std::string (*Map)(std::string_view)>
Result<Value> mapped(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_CHECK(no_arguments(arguments, "this string method"));
    SKIFF_CHECK(context.spend_bytes(4 * self.bytes().size()));
    return context.text_like(self, Map(self.bytes()));
}

template <Side side>
Result<Value> strip(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind_places(arguments, "strip", 0, 1));
    if (!bound[0] || bound[0]->is_none()) return context.text_like(self, std::string(strip_spaces(self.bytes(), side)));
    SKIFF_TRY(auto points, to_view(*bound[0], "strip"));
    SKIFF_CHECK(context.spend_bytes(points.size()));
    return context.text_like(self, std::string(strip_points(self.bytes(), points, side)));
}

// The part of a string that optional start and stop arguments select, as code points; nothing where start is behind the end.
struct Window {
    std::string_view bytes;
    std::int64_t first_point = 0;
    bool is_valid = true;
};

Result<Window> window(Context& context, const Value& self, const Value* start, const Value* stop) {
    Window out{self.bytes(), 0, true};
    if (!start && !stop) return out;
    auto size = static_cast<std::int64_t>(self.text().n_points);
    std::int64_t begin = 0, end = size;
    if (start && !start->is_none()) {
        SKIFF_TRY(begin, to_index(*start, "a string method"));
    }
    if (stop && !stop->is_none()) {
        SKIFF_TRY(end, to_index(*stop, "a string method"));
    }
    begin = begin < 0 ? std::max<std::int64_t>(0, begin + size) : begin;
    end = std::clamp<std::int64_t>(end < 0 ? end + size : end, 0, size);
    out.is_valid = begin <= size && begin <= end;
    if (!out.is_valid) return out;
    SKIFF_CHECK(context.spend_bytes(2 * self.bytes().size()));
    std::size_t from = byte_offset(self.bytes(), static_cast<std::size_t>(begin)), to = byte_offset(self.bytes(), static_cast<std::size_t>(end));
    out.bytes = self.bytes().substr(from, to - from);
    out.first_point = begin;
    return out;
}

enum class Place { start, end };

template <Place place>
Result<Value> starts_or_ends(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind_places(arguments, "startswith", 1, 3));
    SKIFF_TRY(auto part, window(context, self, bound[1], bound[2]));
    std::vector<Value> candidates = {*bound[0]};
    if (bound[0]->is_sequence(SequenceKind::tuple)) candidates = bound[0]->sequence().items;
    for (const Value& candidate : candidates) {
        SKIFF_TRY(auto affix, to_view(candidate, "startswith and endswith"));
        SKIFF_CHECK(context.spend(1));
        if (part.is_valid && (place == Place::start ? part.bytes.starts_with(affix) : part.bytes.ends_with(affix))) return Value(true);
    }
    return Value(false);
}

enum class Miss { minus_one, error };

template <Place from, Miss miss>
Result<Value> find(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind_places(arguments, "find", 1, 3));
    SKIFF_TRY(auto wanted, to_view(*bound[0], "find"));
    SKIFF_TRY(auto part, window(context, self, bound[1], bound[2]));
    SKIFF_CHECK(context.spend_bytes(2 * self.bytes().size()));
    std::size_t at = !part.is_valid ? std::string_view::npos : from == Place::start ? part.bytes.find(wanted) : part.bytes.rfind(wanted);
    if (at != std::string_view::npos) return Value(part.first_point + static_cast<std::int64_t>(count_points(part.bytes.substr(0, at))));
    if (miss == Miss::error) return runtime_error("substring not found");
    return Value(std::int64_t{-1});
}

Result<Value> count(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind_places(arguments, "count", 1, 3));
    SKIFF_TRY(auto wanted, to_view(*bound[0], "count"));
    SKIFF_TRY(auto part, window(context, self, bound[1], bound[2]));
    SKIFF_CHECK(context.spend_bytes(self.bytes().size()));
    if (!part.is_valid) return Value(std::int64_t{0});
    if (wanted.empty()) return Value(static_cast<std::int64_t>(count_points(part.bytes)) + 1);
    std::int64_t n = 0;
    for (std::size_t at = part.bytes.find(wanted); at != std::string_view::npos; at = part.bytes.find(wanted, at + wanted.size())) ++n;
    return Value(n);
}

Result<Value> to_list(Context& context, const Value& self, const std::vector<std::string_view>& pieces) {
    std::vector<Value> items;
    SKIFF_CHECK(context.spend(pieces.size()));
    SKIFF_CHECK(context.spend_bytes(self.bytes().size()));
    for (std::string_view piece : pieces) items.push_back(self.text().is_markup ? Value::markup(piece) : Value::text(piece));
    return context.list(std::move(items));
}

std::vector<std::string_view> cut_from_right(std::string_view text, std::string_view separator, std::int64_t limit) {
    std::vector<std::string_view> pieces;
    while (limit < 0 || static_cast<std::int64_t>(pieces.size()) < limit) {
        std::size_t at = text.rfind(separator);
        if (at == std::string_view::npos) break;
        pieces.push_back(text.substr(at + separator.size()));
        text = text.substr(0, at);
    }
    pieces.push_back(text);
    std::reverse(pieces.begin(), pieces.end());
    return pieces;
}

std::vector<std::string_view> cut_spaces_from_right(std::string_view text, std::int64_t limit) {
    std::vector<std::string_view> words;
    text = strip_spaces(text, Side::right);
    while (!text.empty()) {
        if (limit >= 0 && static_cast<std::int64_t>(words.size()) >= limit) {
            words.push_back(strip_spaces(text, Side::left));
            break;
        }
        std::size_t begin = text.size();
        while (begin > 0) {
            std::size_t start = previous_point(text, begin), position = start;
            if (is_python_space(next_point(text, position))) break;
            begin = start;
        }
        words.push_back(text.substr(begin));
        text = strip_spaces(text.substr(0, begin), Side::right);
    }
    std::reverse(words.begin(), words.end());
    return words;
}

template <Place from>
Result<Value> split(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "split", {"sep", "maxsplit"}, 0));
    std::int64_t limit = -1;
    if (bound[1]) {
        SKIFF_TRY(limit, to_index(*bound[1], "split"));
    }
    std::string_view text = self.bytes();
    if (!bound[0] || bound[0]->is_none())
        return to_list(context, self, from == Place::start ? split_spaces(text, limit) : cut_spaces_from_right(text, limit));
    SKIFF_TRY(auto separator, to_view(*bound[0], "split"));
    if (separator.empty()) return runtime_error("split: empty separator");
    if (from == Place::end) return to_list(context, self, cut_from_right(text, separator, limit));
    std::vector<std::string_view> pieces;
    while (limit < 0 || static_cast<std::int64_t>(pieces.size()) < limit) {
        std::size_t at = text.find(separator);
        if (at == std::string_view::npos) break;
        pieces.push_back(text.substr(0, at));
        text = text.substr(at + separator.size());
    }
    pieces.push_back(text);
    return to_list(context, self, pieces);
}

Result<Value> split_at_lines(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "splitlines", {"keepends"}, 0));
    SKIFF_CHECK(context.spend_bytes(self.bytes().size()));
    return to_list(context, self, split_lines(self.bytes(), bound[0] && bound[0]->truthy() ? LineEnds::keep : LineEnds::drop));
}

template <Place from>
Result<Value> partition(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind_places(arguments, "partition", 1, 1));
    SKIFF_TRY(auto separator, to_view(*bound[0], "partition"));
    if (separator.empty()) return runtime_error("partition: empty separator");
    SKIFF_CHECK(context.spend_bytes(self.bytes().size()));
    std::string_view text = self.bytes();
    std::size_t at = from == Place::start ? text.find(separator) : text.rfind(separator);
    if (at == std::string_view::npos)
        return from == Place::start ? context.tuple({self, Value::text(""), Value::text("")}) : context.tuple({Value::text(""), Value::text(""), self});
    return context.tuple({Value::text(text.substr(0, at)), Value::text(separator), Value::text(text.substr(at + separator.size()))});
}

Result<Value> remove_prefix(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind_places(arguments, "removeprefix", 1, 1));
    SKIFF_TRY(auto prefix, to_view(*bound[0], "removeprefix"));
    return context.text(std::string(self.bytes().starts_with(prefix) ? self.bytes().substr(prefix.size()) : self.bytes()));
}

Result<Value> remove_suffix(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind_places(arguments, "removesuffix", 1, 1));
    SKIFF_TRY(auto suffix, to_view(*bound[0], "removesuffix"));
    return context.text(std::string(self.bytes().ends_with(suffix) ? self.bytes().substr(0, self.bytes().size() - suffix.size()) : self.bytes()));
}

Result<Value> replace(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind_places(arguments, "replace", 2, 3));
    SKIFF_TRY(auto old_part, to_view(*bound[0], "replace"));
    SKIFF_TRY(auto new_part, to_view(*bound[1], "replace"));
    std::int64_t limit = -1;
    if (bound[2]) {
        SKIFF_TRY(limit, to_index(*bound[2], "replace"));
    }
    SKIFF_TRY(auto replaced, replace_text(context, self.bytes(), old_part, new_part, limit));
    return context.text_like(self, std::move(replaced));
}

Result<Value> join(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind_places(arguments, "join", 1, 1));
    SKIFF_TRY(auto items, iterate(context, *bound[0]));
    std::string out;
    for (std::size_t i = 0; i < items.size(); ++i) {
        SKIFF_TRY(auto piece, to_view(items[i], "join"));
        SKIFF_CHECK(context.spend_bytes(piece.size() + self.bytes().size()));
        if (i) out += self.bytes();
        out += piece;
    }
    return context.text_like(self, std::move(out));
}

enum class Align { left, right, center, zero };

template <Align align>
Result<Value> pad(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind_places(arguments, "a padding method", 1, 2));
    SKIFF_TRY(auto width, to_index(*bound[0], "a padding method"));
    std::string_view fill = align == Align::zero ? "0" : " ";
    if (bound[1]) {
        SKIFF_TRY(fill, to_view(*bound[1], "a padding method"));
        if (count_points(fill) != 1) return runtime_error("the character to fill with must be one character");
    }
    auto size = static_cast<std::int64_t>(self.text().n_points);
    if (width <= size) return self;
    if (width > static_cast<std::int64_t>(context.options().max_output_bytes)) return resource_error("a padded string is over the limit for strings");
    auto missing = static_cast<std::size_t>(width - size);
    // Python puts the odd blank of center() on the left when the width is odd.
    std::size_t left = align == Align::left ? 0 : align == Align::center ? missing / 2 + (missing & static_cast<std::size_t>(width) & 1) : missing;
    std::string_view text = self.bytes();
    std::string out;
    if (align == Align::zero && (text.starts_with('-') || text.starts_with('+'))) {
        out += text[0];
        text.remove_prefix(1);
    }
    for (std::size_t i = 0; i < left; ++i) out += fill;
    out += text;
    for (std::size_t i = left; i < missing; ++i) out += fill;
    return context.text_like(self, std::move(out));
}

template <bool (*Holds)(char32_t)>
Result<Value> all_points(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_CHECK(no_arguments(arguments, "this string method"));
    SKIFF_CHECK(context.spend_bytes(self.bytes().size()));
    for (std::size_t position = 0; position < self.bytes().size();)
        if (!Holds(next_point(self.bytes(), position))) return Value(false);
    return Value(!self.bytes().empty());
}

bool is_alphanumeric(char32_t point) { return is_python_alpha(point) || is_python_digit(point); }

Result<Value> is_ascii_text(Context&, const Value& self, const Arguments&) { return Value(self.text().is_ascii()); }
Result<Value> is_printable(Context& context, const Value& self, const Arguments& arguments) {
    return self.bytes().empty() ? Value(true) : all_points<is_python_printable>(context, self, arguments);
}
Result<Value> is_upper(Context&, const Value& self, const Arguments&) { return Value(is_upper_text(self.bytes())); }
Result<Value> is_lower(Context&, const Value& self, const Arguments&) { return Value(is_lower_text(self.bytes())); }

constexpr FunctionRow text_methods[] = {
    {"capitalize", mapped<capitalize>},
    {"casefold", mapped<lower>},
    {"center", pad<Align::center>},
    {"count", count},
    {"encode", nullptr},
    {"endswith", starts_or_ends<Place::end>},
    {"expandtabs", nullptr},
    {"find", find<Place::start, Miss::minus_one>},
    {"format", brace_format},
    {"format_map", nullptr},
    {"index", find<Place::start, Miss::error>},
    {"isalnum", all_points<is_alphanumeric>},
    {"isalpha", all_points<is_python_alpha>},
    {"isascii", is_ascii_text},
    {"isdecimal", all_points<is_python_digit>},
    {"isdigit", all_points<is_python_digit>},
    {"isidentifier", nullptr},
    {"islower", is_lower},
    {"isnumeric", all_points<is_python_digit>},
    {"isprintable", is_printable},
    {"isspace", all_points<is_python_space>},
    {"istitle", nullptr},
    {"isupper", is_upper},
    {"join", join},
    {"ljust", pad<Align::left>},
    {"lower", mapped<lower>},
    {"lstrip", strip<Side::left>},
    {"maketrans", nullptr},
    {"partition", partition<Place::start>},
    {"removeprefix", remove_prefix},
    {"removesuffix", remove_suffix},
    {"replace", replace},
    {"rfind", find<Place::end, Miss::minus_one>},
    {"rindex", find<Place::end, Miss::error>},
    {"rjust", pad<Align::right>},
    {"rpartition", partition<Place::end>},
    {"rsplit", split<Place::end>},
    {"rstrip", strip<Side::right>},
    {"split", split<Place::start>},
    {"splitlines", split_at_lines},
    {"startswith", starts_or_ends<Place::start>},
    {"strip", strip<Side::both>},
    {"swapcase", mapped<swap_case>},
    {"title", mapped<title>},
    {"translate", nullptr},
    {"upper", mapped<upper>},
    {"zfill", pad<Align::zero>},
};

}  // namespace

bool is_upper_text(std::string_view text) {
    bool has_upper = false;
    for (std::size_t position = 0; position < text.size();) {
        char32_t point = next_point(text, position);
        if (is_python_lower(point)) return false;
        has_upper = has_upper || is_python_upper(point);
    }
    return has_upper;
}

bool is_lower_text(std::string_view text) {
    bool has_lower = false;
    for (std::size_t position = 0; position < text.size();) {
        char32_t point = next_point(text, position);
        if (is_python_upper(point)) return false;
        has_lower = has_lower || is_python_lower(point);
    }
    return has_lower;
}

Result<std::string> replace_text(Context& context, std::string_view text, std::string_view old_part, std::string_view new_part, std::int64_t limit) {
    std::string out;
    std::size_t max_bytes = 4 * context.options().max_output_bytes;
    SKIFF_CHECK(context.spend_bytes(text.size()));
    if (old_part.empty()) {  // before every character and at the end
        for (std::size_t position = 0; limit != 0 && out.size() <= max_bytes; --limit) {
            out += new_part;
            if (position >= text.size()) return out;
            std::size_t start = position;
            next_point(text, position);
            out += text.substr(start, position - start);
            if (limit == 1) return out += text.substr(position);
        }
        return out.size() > max_bytes ? Result<std::string>(resource_error("a string is over the limit for strings")) : std::string(text);
    }
    while (limit != 0) {
        std::size_t at = text.find(old_part);
        if (at == std::string_view::npos) break;
        out += text.substr(0, at);
        out += new_part;
        if (out.size() > max_bytes) return resource_error("a string is over the limit for strings");
        text = text.substr(at + old_part.size());
        --limit;
    }
    return out += text;
}

Method find_text_method(std::string_view name) {
    for (const FunctionRow& row : text_methods)
        if (row.name == name) return {true, true, row.function};
    return {};
}

}  // namespace skiff::tmpl
