// What stands around cuBLASLt's products of 8-bit floats (E4M3): the inputs as such, with a scale for each token; the codes of a packed weight row by row; and what follows the product, whose
// sums lack the scales of both. The library's own scales are one for each operand; those of rows and tokens are applied here, in the pass that adds bias and residual.
#pragma once

#include "kernels/cuda/launch.h"

namespace skiff::cuda {

// Weights whose sums a row's scale finishes.
inline bool takes_fp8(const GpuWeight& weight) { return weight.form == CodeForm::e4m3 && weight.params == ParamForm::none && weight.row_scales != nullptr && !weight.two_of_four; }
// Columns of both operands of such a product, of which those behind the last are zero: the library wants rows of whole 16 bytes.
inline constexpr std::int64_t fp8_columns(std::int64_t n_columns) { return (n_columns + 15) / 16 * 16; }
inline constexpr float largest_e4m3 = 448;

// codes[t, c] = e4m3(x[t, c] / scales[t]), scales[t] = max |x[t, .]| / 448.
struct QuantizeRowsArgs {
    const void* x = nullptr;      // (n_tokens, n_columns) bf16, an operand in form rows; whole 16 bytes a row
    std::int64_t n_tokens = 0, n_columns = 0;
    void* codes = nullptr;        // (n_tokens, fp8_columns(n_columns)) e4m3
    float* scales = nullptr;      // (n_tokens)
};
int launch_quantize_rows(const QuantizeRowsArgs& args, const Launch& launch);

// Codes of rows [first_row, first_row + n_rows) of the packed order; rows that fill up the last tile are zeros. // target: (n_rows, fp8_columns(n_columns)) e4m3
struct Fp8RowsArgs {
    GpuWeight weight;
    std::int64_t first_row = 0, n_rows = 0;
    void* target = nullptr;
};
int launch_fp8_rows(const Fp8RowsArgs& args, const Launch& launch);

// y[t, r] = softcap(factor * x[t, r] * token_scales[t] * row_scales[r] + bias[r]) (+ y[t, r])
struct Fp8ResultArgs {
    const float* x = nullptr;             // (n_tokens, x_stride)
    std::int64_t x_stride = 0;
    const float* token_scales = nullptr;  // (n_tokens)
    const float* row_scales = nullptr;    // (n_rows)
    const float* bias = nullptr;          // (n_rows) or null
    std::int64_t n_tokens = 0, n_rows = 0;
    float factor = 1, softcap = 0;
    enum class Write : std::uint8_t { replace, add } write = Write::replace;
    float* y = nullptr;                   // (n_tokens, y_stride)
    std::int64_t y_stride = 0;
};
int launch_fp8_result(const Fp8ResultArgs& args, const Launch& launch);

}  // namespace skiff::cuda
