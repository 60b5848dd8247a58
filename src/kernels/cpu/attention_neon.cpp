// Attention for NEON, every arm64 processor.
#include "kernels/cpu/attention_lanes_neon.h"

#include "kernels/cpu/attention_body.h"
#include "kernels/cpu/cpu.h"

namespace skiff {

void attention_neon(const AttentionArgs& args, Range units) { attention(args, units); }
void state_write_neon(const StateWriteArgs& args, Range tokens) { state_write(args, tokens); }

}  // namespace skiff
