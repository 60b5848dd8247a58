// What stands around the libraries: the activation of gate and up in the order in which they are packed; rows of bf16 as numbers and operands; and reading memory, to know how fast that is.
#pragma once

#include "kernels/cuda/launch.h"

namespace skiff::cuda {

// operand[t, j] = activation(row of gate) * (row of up), from a product in the order of Interleave::gate_up.
struct PairsArgs {
    const float* x = nullptr;     // (n_tokens, ceil(n_pairs / 8) * 16) f32: eight of gate, eight of up, and so on
    const float* bias = nullptr;  // (ceil(n_pairs / 8) * 16) or null
    const float* token_scales = nullptr;  // (n_tokens) or null: x lacks them
    const float* row_scales = nullptr;    // (ceil(n_pairs / 8) * 16), with token_scales
    std::int64_t n_tokens = 0, n_pairs = 0;
    Activation activation = Activation::silu;
    Operand operand;              // (n_tokens, n_pairs)
};
int launch_pairs(const PairsArgs& args, const Launch& launch);

// y[t, c] = operand[t, c] = x[t, c]: what cuDNN leaves as bf16 // x: (n_tokens, n_columns) bf16
struct WidenArgs {
    const void* x = nullptr;
    std::int64_t n_tokens = 0, n_columns = 0;
    float* y = nullptr;  // (n_tokens, y_stride) f32 or null
    std::int64_t y_stride = 0;
    Operand operand;     // (n_tokens, n_columns) or none
};
int launch_widen(const WidenArgs& args, const Launch& launch);

// Reads all of it once with 16-byte loads and keeps nothing. // sink: (1) f32, written only if all of it is a pattern that it is not
int launch_read_all(const void* data, std::size_t size_bytes, float* sink, const Launch& launch);

}  // namespace skiff::cuda
