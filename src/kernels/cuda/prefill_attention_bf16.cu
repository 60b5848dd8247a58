// Prefill attention over a bf16 state.
#include "kernels/cuda/attention_families.h"
#include "kernels/cuda/prefill_attention.cuh"

namespace skiff::cuda {

int prefill_attention_bf16(const PrefillAttentionArgs& args, const Launch& launch) {
    const std::int64_t d = args.common.state.head_dim;
    return d <= 64 ? launch_prefill_attention_of<64, true>(args, launch) : d <= 128 ? launch_prefill_attention_of<128, true>(args, launch) : launch_prefill_attention_of<256, true>(args, launch);
}

}  // namespace skiff::cuda
