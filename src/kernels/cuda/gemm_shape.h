// How a matrix is cut into the GEMM's blocks.
#pragma once

#include "kernels/cuda/families.h"
#include "kernels/cuda/tuning.h"

namespace skiff::cuda {

inline int gemm_warp_tiles(const GpuWeight& weight) { return gemm_warp_tiles_of(weight.form, family_of(weight) == Family::table_wide ? 2 : 1); }

inline std::int64_t gemm_blocks(const GpuWeight& weight, std::int64_t n_tokens) {
    const int rows = gemm_block_rows(gemm_warp_tiles(weight));
    return (static_cast<std::int64_t>(weight.n_tiles) * tile_rows + rows - 1) / rows * ((n_tokens + gemm_block_tokens - 1) / gemm_block_tokens);
}

// How many ways the columns are cut.
inline int gemm_splits(const GpuWeight& weight, std::int64_t n_tokens, const Launch& launch) {
    const std::int64_t blocks = gemm_blocks(weight, n_tokens);
    std::int64_t splits = blocks > 0 ? 2 * static_cast<std::int64_t>(launch.n_sms) / blocks : 1;
    if (splits > weight.n_units / gemm_least_units) splits = weight.n_units / gemm_least_units;
    return static_cast<int>(splits < 1 ? 1 : splits > gemm_max_splits ? gemm_max_splits : splits);
}

}  // namespace skiff::cuda
