#include "formats/gguf_value.h"

#include <limits>
#include <optional>
#include <type_traits>

namespace skiff {
namespace {

Error absent(std::string_view key) { return not_found("GGUF metadata has no \"" + std::string(key) + "\""); }

Error wrong_type(std::string_view key, std::string_view expected, const GgufValue& value) {
    return corrupt("GGUF metadata \"" + std::string(key) + "\": expected " + std::string(expected) + ", found " + gguf_value_description(value));
}

template <class T>
constexpr bool is_number = std::is_integral_v<T> && !std::is_same_v<T, bool>;

std::optional<std::int64_t> as_integer(const GgufValue& value) {
    return std::visit(
        [](const auto& v) -> std::optional<std::int64_t> {
            using T = std::decay_t<decltype(v)>;
            if constexpr (std::is_same_v<T, std::uint64_t>) {
                if (v > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return std::nullopt;
                return static_cast<std::int64_t>(v);
            } else if constexpr (is_number<T>) {
                return static_cast<std::int64_t>(v);
            } else {
                return std::nullopt;
            }
        },
        value);
}

template <class T>
Result<T> or_fallback(Result<T> found, T fallback) {
    if (!found.ok() && found.error().code == ErrorCode::not_found) return fallback;
    return found;
}

}  // namespace

std::string_view gguf_value_type_name(std::size_t type) {
    static constexpr std::string_view names[] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};
    static_assert(std::size(names) == n_gguf_value_types && std::variant_size_v<GgufValue> == n_gguf_value_types &&
                  std::variant_size_v<GgufArray> == n_gguf_value_types);
    return type < std::size(names) ? names[type] : "unknown";
}

std::size_t gguf_array_size(const GgufArray& array) {
    return std::visit(
        [](const auto& items) -> std::size_t {
            using T = std::decay_t<decltype(items)>;
            if constexpr (std::is_same_v<T, std::monostate>) return 0;
            else if constexpr (std::is_same_v<T, GgufBools>) return items.values.size();
            else return items.size();
        },
        array);
}

std::string gguf_value_description(const GgufValue& value) {
    const auto* array = std::get_if<GgufArray>(&value);
    if (array == nullptr) return std::string(gguf_value_type_name(value.index()));
    return "array of " + std::to_string(gguf_array_size(*array)) + " " + std::string(gguf_value_type_name(array->index()));
}

const GgufValue* GgufMetadata::find(std::string_view key) const {
    auto found = index_.find(key);
    return found == index_.end() ? nullptr : &entries_[found->second].second;
}

Status GgufMetadata::add(std::string key, GgufValue value) {
    if (!index_.emplace(key, entries_.size()).second) return corrupt("GGUF metadata has the key \"" + key + "\" twice");
    entries_.emplace_back(std::move(key), std::move(value));
    return {};
}

void GgufMetadata::set(std::string key, GgufValue value) {
    auto [place, is_new] = index_.emplace(key, entries_.size());
    if (is_new) entries_.emplace_back(std::move(key), std::move(value));
    else entries_[place->second].second = std::move(value);
}

Result<bool> GgufMetadata::boolean(std::string_view key) const {
    const GgufValue* value = find(key);
    if (value == nullptr) return absent(key);
    if (const bool* found = std::get_if<bool>(value)) return *found;
    return wrong_type(key, "bool", *value);
}

Result<std::int64_t> GgufMetadata::integer(std::string_view key) const {
    const GgufValue* value = find(key);
    if (value == nullptr) return absent(key);
    if (auto found = as_integer(*value)) return *found;
    return wrong_type(key, "an integer below 2^63", *value);
}

Result<double> GgufMetadata::number(std::string_view key) const {
    const GgufValue* value = find(key);
    if (value == nullptr) return absent(key);
    if (const float* found = std::get_if<float>(value)) return static_cast<double>(*found);
    if (const double* found = std::get_if<double>(value)) return *found;
    if (auto found = as_integer(*value)) return static_cast<double>(*found);
    return wrong_type(key, "a number", *value);
}

Result<std::string> GgufMetadata::text(std::string_view key) const {
    const GgufValue* value = find(key);
    if (value == nullptr) return absent(key);
    if (const std::string* found = std::get_if<std::string>(value)) return *found;
    return wrong_type(key, "string", *value);
}

Result<const GgufStrings*> GgufMetadata::strings(std::string_view key) const {
    const GgufValue* value = find(key);
    if (value == nullptr) return absent(key);
    const auto* array = std::get_if<GgufArray>(value);
    const auto* found = array == nullptr ? nullptr : std::get_if<GgufStrings>(array);
    if (found == nullptr) return wrong_type(key, "an array of strings", *value);
    return found;
}

Result<std::vector<std::int64_t>> GgufMetadata::integers(std::string_view key) const {
    const GgufValue* value = find(key);
    if (value == nullptr) return absent(key);
    if (auto one = as_integer(*value)) return std::vector<std::int64_t>{*one};
    const auto* array = std::get_if<GgufArray>(value);
    if (array == nullptr) return wrong_type(key, "an array of integers", *value);
    std::vector<std::int64_t> found;
    const bool fits = std::visit(
        [&](const auto& items) {
            using T = std::decay_t<decltype(items)>;
            if constexpr (!std::is_same_v<T, GgufBools> && !std::is_same_v<T, GgufStrings> && !std::is_same_v<T, std::monostate>) {
                if constexpr (is_number<typename T::value_type>) {
                    found.reserve(items.size());
                    for (auto item : items) {
                        auto wide = as_integer(GgufValue(item));
                        if (!wide) return false;
                        found.push_back(*wide);
                    }
                    return true;
                }
            }
            return false;
        },
        *array);
    if (!fits) return wrong_type(key, "an array of integers below 2^63", *value);
    return found;
}

Result<std::vector<float>> GgufMetadata::floats(std::string_view key) const {
    const GgufValue* value = find(key);
    if (value == nullptr) return absent(key);
    const auto* array = std::get_if<GgufArray>(value);
    const auto* found = array == nullptr ? nullptr : std::get_if<std::vector<float>>(array);
    if (found == nullptr) return wrong_type(key, "an array of f32", *value);
    return *found;
}

Result<std::vector<std::uint8_t>> GgufMetadata::bytes(std::string_view key) const {
    const GgufValue* value = find(key);
    if (value == nullptr) return absent(key);
    if (const auto* array = std::get_if<GgufArray>(value)) {
        if (const auto* found = std::get_if<std::vector<std::uint8_t>>(array)) return *found;
        if (const auto* found = std::get_if<std::vector<std::int8_t>>(array)) return std::vector<std::uint8_t>(found->begin(), found->end());
    }
    return wrong_type(key, "an array of bytes", *value);
}

Result<bool> GgufMetadata::boolean_or(std::string_view key, bool fallback) const { return or_fallback(boolean(key), fallback); }
Result<std::int64_t> GgufMetadata::integer_or(std::string_view key, std::int64_t fallback) const { return or_fallback(integer(key), fallback); }
Result<double> GgufMetadata::number_or(std::string_view key, double fallback) const { return or_fallback(number(key), fallback); }
Result<std::string> GgufMetadata::text_or(std::string_view key, std::string fallback) const { return or_fallback(text(key), std::move(fallback)); }

}  // namespace skiff
