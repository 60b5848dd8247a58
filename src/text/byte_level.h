// GPT-2's spelling of bytes as printable characters: printable Latin-1 stands for itself, the rest for U+0100 upward.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace skiff {

void append_byte_level(std::string& out, std::string_view bytes);
// The bytes that the characters stand for; nothing if one of them stands for none.
std::optional<std::string> from_byte_level(std::string_view characters);

}  // namespace skiff
