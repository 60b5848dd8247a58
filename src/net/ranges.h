// What the values of a network reach over images: where integers with fixed scales begin and end.
#pragma once

#include <span>
#include <vector>

#include "net/session.h"

namespace skiff::net {

struct ValueRange {
    float low = 0, high = 0;
};
// By value: 0 is the input, i + 1 what ops[i] gives. An error names the first that is not finite. // images: (n, input) f32
Result<std::vector<ValueRange>> value_ranges(const Net& net, std::span<const float> images, const SessionOptions& options);

}  // namespace skiff::net
