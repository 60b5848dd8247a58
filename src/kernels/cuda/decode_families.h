#pragma once

#include "kernels/cuda/launch.h"

namespace skiff::cuda {

int decode_attention_bf16(const DecodeAttentionArgs& args, const Launch& launch);
int decode_attention_coded(const DecodeAttentionArgs& args, const Launch& launch);

}  // namespace skiff::cuda
