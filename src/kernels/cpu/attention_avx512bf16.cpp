// Attention for AVX-512 with products of bf16, over a state of bf16; others as with AVX-512.
#include "kernels/cpu/attention_lanes_avx512.h"
#include "kernels/cpu/attention_operands_bf16.h"

#include "kernels/cpu/attention_body.h"
#include "kernels/cpu/cpu.h"

namespace skiff {

void attention_avx512bf16(const AttentionArgs& args, Range units) {
    if (args.scheme == StateScheme::bf16) attention(args, units);
    else attention_avx512(args, units);
}

}  // namespace skiff
