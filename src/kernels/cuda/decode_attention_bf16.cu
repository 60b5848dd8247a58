// Decode attention over a bf16 state.
#include "kernels/cuda/attention_families.h"
#include "kernels/cuda/decode_attention.cuh"

namespace skiff::cuda {

int decode_attention_bf16(const DecodeAttentionArgs& args, const Launch& launch) {
    const std::int64_t d = args.common.state.head_dim;
    return d <= 64 ? launch_decode_attention_of<64, true>(args, launch) : d <= 128 ? launch_decode_attention_of<128, true>(args, launch) : launch_decode_attention_of<256, true>(args, launch);
}

}  // namespace skiff::cuda
