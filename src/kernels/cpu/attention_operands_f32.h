// What queries and weights are while they are multiplied with the state's panels: f32, and codes where the state has codes.
#pragma once

#include "kernels/cpu/attention_products.h"

namespace skiff {
namespace {

inline bool has_codes(StateScheme scheme) { return scheme == StateScheme::int8 || scheme == StateScheme::int4; }

// Operands i .. i + 15 of a row.
inline void put_operands(float* row, std::int64_t i, Lanes x) { store_lanes(row + i, x); }

void multiply_stored(StateScheme scheme, const FloatProduct& product, std::int64_t n) {
    if (scheme == StateScheme::f32) multiply_floats<StateScheme::f32>(product, n);
    else if (scheme == StateScheme::f16) multiply_floats<StateScheme::f16>(product, n);
    else multiply_floats<StateScheme::bf16>(product, n);
}

}  // namespace
}  // namespace skiff
