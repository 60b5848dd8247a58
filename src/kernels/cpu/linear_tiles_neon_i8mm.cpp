// Linear kernels over tiles with int8 activations (i8_b32) for arm64 with the 8-bit matrix products (Graviton 3, Apple M2).
#include "kernels/cpu/tile_neon.h"

namespace skiff {

void linear_w1_r16_neon_i8mm(const LinearArgs& args, Range rows) { linear_neon<Products::matrix, 1>(args, rows); }
void linear_w2_r16_neon_i8mm(const LinearArgs& args, Range rows) { linear_neon<Products::matrix, 2>(args, rows); }
void linear_w3_r16_neon_i8mm(const LinearArgs& args, Range rows) { linear_neon<Products::matrix, 3>(args, rows); }
void linear_w4_r16_neon_i8mm(const LinearArgs& args, Range rows) { linear_neon<Products::matrix, 4>(args, rows); }
void linear_w5_r16_neon_i8mm(const LinearArgs& args, Range rows) { linear_neon<Products::matrix, 5>(args, rows); }
void linear_w6_r16_neon_i8mm(const LinearArgs& args, Range rows) { linear_neon<Products::matrix, 6>(args, rows); }
void linear_w8_r16_neon_i8mm(const LinearArgs& args, Range rows) { linear_neon<Products::matrix, 8>(args, rows); }

}  // namespace skiff
