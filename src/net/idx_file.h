// The IDX format of the MNIST files: two zero bytes, a type, the number of dimensions, their sizes as big-endian 32-bit numbers, the numbers.
// http://yann.lecun.com/exdb/mnist/
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace skiff::net {

struct IdxArray {
    std::vector<std::int64_t> shape;
    std::vector<std::uint8_t> values;
};

// Unsigned bytes alone, up to four dimensions. The sizes must account for every byte, so nothing is allocated on a file's word.
Result<IdxArray> parse_idx(std::span<const std::byte> bytes);
Result<IdxArray> read_idx(const std::string& path);

}  // namespace skiff::net
