// Every choice of a tile, a depth or a split, with its reason: most follow from the bytes that must be in flight; what was measured says so (H200).
#pragma once

#include "kernels/cuda/lane.h"

namespace skiff::cuda {

// ---- GEMV
// Eight warps share a tile of 16 rows and cut its columns among themselves. So a matrix of 4096 rows gives 256 blocks, two for each SM of the largest
// GPU, and each warp still reads a run of half a KiB and more. The cut depends on the width alone: sums have the same bits for any batch, any GPU.
// Two blocks of an SM: up to 128 registers. Asked for more, ptxas keeps to 64 or 80 and spills a word here and there.
constexpr int gemv_warps = 8;
// Matrices of few rows, whose blocks would leave an SM two or fewer: sixteen warps share a tile, so that each has half as much to do one after another. Of bf16, and of
// experts; integer codes are multiplied as digits, by eight (gemv_digits.cuh).
constexpr int gemv_many_warps = 16, gemv_few_tiles = 256;
constexpr int most_touched_bytes = 64 * 1024;  // of inputs, that a block brings to the L1 at once
constexpr int gemv_least_blocks(CodeForm form, int n_parts, int n_blocks, int n_warps) {
    if (n_warps > gemv_warps) return n_blocks > 1 ? 1 : 2;
    return n_blocks > 1 || form == CodeForm::f32 || n_parts > 1 || form == CodeForm::bf16 ? 2 : 3;
}
// A warp takes 2 KiB of codes at a time (bf16, f32: a unit): what a chunk costs beside its columns (addresses, waiting, copying) is a hundred instructions, and at the memory's
// speed there is time for three of each 32 4-bit weights.
constexpr int gemv_chunk_units(CodeForm form) {
    const int bits = code_bits(form), columns = bits >= 16 ? 64 : bits == 8 ? 128 : 256;
    return columns > unit_columns(form) ? columns / unit_columns(form) : 1;
}
// Chunks in a warp's ring. Little's law for the fastest memory here (H200: 4.8 TB/s over 132 SMs, about 0.8 us): 29 KiB in flight per SM. Two blocks give 16
// warps, so each should have 2 to 4 KiB on its way; a ring holds one chunk more, which is worked on.
constexpr int gemv_stages(CodeForm form, int n_warps) {
    const int pieces = unit_pieces(form) * gemv_chunk_units(form), most = n_warps > gemv_warps ? 3 : 5;
    const int stages = form == CodeForm::bf16 ? 4 : pieces <= 2 ? 5 : pieces == 3 ? 4 : pieces <= 6 ? 3 : 2;
    return stages < most ? stages : most;
}

// Groups of 16 columns with a record of 8 bytes make a chunk of the narrow codes several times as large: then a ring has only what 99 KiB hold (sm_86, sm_89). Sixteen warps have groups of
// 64 and more.
constexpr int gemv_few_stages(CodeForm form, int n_warps) {
    const int columns = n_warps > gemv_warps ? 64 : 16, widest = gemv_chunk_units(form) * (unit_pieces(form) * 512 + unit_columns(form) / columns * tile_rows * 8);
    const int fit = 90 * 1024 / (n_warps * widest), stages = gemv_stages(form, n_warps);
    return fit < stages ? fit : stages;
}

// ---- GEMM
// Each warp owns 32 rows (two tiles), so that a token's fragment, read from shared memory, is used twice: reading it for one tile would take longer
// than the products. 64 tokens of a block share the decoded weights. Four warps: 128 rows a block. A matrix of 4096 rows gives 32 blocks for each
// 64 tokens, so the columns are cut (up to eight ways, at least four units each) until there are two blocks for each SM.
constexpr int gemm_warps = 4, gemm_token_tiles = 8, gemm_block_tokens = 8 * gemm_token_tiles, gemm_max_splits = 8, gemm_least_units = 4;
constexpr int gemm_block_rows(int warp_tiles) { return gemm_warps * warp_tiles * tile_rows; }
// One tile a warp for f32, whose ring would not fit 99 KiB (sm_86, sm_89), and for tables in two parts, which fill the registers.
constexpr int gemm_warp_tiles_of(CodeForm form, int n_parts) { return form == CodeForm::f32 || (is_table(form) && n_parts == 2) ? 1 : 2; }
// Slabs of x on their way or in use; units of weights ahead of the one in use.
constexpr int gemm_x_stages = 3;
constexpr int gemm_units_ahead(int n_unit_slabs) { return n_unit_slabs == 1 ? gemm_x_stages - 1 : 1; }

// ---- decode attention
// A block takes one KV head and one split of the positions; its warps take turns at tiles of 16 positions. Two blocks per SM keep 128 KiB of keys and
// values on their way (bf16, head 128). At least 128 positions a split, so that the merge stays small beside the work.
constexpr int decode_attention_waves = 2, decode_attention_min_positions = 128, decode_attention_max_splits = 64;

}  // namespace skiff::cuda
