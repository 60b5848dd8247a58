// Linear kernels over tiles of vectors with int8 activations (i8_b32) for AVX2.
#include "kernels/cpu/tile_vectors_256.h"

namespace skiff {

void linear_vectors_r16_avx2(const LinearArgs& args, Range rows) { linear_vectors<signed_levels>(args, rows); }

}  // namespace skiff
