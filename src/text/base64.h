// Base64 (RFC 4648, standard alphabet), as tokenizer files use it.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace skiff {

// Padding may be absent. Any other character is an error.
Result<std::string> decode_base64(std::string_view text);
std::string encode_base64(std::string_view bytes);

}  // namespace skiff
