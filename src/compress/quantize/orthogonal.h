// Orthogonal matrices that spread a vector's energy evenly over its entries.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace skiff {

// Entries +-1, rows orthogonal: Sylvester's doubling of a core of 1, or of q + 1 (q a prime, 3 modulo 4) or 2 (q + 1) (q a prime, 1 modulo 4) by Paley.
// Nothing where no such core divides n by a power of two: n must be 1, 2 or a multiple of 4. // (n, n)
std::optional<std::vector<float>> hadamard_matrix(std::int64_t n);

struct Orthogonal {
    std::vector<float> matrix;  // (n, n): its rows and its columns have length 1
    std::string kind;           // "hadamard" or "random"
};
// A Hadamard matrix with random signs of its rows, over sqrt(n); where there is none, the orthogonal part of a matrix of normal numbers.
Result<Orthogonal> random_orthogonal(std::int64_t n, std::uint64_t seed);

}  // namespace skiff
