// Linear kernels over tiles with int8 activations (i8_b32) for every arm64 processor.
#include "kernels/cpu/tile_neon.h"

namespace skiff {

void linear_w1_r16_neon(const LinearArgs& args, Range rows) { linear_neon<Products::widening, 1>(args, rows); }
void linear_w2_r16_neon(const LinearArgs& args, Range rows) { linear_neon<Products::widening, 2>(args, rows); }
void linear_w3_r16_neon(const LinearArgs& args, Range rows) { linear_neon<Products::widening, 3>(args, rows); }
void linear_w4_r16_neon(const LinearArgs& args, Range rows) { linear_neon<Products::widening, 4>(args, rows); }
void linear_w5_r16_neon(const LinearArgs& args, Range rows) { linear_neon<Products::widening, 5>(args, rows); }
void linear_w6_r16_neon(const LinearArgs& args, Range rows) { linear_neon<Products::widening, 6>(args, rows); }
void linear_w8_r16_neon(const LinearArgs& args, Range rows) { linear_neon<Products::widening, 8>(args, rows); }

}  // namespace skiff
