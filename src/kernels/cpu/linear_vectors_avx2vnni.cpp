// Linear kernels over tiles of vectors with int8 activations (i8_b32) for AVX2 with AVX-VNNI.
#include "kernels/cpu/tile_vectors_256.h"

namespace skiff {

void linear_vectors_r16_avx2vnni(const LinearArgs& args, Range rows) { linear_vectors<vnni>(args, rows); }

}  // namespace skiff
