// The attention kernels by the form of state that one file instantiates.
#pragma once

#include "kernels/cuda/launch.h"

namespace skiff::cuda {

int decode_attention_bf16(const DecodeAttentionArgs& args, const Launch& launch);
int decode_attention_coded(const DecodeAttentionArgs& args, const Launch& launch);
int prefill_attention_bf16(const PrefillAttentionArgs& args, const Launch& launch);
int prefill_attention_coded(const PrefillAttentionArgs& args, const Launch& launch);

}  // namespace skiff::cuda
