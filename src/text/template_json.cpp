// The filter tojson: json.dumps with ensure_ascii off, as Hugging Face gives it to templates.
#include <algorithm>
#include <cmath>

#include "text/template_operators.h"
#include "text/template_tables.h"
#include "text/template_unicode.h"

namespace skiff::tmpl {
namespace {

struct JsonStyle {
    std::string item_separator = ", ", key_separator = ": ";
    std::optional<std::string> indent;
    bool ensure_ascii = false, sort_keys = false;
};

class JsonWriter {
public:
    JsonWriter(Context& context, const JsonStyle& style) : context_(context), style_(style) {}

    Status write(const Value& value, int depth) {
        SKIFF_CHECK(context_.spend(1));
        if (out.size() > 4 * context_.options().max_output_bytes) return resource_error("tojson: the result is over the limit for strings");
        if (value.is_none()) {
            out += "null";
        } else if (value.is_bool()) {
            out += value.boolean() ? "true" : "false";
        } else if (value.is_integer()) {
            out += std::to_string(value.integral());
        } else if (value.is_double()) {
            write_real(value.number());
        } else if (value.is_text()) {
            return write_text(value.bytes());
        } else if (value.is_sequence(SequenceKind::list) || value.is_sequence(SequenceKind::tuple)) {
            return write_list(value.sequence(), depth);
        } else if (value.is_dict()) {
            return write_dict(value.dict(), depth);
        } else {
            return runtime_error("tojson: '" + std::string(value.type_name()) + "' is not JSON serializable");
        }
        return {};
    }

    std::string out;

private:
    void write_real(double value) {
        out += std::isnan(value) ? "NaN" : std::isinf(value) ? (value < 0 ? "-Infinity" : "Infinity") : float_repr(value);
    }

    Status new_line(int depth) {
        if (!style_.indent) return {};
        SKIFF_CHECK(context_.spend_bytes(style_.indent->size() * static_cast<std::size_t>(depth)));
        out += '\n';
        for (int i = 0; i < depth; ++i) out += *style_.indent;
        return {};
    }

    void write_escape(char32_t unit) {
        static constexpr char hex[] = "0123456789abcdef";
        out += "\\u";
        for (int shift = 12; shift >= 0; shift -= 4) out += hex[(unit >> shift) & 15];
    }

    Status write_text(std::string_view text) {
        SKIFF_CHECK(context_.spend_bytes(text.size()));
        static constexpr std::string_view special = "\"\\\n\r\t\f\b", letters = "\"\\nrtfb";
        out += '"';
        for (std::size_t position = 0; position < text.size();) {
            std::size_t start = position;
            char32_t point = next_point(text, position);
            std::size_t known = point < 0x80 ? special.find(static_cast<char>(point)) : std::string_view::npos;
            if (known != std::string_view::npos) {
                out += '\\';
                out += letters[known];
            } else if (point < 0x20 || (style_.ensure_ascii && point > 0x7E && point < 0x10000)) {
                write_escape(point);
            } else if (style_.ensure_ascii && point >= 0x10000) {
                write_escape(0xD800 + ((point - 0x10000) >> 10));
                write_escape(0xDC00 + ((point - 0x10000) & 0x3FF));
            } else {
                out += text.substr(start, position - start);
            }
        }
        out += '"';
        return {};
    }

    Status write_list(const Sequence& list, int depth) {
        if (list.items.empty()) {
            out += "[]";
            return {};
        }
        out += '[';
        for (std::size_t i = 0; i < list.items.size(); ++i) {
            if (i) out += style_.item_separator;
            SKIFF_CHECK(new_line(depth + 1));
            SKIFF_CHECK(write(list.items[i], depth + 1));
        }
        SKIFF_CHECK(new_line(depth));
        out += ']';
        return {};
    }

    Status write_key(const Value& key) {
        if (key.is_text()) return write_text(key.bytes());
        if (!key.is_number() && !key.is_none()) return runtime_error("tojson: keys must be strings, numbers, booleans or none, found '" + std::string(key.type_name()) + "'");
        out += '"';
        SKIFF_CHECK(write(key, 0));
        out += '"';
        return {};
    }

    Status write_dict(const Dict& dict, int depth) {
        if (dict.members().empty()) {
            out += "{}";
            return {};
        }
        std::vector<const Dict::Member*> members;
        for (const auto& member : dict.members()) members.push_back(&member);
        if (style_.sort_keys) SKIFF_CHECK(sort(members));
        out += '{';
        for (std::size_t i = 0; i < members.size(); ++i) {
            if (i) out += style_.item_separator;
            SKIFF_CHECK(new_line(depth + 1));
            SKIFF_CHECK(write_key(members[i]->first));
            out += style_.key_separator;
            SKIFF_CHECK(write(members[i]->second, depth + 1));
        }
        SKIFF_CHECK(new_line(depth));
        out += '}';
        return {};
    }

    Status sort(std::vector<const Dict::Member*>& members) {
        std::optional<Error> failure;
        std::stable_sort(members.begin(), members.end(), [&](const Dict::Member* a, const Dict::Member* b) {
            if (failure) return false;
            auto smaller = compare(context_, Operator::less, a->first, b->first);
            if (!smaller.ok()) failure = smaller.take_error();
            return !failure && *smaller;
        });
        if (failure) return *std::move(failure);
        return {};
    }

    Context& context_;
    const JsonStyle& style_;
};

}  // namespace

Result<Value> to_json_filter(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "tojson", {"ensure_ascii", "indent", "separators", "sort_keys"}, 0));
    JsonStyle style;
    style.ensure_ascii = bound[0] && bound[0]->truthy();
    style.sort_keys = bound[3] && bound[3]->truthy();
    if (bound[1] && bound[1]->is_text()) {
        style.indent = std::string(bound[1]->bytes());
    } else if (bound[1] && !bound[1]->is_none()) {
        SKIFF_TRY(auto width, to_index(*bound[1], "tojson"));
        if (width > 1024) return resource_error("tojson: an indent above 1024");
        style.indent = std::string(static_cast<std::size_t>(std::max<std::int64_t>(0, width)), ' ');
    }
    if (style.indent) style.item_separator = ",";
    if (bound[2] && !bound[2]->is_none()) {
        SKIFF_TRY(auto separators, iterate(context, *bound[2]));
        if (separators.size() != 2) return runtime_error("tojson: separators must be a pair of strings");
        SKIFF_TRY(auto item_separator, to_view(separators[0], "tojson"));
        SKIFF_TRY(auto key_separator, to_view(separators[1], "tojson"));
        style.item_separator = item_separator;
        style.key_separator = key_separator;
    }
    JsonWriter writer(context, style);
    SKIFF_CHECK(writer.write(self, 0));
    return context.text(std::move(writer.out));
}

}  // namespace skiff::tmpl
