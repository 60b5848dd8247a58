// The only file that includes nlohmann/json: its SAX parser reads, our limits are applied at every event.
#include "base/json.h"

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/mapped_file.h"

namespace skiff {
namespace {

using Sax = nlohmann::json_sax<nlohmann::json>;

class LimitedBuilder final : public Sax {
public:
    explicit LimitedBuilder(const JsonLimits& limits) : limits_(limits) {}

    bool null() override { return put(Json()); }
    bool boolean(bool value) override { return put(Json(value)); }
    bool number_integer(number_integer_t value) override { return put(Json(static_cast<std::int64_t>(value))); }
    bool number_unsigned(number_unsigned_t value) override {
        if (value <= static_cast<std::uint64_t>(INT64_MAX)) return put(Json(static_cast<std::int64_t>(value)));
        return put(Json(static_cast<std::uint64_t>(value)));
    }
    bool number_float(number_float_t value, const string_t&) override {
        if (!std::isfinite(value)) return fail("a number is out of range");
        return put(Json(value));
    }
    bool string(string_t& value) override { return put(Json(std::move(value))); }
    bool binary(binary_t&) override { return fail("binary values are not JSON"); }

    bool start_object(std::size_t) override { return open(Json(Json::Object{})); }
    bool start_array(std::size_t) override { return open(Json(Json::Array{})); }
    bool end_object() override { return close(); }
    bool end_array() override { return close(); }

    bool key(string_t& value) override {
        Frame& frame = stack_.back();
        if (!limits_.allow_duplicate_keys && !frame.keys.insert(value).second) return fail("key \"" + value + "\" appears twice");
        frame.key = std::move(value);
        return true;
    }

    bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) override {
        std::string text = error.what();
        auto bracket = text.find("] ");
        return fail((bracket == std::string::npos ? text : text.substr(bracket + 2)) + " (byte " + std::to_string(position) + ")");
    }

    Json take() { return std::move(root_); }
    const std::string& message() const { return message_; }

private:
    struct Frame {
        Json value;
        std::string key;
        std::unordered_set<std::string> keys;
    };

    bool fail(std::string message) {
        if (message_.empty()) message_ = std::move(message);
        return false;
    }
    bool count() {
        if (++n_values_ > limits_.max_values) return fail("more than " + std::to_string(limits_.max_values) + " values");
        return true;
    }
    bool open(Json container) {
        if (stack_.size() >= limits_.max_depth) return fail("nested deeper than " + std::to_string(limits_.max_depth) + " levels");
        stack_.push_back({std::move(container), {}, {}});
        return count();
    }
    bool close() {
        Json value = std::move(stack_.back().value);
        stack_.pop_back();
        return attach(std::move(value));
    }
    bool put(Json value) { return count() && attach(std::move(value)); }
    bool attach(Json value) {
        if (stack_.empty()) {
            root_ = std::move(value);
            return true;
        }
        Frame& frame = stack_.back();
        if (frame.value.is_array()) {
            frame.value.push_back(std::move(value));
        } else {
            const_cast<Json::Object&>(frame.value.members()).emplace_back(std::move(frame.key), std::move(value));
        }
        return true;
    }

    JsonLimits limits_;
    Json root_;
    std::vector<Frame> stack_;
    std::size_t n_values_ = 0;
    std::string message_;
};

void write_string(std::string& out, const std::string& text) {
    static constexpr char hex[] = "0123456789abcdef";
    out += '"';
    for (char c : text) {
        auto byte = static_cast<unsigned char>(c);
        switch (c) {
            case '"': out += "\\\""; break;
            case '\\': out += "\\\\"; break;
            case '\n': out += "\\n"; break;
            case '\r': out += "\\r"; break;
            case '\t': out += "\\t"; break;
            case '\b': out += "\\b"; break;
            case '\f': out += "\\f"; break;
            default:
                if (byte < 0x20) {
                    out += "\\u00";
                    out += hex[byte >> 4];
                    out += hex[byte & 15];
                } else {
                    out += c;
                }
        }
    }
    out += '"';
}

void write_number(std::string& out, double value) {
    if (!std::isfinite(value)) {
        out += "null";
        return;
    }
    char buffer[40];
    auto end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
    std::string_view digits(buffer, static_cast<std::size_t>(end - buffer));
    out += digits;
    if (digits.find_first_of(".eE") == std::string_view::npos) out += ".0";
}

void write_line_break(std::string& out, int indent, int depth) {
    if (indent < 0) return;
    out += '\n';
    out.append(static_cast<std::size_t>(indent) * static_cast<std::size_t>(depth), ' ');
}

void write_value(std::string& out, const Json& value, int indent, int depth) {
    if (value.is_null()) {
        out += "null";
    } else if (value.is_bool()) {
        out += value.bool_or(false) ? "true" : "false";
    } else if (auto* big = value.big_unsigned()) {
        out += std::to_string(*big);
    } else if (value.is_integer()) {
        out += std::to_string(value.int_or(0));
    } else if (value.is_double()) {
        write_number(out, value.number_or(0));
    } else if (value.is_string()) {
        write_string(out, value.text());
    } else if (value.is_array()) {
        out += '[';
        bool first = true;
        for (const Json& item : value.items()) {
            if (!first) out += indent < 0 ? ", " : ",";
            first = false;
            write_line_break(out, indent, depth + 1);
            write_value(out, item, indent, depth + 1);
        }
        if (!first) write_line_break(out, indent, depth);
        out += ']';
    } else {
        out += '{';
        bool first = true;
        for (const auto& [key, member] : value.members()) {
            if (!first) out += indent < 0 ? ", " : ",";
            first = false;
            write_line_break(out, indent, depth + 1);
            write_string(out, key);
            out += ": ";
            write_value(out, member, indent, depth + 1);
        }
        if (!first) write_line_break(out, indent, depth);
        out += '}';
    }
}

bool is_json_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

}  // namespace

