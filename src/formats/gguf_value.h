// GGUF metadata: typed values under string keys, in the order of the file.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"

namespace skiff {

// Many strings in one piece of memory: a token list of 150 000 costs its text and eight bytes each.
class GgufStrings {
public:
    void reserve(std::size_t n) { ends_.reserve(n); }
    void push_back(std::string_view text) {
        text_.append(text);
        ends_.push_back(text_.size());
    }
    std::size_t size() const { return ends_.size(); }
    std::string_view operator[](std::size_t i) const {
        const std::size_t begin = i == 0 ? 0 : static_cast<std::size_t>(ends_[i - 1]);
        return std::string_view(text_).substr(begin, static_cast<std::size_t>(ends_[i]) - begin);
    }
    bool operator==(const GgufStrings&) const = default;

private:
    std::string text_;
    std::vector<std::uint64_t> ends_;
};

struct GgufBools {
    std::vector<std::uint8_t> values;  // 0 or 1
    bool operator==(const GgufBools&) const = default;
};

// The alternative's index is GGUF's number of the element type; 9 (an array in an array) is not read or written.
using GgufArray = std::variant<std::vector<std::uint8_t>, std::vector<std::int8_t>, std::vector<std::uint16_t>, std::vector<std::int16_t>,
                               std::vector<std::uint32_t>, std::vector<std::int32_t>, std::vector<float>, GgufBools, GgufStrings, std::monostate,
                               std::vector<std::uint64_t>, std::vector<std::int64_t>, std::vector<double>>;

// The alternative's index is GGUF's number of the value type.
using GgufValue = std::variant<std::uint8_t, std::int8_t, std::uint16_t, std::int16_t, std::uint32_t, std::int32_t, float, bool, std::string,
                               GgufArray, std::uint64_t, std::int64_t, double>;

inline constexpr std::uint32_t gguf_string_type = 8, gguf_array_type = 9, n_gguf_value_types = 13;

std::string_view gguf_value_type_name(std::size_t type);   // "u32", "string" ...
std::string gguf_value_description(const GgufValue& value);  // "u32", "array of 32000 strings"
std::size_t gguf_array_size(const GgufArray& array);

class GgufMetadata {
public:
    using Entry = std::pair<std::string, GgufValue>;

    const std::vector<Entry>& entries() const { return entries_; }
    const GgufValue* find(std::string_view key) const;
    bool contains(std::string_view key) const { return find(key) != nullptr; }
    Status add(std::string key, GgufValue value);  // an error when the key is there already
    void set(std::string key, GgufValue value);    // appends, or replaces in place

    // Typed access. An absent key is a not_found error, another type a corrupt error that names both types.
    Result<bool> boolean(std::string_view key) const;
    Result<std::int64_t> integer(std::string_view key) const;             // any integer type
    Result<double> number(std::string_view key) const;                    // f32, f64 and integers
    Result<std::string> text(std::string_view key) const;
    Result<const GgufStrings*> strings(std::string_view key) const;
    Result<std::vector<std::int64_t>> integers(std::string_view key) const;  // an integer array, or one integer (per-layer keys come as either)
    Result<std::vector<float>> floats(std::string_view key) const;           // an f32 array
    Result<std::vector<std::uint8_t>> bytes(std::string_view key) const;     // a u8 or i8 array

    // The same with a value for an absent key; a wrong type remains an error.
    Result<bool> boolean_or(std::string_view key, bool fallback) const;
    Result<std::int64_t> integer_or(std::string_view key, std::int64_t fallback) const;
    Result<double> number_or(std::string_view key, double fallback) const;
    Result<std::string> text_or(std::string_view key, std::string fallback) const;

private:
    std::vector<Entry> entries_;
    std::map<std::string, std::size_t, std::less<>> index_;
};

}  // namespace skiff
