// Products of prompts by CUTLASS, in the place of cuBLASLt's: scale, bias, residual and activation are in the product's epilogue, so that an activated product is one launch that leaves the next
// one's operand. Compiled where CMake is told its headers (SKIFF_CUTLASS=FOLDER; cutlass/product.cu).
#pragma once

#include "kernels/cuda/launch.h"

namespace skiff::cuda {

// y[t, r] = factor * sum over c of x[t, c] * weight[r, c] + bias[r] (+ y[t, r]); activate: operand[t, first_row + r] = activation of it. Sums are f32. Whole 8 columns, whole 4 rows (activate: 8);
// addresses and strides in whole 16 bytes.
struct CutlassProductArgs {
    const void* weight = nullptr;  // (n_rows, n_columns) bf16, rows weight_stride elements apart
    const void* x = nullptr;       // (n_tokens, n_columns) bf16
    const float* bias = nullptr;   // (n_rows) or null
    std::int64_t n_tokens = 0, n_rows = 0, n_columns = 0, weight_stride = 0, x_stride = 0;
    float factor = 1;
    enum class Write : std::uint8_t { replace, add, activate } write = Write::replace;
    Activation activation = Activation::silu;  // of activate
    float* y = nullptr;                        // (n_tokens, y_stride); activate: null
    std::int64_t y_stride = 0;
    Operand operand;                           // of activate, in form rows
    std::int64_t first_row = 0;
};
int launch_cutlass_product(const CutlassProductArgs& args, const Launch& launch);

}  // namespace skiff::cuda
