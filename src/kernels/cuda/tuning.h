// Every choice of a tile, a depth or a split, with its reason. No figure here was measured yet: they follow from the bytes that must be in flight.
#pragma once

#include "kernels/cuda/lane.h"

namespace skiff::cuda {

// ---- GEMV
// Eight warps share a tile of 16 rows and cut its columns among themselves. So a matrix of 4096 rows gives 256 blocks, two for each SM of the largest
// GPU, and each warp still reads a run of half a KiB and more. The cut depends on the width alone: sums have the same bits for any batch, any GPU.
constexpr int gemv_warps = 8;
// Units in a warp's ring. Little's law for the fastest memory here (H200: 4.8 TB/s over 132 SMs, about 0.8 us): 29 KiB in flight per SM. Two blocks give 16
// warps, so each should have about 4 KiB on its way; a ring holds one unit more, which is worked on.
constexpr int gemv_stages(CodeForm form) {
    const int pieces = unit_pieces(form);
    return pieces == 1 ? 8 : pieces == 2 ? 5 : pieces == 3 ? 4 : pieces <= 5 ? 3 : 2;
}

// ---- GEMM
// Each warp owns 32 rows (two tiles), so that a token's fragment, read from shared memory, is used twice: reading it for one tile would take longer
// than the products. 64 tokens of a block share the decoded weights. Four warps: 128 rows a block, and a matrix of 4096 rows still gives 32 blocks for each
// 64 tokens, times the split of columns below.
constexpr int gemm_warps = 4, gemm_warp_tiles = 2, gemm_tokens = 64;

// ---- decode attention
// A block takes one KV head and one split of the positions; its warps take turns at tiles of 16 positions. Two blocks per SM keep 128 KiB of keys and
// values on their way (bf16, head 128). At least 256 positions a split, so that the merge stays small beside the work.
constexpr int decode_attention_waves = 2, decode_attention_min_positions = 256, decode_attention_max_splits = 64;

}  // namespace skiff::cuda
