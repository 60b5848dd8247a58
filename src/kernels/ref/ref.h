// The reference kernels: plain loops, sums in double, no intrinsics. The truth that every other row is tested against.
#pragma once

#include "kernels/kernels.h"

namespace skiff {

void norm_ref(const NormArgs& args, Range items);
void rope_ref(const RopeArgs& args, Range tokens);
void state_write_ref(const StateWriteArgs& args, Range tokens);
void attention_ref(const AttentionArgs& args, Range units);
void causal_conv_ref(const CausalConvArgs& args, Range columns);
void activation_ref(const ElementArgs& args, Range elements);
void multiply_ref(const ElementArgs& args, Range elements);
void add_ref(const ElementArgs& args, Range elements);
void scale_ref(const ElementArgs& args, Range elements);
void softcap_ref(const ElementArgs& args, Range elements);
void linear_ref(const LinearArgs& args, Range rows);
void linear_outliers(const LinearArgs& args, Range rows);  // outlier_rows, of which a row is a few products; no reference
void quantize_ref(const QuantizeArgs& args, Range tokens);

}  // namespace skiff
