#include "text/base64.h"

#include <array>
#include <cstdint>

namespace skiff {
namespace {

constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

constexpr std::array<std::int8_t, 256> make_values() {
    std::array<std::int8_t, 256> values{};
    for (auto& value : values) value = -1;
    for (std::size_t i = 0; i < alphabet.size(); ++i) values[static_cast<unsigned char>(alphabet[i])] = static_cast<std::int8_t>(i);
    return values;
}

}  // namespace

Result<std::string> decode_base64(std::string_view text) {
    static constexpr auto values = make_values();
    for (int i = 0; i < 2 && !text.empty() && text.back() == '='; ++i) text.remove_suffix(1);
    if (text.size() % 4 == 1) return corrupt("base64 text of " + std::to_string(text.size()) + " digits is cut short");
    std::string out;
    out.reserve(text.size() / 4 * 3 + 2);
    std::uint32_t bits = 0;
    int n_bits = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const int value = values[static_cast<unsigned char>(text[i])];
        if (value < 0) return corrupt("character " + std::to_string(i) + " is not a base64 digit");
        bits = (bits << 6) | static_cast<std::uint32_t>(value);
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            out += static_cast<char>((bits >> n_bits) & 0xFF);
        }
    }
    return out;
}

std::string encode_base64(std::string_view bytes) {
    std::string out;
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
        std::uint32_t bits = 0;
        for (std::size_t j = 0; j < 3; ++j) bits = (bits << 8) | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0u);
        for (std::size_t j = 0; j < 4; ++j) out += i + j > bytes.size() ? '=' : alphabet[(bits >> (18 - 6 * j)) & 63];
    }
    return out;
}

}  // namespace skiff
