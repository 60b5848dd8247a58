// What a calibration adds up over the inputs of linear operators (compress/calibrate), on the device: sums by column, and the second moments of all pairs of columns.
#pragma once

#include "kernels/cuda/launch.h"

namespace skiff::cuda {

// Token after token in double precision, as the processor adds them: the same bits.
struct ColumnSumsArgs {
    const float* x = nullptr;    // (n_tokens, x_stride) f32
    std::int64_t x_stride = 0, n_tokens = 0, n_columns = 0;
    double* sums = nullptr;      // (3, n_columns), added to: of x, |x| and x^2
    float* largest = nullptr;    // (n_columns) of |x|, raised
};
int launch_column_sums(const ColumnSumsArgs& args, const Launch& launch);

// gram += x^T x on the tensor cores: x as the sum of two bf16, of whose four products the smallest is left out, which keeps 16 bits and more of each; sums in f32.
// Only entries at and right of the diagonal, and some beside it, are written.
struct GramArgs {
    const float* x = nullptr;  // (n_tokens, x_stride) f32
    std::int64_t x_stride = 0, n_tokens = 0, n_columns = 0;
    float* gram = nullptr;     // (n_columns, n_columns) f32
};
int launch_gram(const GramArgs& args, const Launch& launch);

}  // namespace skiff::cuda
