// Patterns as shells have them, for names of tensors.
#pragma once

#include <string_view>

namespace skiff {

// The whole of `text`: * is any characters or none, ? is one, all others are themselves. Takes at most |pattern| * |text| steps.
bool glob_matches(std::string_view pattern, std::string_view text);

}  // namespace skiff
