// Linear kernels over tiles with int8 activations (i8_b32) for arm64 with the dot products of bytes (Armv8.2 and later: Cortex-A55, A76, Apple M1).
#include "kernels/cpu/tile_neon.h"

namespace skiff {

void linear_w1_r16_neon_dot(const LinearArgs& args, Range rows) { linear_neon<Products::dot, 1>(args, rows); }
void linear_w2_r16_neon_dot(const LinearArgs& args, Range rows) { linear_neon<Products::dot, 2>(args, rows); }
void linear_w3_r16_neon_dot(const LinearArgs& args, Range rows) { linear_neon<Products::dot, 3>(args, rows); }
void linear_w4_r16_neon_dot(const LinearArgs& args, Range rows) { linear_neon<Products::dot, 4>(args, rows); }
void linear_w5_r16_neon_dot(const LinearArgs& args, Range rows) { linear_neon<Products::dot, 5>(args, rows); }
void linear_w6_r16_neon_dot(const LinearArgs& args, Range rows) { linear_neon<Products::dot, 6>(args, rows); }
void linear_w8_r16_neon_dot(const LinearArgs& args, Range rows) { linear_neon<Products::dot, 8>(args, rows); }

}  // namespace skiff
