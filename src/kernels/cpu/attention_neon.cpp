// Attention for NEON.
#include "kernels/cpu/attention_lanes_neon.h"
#include "kernels/cpu/attention_operands_f32.h"

#include "kernels/cpu/attention_body.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/state_write_body.h"

namespace skiff {

void attention_neon(const AttentionArgs& args, Range units) { attention(args, units); }
void state_write_neon(const StateWriteArgs& args, Range tokens) { state_write(args, tokens); }

}  // namespace skiff
