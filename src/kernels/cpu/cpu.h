// The kernels written for one instruction set. table.cpp names them; nothing else calls them.
#pragma once

#include "kernels/kernels.h"

namespace skiff {

void norm_avx2(const NormArgs& args, Range items);
void rope_avx2(const RopeArgs& args, Range tokens);
void attention_avx2(const AttentionArgs& args, Range units);
void state_write_avx2(const StateWriteArgs& args, Range tokens);
void attention_avx512(const AttentionArgs& args, Range units);
void attention_avx512bf16(const AttentionArgs& args, Range units);
void state_write_avx512(const StateWriteArgs& args, Range tokens);
void activation_avx2(const ElementArgs& args, Range elements);
void multiply_avx2(const ElementArgs& args, Range elements);
void add_avx2(const ElementArgs& args, Range elements);
void scale_avx2(const ElementArgs& args, Range elements);
void causal_conv_avx2(const CausalConvArgs& args, Range columns);
void softcap_avx2(const ElementArgs& args, Range elements);
void quantize_avx2(const QuantizeArgs& args, Range tokens);
void linear_w1_r16_avx2(const LinearArgs& args, Range rows);
void linear_w2_r16_avx2(const LinearArgs& args, Range rows);
void linear_w3_r16_avx2(const LinearArgs& args, Range rows);
void linear_w4_r16_avx2(const LinearArgs& args, Range rows);
void linear_w5_r16_avx2(const LinearArgs& args, Range rows);
void linear_w6_r16_avx2(const LinearArgs& args, Range rows);
void linear_w8_r16_avx2(const LinearArgs& args, Range rows);
void linear_w1_r16_avx2vnni(const LinearArgs& args, Range rows);
void linear_w2_r16_avx2vnni(const LinearArgs& args, Range rows);
void linear_w3_r16_avx2vnni(const LinearArgs& args, Range rows);
void linear_w4_r16_avx2vnni(const LinearArgs& args, Range rows);
void linear_w5_r16_avx2vnni(const LinearArgs& args, Range rows);
void linear_w6_r16_avx2vnni(const LinearArgs& args, Range rows);
void linear_w8_r16_avx2vnni(const LinearArgs& args, Range rows);
void linear_w1_r16_avx512(const LinearArgs& args, Range rows);
void linear_w2_r16_avx512(const LinearArgs& args, Range rows);
void linear_w3_r16_avx512(const LinearArgs& args, Range rows);
void linear_w4_r16_avx512(const LinearArgs& args, Range rows);
void linear_w5_r16_avx512(const LinearArgs& args, Range rows);
void linear_w6_r16_avx512(const LinearArgs& args, Range rows);
void linear_w8_r16_avx512(const LinearArgs& args, Range rows);
void linear_w4_r16_2of4_avx512(const LinearArgs& args, Range rows);
void linear_w8_r16_2of4_avx512(const LinearArgs& args, Range rows);
void linear_w4_r16_mask_avx512vbmi(const LinearArgs& args, Range rows);
void linear_w8_r16_mask_avx512vbmi(const LinearArgs& args, Range rows);
void linear_w1_r16_amx(const LinearArgs& args, Range rows);
void linear_w2_r16_amx(const LinearArgs& args, Range rows);
void linear_w3_r16_amx(const LinearArgs& args, Range rows);
void linear_w4_r16_amx(const LinearArgs& args, Range rows);
void linear_w5_r16_amx(const LinearArgs& args, Range rows);
void linear_w6_r16_amx(const LinearArgs& args, Range rows);
void linear_w8_r16_amx(const LinearArgs& args, Range rows);
void linear_vectors_r16_avx2(const LinearArgs& args, Range rows);
void linear_vectors_r16_avx2vnni(const LinearArgs& args, Range rows);
void linear_vectors_r16_avx512vbmi(const LinearArgs& args, Range rows);
void linear_luts_avx2(const LinearArgs& args, Range rows);
void linear_luts_avx512vbmi(const LinearArgs& args, Range rows);
void linear_bank_avx2(const LinearArgs& args, Range rows);
void linear_rows_avx2(const LinearArgs& args, Range rows);  // any layout: plain_rows read as stored, others row by row

void norm_neon(const NormArgs& args, Range items);
void rope_neon(const RopeArgs& args, Range tokens);
void attention_neon(const AttentionArgs& args, Range items);
void state_write_neon(const StateWriteArgs& args, Range tokens);
void activation_neon(const ElementArgs& args, Range elements);
void multiply_neon(const ElementArgs& args, Range elements);
void add_neon(const ElementArgs& args, Range elements);
void scale_neon(const ElementArgs& args, Range elements);
void softcap_neon(const ElementArgs& args, Range elements);
void quantize_neon(const QuantizeArgs& args, Range tokens);
void linear_w1_r16_neon(const LinearArgs& args, Range rows);
void linear_w2_r16_neon(const LinearArgs& args, Range rows);
void linear_w3_r16_neon(const LinearArgs& args, Range rows);
void linear_w4_r16_neon(const LinearArgs& args, Range rows);
void linear_w5_r16_neon(const LinearArgs& args, Range rows);
void linear_w6_r16_neon(const LinearArgs& args, Range rows);
void linear_w8_r16_neon(const LinearArgs& args, Range rows);
void linear_w1_r16_neon_dot(const LinearArgs& args, Range rows);
void linear_w2_r16_neon_dot(const LinearArgs& args, Range rows);
void linear_w3_r16_neon_dot(const LinearArgs& args, Range rows);
void linear_w4_r16_neon_dot(const LinearArgs& args, Range rows);
void linear_w5_r16_neon_dot(const LinearArgs& args, Range rows);
void linear_w6_r16_neon_dot(const LinearArgs& args, Range rows);
void linear_w8_r16_neon_dot(const LinearArgs& args, Range rows);
void linear_w1_r16_neon_i8mm(const LinearArgs& args, Range rows);
void linear_w2_r16_neon_i8mm(const LinearArgs& args, Range rows);
void linear_w3_r16_neon_i8mm(const LinearArgs& args, Range rows);
void linear_w4_r16_neon_i8mm(const LinearArgs& args, Range rows);
void linear_w5_r16_neon_i8mm(const LinearArgs& args, Range rows);
void linear_w6_r16_neon_i8mm(const LinearArgs& args, Range rows);
void linear_w8_r16_neon_i8mm(const LinearArgs& args, Range rows);
void linear_rows_neon(const LinearArgs& args, Range rows);  // as linear_rows_avx2

}  // namespace skiff
