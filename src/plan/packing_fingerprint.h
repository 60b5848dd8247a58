// Notices that code which packs or rounds weights has changed, even where nobody raised a version.
#pragma once

#include <cstdint>

#include "kernels/layout.h"

namespace skiff {

// Hash of the bytes that the layout of `like` makes of a small fixed matrix, stored as `like`'s numbers are (rounded anew where they are codes).
// 0 where no such matrix can be made.
std::uint64_t packing_fingerprint(const PackedWeight& like);

}  // namespace skiff
