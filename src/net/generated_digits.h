// Digits drawn by program, 28x28 as MNIST's are: strokes with a random slant, size, place and thickness, over noise. For tests and examples that need no download.
#pragma once

#include "net/images.h"

namespace skiff::net {

LabelledImages generate_digits(std::int64_t n, std::uint64_t seed);

}  // namespace skiff::net
