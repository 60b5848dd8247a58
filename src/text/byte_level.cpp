#include "text/byte_level.h"

#include <array>
#include <cstdint>

#include "text/unicode.h"

namespace skiff {
namespace {

struct Tables {
    std::array<std::string, 256> spelling;
    std::array<std::int16_t, 0x180> byte_of{};
    Tables() {
        byte_of.fill(-1);
        char32_t next = 0x100;
        for (int byte = 0; byte < 256; ++byte) {
            const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
            const char32_t c = printable ? static_cast<char32_t>(byte) : next++;
            append_utf8(spelling[static_cast<std::size_t>(byte)], c);
            byte_of[c] = static_cast<std::int16_t>(byte);
        }
    }
};

const Tables& tables() {
    static const Tables instance;
    return instance;
}

}  // namespace

void append_byte_level(std::string& out, std::string_view bytes) {
    const auto& spelling = tables().spelling;
    for (char byte : bytes) out += spelling[static_cast<unsigned char>(byte)];
}

std::optional<std::string> from_byte_level(std::string_view characters) {
    const auto& byte_of = tables().byte_of;
    std::string bytes;
    bytes.reserve(characters.size());
    for (std::size_t at = 0; at < characters.size();) {
        const Utf8Step step = decode_utf8(characters, at);
        if (!step.valid || step.code_point >= byte_of.size() || byte_of[step.code_point] < 0) return std::nullopt;
        bytes += static_cast<char>(byte_of[step.code_point]);
        at += static_cast<std::size_t>(step.n_bytes);
    }
    return bytes;
}

}  // namespace skiff