Result<Json> Json::parse(std::string_view text, const JsonLimits& limits) {
    if (text.size() > limits.max_bytes)
        return corrupt("JSON of " + std::to_string(text.size()) + " bytes is over the limit of " + std::to_string(limits.max_bytes));
    if (!limits.allow_trailing_spaces && !text.empty() && is_json_space(text.back())) return corrupt("JSON: spaces after the document");
    LimitedBuilder builder(limits);
    bool ok = nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
    if (!ok || !builder.message().empty()) return corrupt("JSON: " + (builder.message().empty() ? "invalid" : builder.message()));
    return builder.take();
}

std::string Json::dump(int indent) const {
    std::string out;
    write_value(out, *this, indent, 0);
    return out;
}

std::string_view Json::type_name() const {
    static constexpr std::string_view names[] = {"null", "a boolean", "an integer", "an integer", "a number", "a string", "an array", "an object"};
    return names[value_.index()];
}

Result<bool> Json::as_bool(std::string_view what) const {
    if (auto* value = std::get_if<bool>(&value_)) return *value;
    return corrupt(std::string(what) + ": expected true or false, found " + std::string(type_name()));
}

Result<std::int64_t> Json::as_int(std::string_view what) const {
    if (auto* value = std::get_if<std::int64_t>(&value_)) return *value;
    if (auto* value = big_unsigned(); value && *value <= INT64_MAX) return int_or(0);  // one that was never text
    return corrupt(std::string(what) + ": expected an integer, found " + std::string(type_name()));
}

Result<double> Json::as_double(std::string_view what) const {
    if (is_number()) return number_or(0);
    return corrupt(std::string(what) + ": expected a number, found " + std::string(type_name()));
}

Result<std::string> Json::as_string(std::string_view what) const {
    if (auto* value = std::get_if<std::string>(&value_)) return *value;
    return corrupt(std::string(what) + ": expected a string, found " + std::string(type_name()));
}

const Json::Array& Json::items() const {
    static const Array empty;
    auto* value = std::get_if<Array>(&value_);
    return value ? *value : empty;
}

const Json::Object& Json::members() const {
    static const Object empty;
    auto* value = std::get_if<Object>(&value_);
    return value ? *value : empty;
}

const std::string& Json::text() const {
    static const std::string empty;
    auto* value = std::get_if<std::string>(&value_);
    return value ? *value : empty;
}

double Json::number_or(double fallback) const {
    if (auto* value = std::get_if<double>(&value_)) return *value;
    if (auto* value = std::get_if<std::int64_t>(&value_)) return static_cast<double>(*value);
    if (auto* value = std::get_if<std::uint64_t>(&value_)) return static_cast<double>(*value);
    return fallback;
}

std::int64_t Json::int_or(std::int64_t fallback) const {
    if (auto* value = std::get_if<std::int64_t>(&value_)) return *value;
    const std::uint64_t* value = big_unsigned();
    return value && *value <= INT64_MAX ? static_cast<std::int64_t>(*value) : fallback;
}

bool Json::bool_or(bool fallback) const {
    auto* value = std::get_if<bool>(&value_);
    return value ? *value : fallback;
}

const Json* Json::find(std::string_view key) const {
    for (const auto& [name, member] : members())
        if (name == key) return &member;
    return nullptr;
}

const Json& Json::operator[](std::string_view key) const {
    static const Json null_value;
    const Json* found = find(key);
    return found ? *found : null_value;
}

void Json::set(std::string key, Json value) {
    if (is_null()) value_ = Object{};
    auto& object = std::get<Object>(value_);
    for (auto& [name, member] : object) {
        if (name == key) {
            member = std::move(value);
            return;
        }
    }
    object.emplace_back(std::move(key), std::move(value));
}

void Json::erase(std::string_view key) {
    if (auto* object = std::get_if<Object>(&value_)) std::erase_if(*object, [&](const Member& member) { return member.first == key; });
}

void Json::push_back(Json value) {
    if (is_null()) value_ = Array{};
    std::get<Array>(value_).push_back(std::move(value));
}

std::size_t Json::size() const { return is_array() ? items().size() : members().size(); }

Result<Json> read_json_file(const std::string& path, const JsonLimits& limits) {
    SKIFF_TRY(auto text, read_text_file(path, limits.max_bytes));
    auto json = Json::parse(text, limits);
    if (!json.ok()) return json.take_error().with_context(path);
    return json;
}

}  // namespace skiff
