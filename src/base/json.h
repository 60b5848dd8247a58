// A JSON value, a reader with limits (for files and requests from outside) and a writer. Objects keep their order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"

namespace skiff {

struct JsonLimits {
    std::size_t max_depth = 64;
    std::size_t max_bytes = std::size_t{256} << 20;
    std::size_t max_values = std::size_t{1} << 26;
    bool allow_duplicate_keys = false;
    bool allow_trailing_spaces = true;  // after the document: space, tab, CR, LF
};

class Json {
public:
    using Array = std::vector<Json>;
    using Member = std::pair<std::string, Json>;
    using Object = std::vector<Member>;

    Json() = default;  // null
    Json(std::nullptr_t) {}
    Json(bool value) : value_(value) {}
    Json(double value) : value_(value) {}
    Json(float value) : value_(static_cast<double>(value)) {}
    Json(int value) : value_(static_cast<std::int64_t>(value)) {}
    Json(unsigned value) : value_(static_cast<std::int64_t>(value)) {}
    Json(long value) : value_(static_cast<std::int64_t>(value)) {}
    Json(long long value) : value_(static_cast<std::int64_t>(value)) {}
    Json(unsigned long value) : value_(static_cast<std::uint64_t>(value)) {}
    Json(unsigned long long value) : value_(static_cast<std::uint64_t>(value)) {}
    Json(const char* value) : value_(std::string(value)) {}
    Json(std::string value) : value_(std::move(value)) {}
    Json(std::string_view value) : value_(std::string(value)) {}
    Json(Array value) : value_(std::move(value)) {}
    Json(Object value) : value_(std::move(value)) {}

    static Json array(std::initializer_list<Json> items = {}) { return Json(Array(items)); }
    static Json object(std::initializer_list<Member> members = {}) { return Json(Object(members)); }

    static Result<Json> parse(std::string_view text, const JsonLimits& limits = {});
    // indent < 0: one line. Doubles are written so that they read back to the same bits; NaN and infinities become null.
    std::string dump(int indent = -1) const;

    bool is_null() const { return value_.index() == 0; }
    bool is_bool() const { return std::holds_alternative<bool>(value_); }
    bool is_integer() const { return std::holds_alternative<std::int64_t>(value_) || std::holds_alternative<std::uint64_t>(value_); }
    bool is_double() const { return std::holds_alternative<double>(value_); }
    bool is_number() const { return is_integer() || is_double(); }
    bool is_string() const { return std::holds_alternative<std::string>(value_); }
    bool is_array() const { return std::holds_alternative<Array>(value_); }
    bool is_object() const { return std::holds_alternative<Object>(value_); }
    std::string_view type_name() const;

    // Typed access; the wrong type is an Error that says what was found. `what` names the value in the message.
    Result<bool> as_bool(std::string_view what) const;
    Result<std::int64_t> as_int(std::string_view what) const;  // integers only, not 1e3
    Result<double> as_double(std::string_view what) const;     // integers convert
    Result<std::string> as_string(std::string_view what) const;

    // Unchecked views for values whose type has been looked at; empty for other types.
    const Array& items() const;
    const Object& members() const;
    const std::string& text() const;  // a string's bytes
    double number_or(double fallback) const;
    std::int64_t int_or(std::int64_t fallback) const;
    bool bool_or(bool fallback) const;

    // Member of an object, or null value / nullptr when absent.
    const Json* find(std::string_view key) const;
    const Json& operator[](std::string_view key) const;
    bool contains(std::string_view key) const { return find(key) != nullptr; }
    void set(std::string key, Json value);  // appends or replaces; a null value becomes an object
    void erase(std::string_view key);
    void push_back(Json value);  // a null value becomes an array
    std::size_t size() const;

    // Integers above INT64_MAX keep their value.
    const std::uint64_t* big_unsigned() const { return std::get_if<std::uint64_t>(&value_); }

private:
    std::variant<std::nullptr_t, bool, std::int64_t, std::uint64_t, double, std::string, Array, Object> value_ = nullptr;
};

Result<Json> read_json_file(const std::string& path, const JsonLimits& limits = {});

}  // namespace skiff
