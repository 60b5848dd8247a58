// Attention for AVX2.
#include "kernels/cpu/attention_lanes_avx2.h"
#include "kernels/cpu/attention_operands_f32.h"

#include "kernels/cpu/attention_body.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/state_write_body.h"

namespace skiff {

void attention_avx2(const AttentionArgs& args, Range units) { attention(args, units); }
void state_write_avx2(const StateWriteArgs& args, Range tokens) { state_write(args, tokens); }

}  // namespace skiff
