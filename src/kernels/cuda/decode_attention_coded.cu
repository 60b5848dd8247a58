// Decode attention over an fp8, int8 or int4 state.
#include "kernels/cuda/attention_families.h"
#include "kernels/cuda/decode_attention.cuh"

namespace skiff::cuda {

int decode_attention_coded(const DecodeAttentionArgs& args, const Launch& launch) {
    const std::int64_t d = args.common.state.head_dim;
    return d <= 64 ? launch_decode_attention_of<64, false>(args, launch) : d <= 128 ? launch_decode_attention_of<128, false>(args, launch) : launch_decode_attention_of<256, false>(args, launch);
}

}  // namespace skiff::cuda
