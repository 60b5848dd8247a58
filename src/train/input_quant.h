// Inputs of rounded weights as codes, in the forward pass of training: what kernels make of them. Gradients pass straight through, but for what a fixed scale clips.
//
//   blocks, tokens, e4m3  scale = largest magnitude / largest code, of 32 columns of a token or of all of them, so that nothing is clipped: d/dx = g
//   fixed                 learnt step size (LSQ, Esser et al. 2020): d/dx = g where |x / s| <= 127; d/ds = sum g (code - x/s inside, +-127 outside) / sqrt(127 columns)
#pragma once

#include <memory>

#include <ATen/ATen.h>

#include "compress/quantize/static_inputs.h"

namespace skiff::train {

enum class InputForm : std::uint8_t {
    floats,
    blocks,  // int8, a scale for each 32 columns of a token: our kernels, but where a file fixes the scale
    tokens,  // int8, a scale for each token: what other programs do with a file that says so (W8A8, dynamic)
    fixed,   // int8, one scale for all tokens (W8A8, static)
    e4m3,    // 8-bit floats, a scale for each token: --gemm fp8
};

// Whether --gemm fp8 multiplies such a weight with 8-bit floats: its rows' scales finish the sums (takes_fp8 of kernels/cuda/fp8_rows.h).
bool multiplies_e4m3(const Scheme& scheme);

// Precondition: neither floats nor fixed. // x, result: (n_tokens, width) f32 or bf16
at::Tensor rounded_inputs(const at::Tensor& x, InputForm form);

// The scale of all codes of a value, which is trained. First it watches what the value is like.
class FixedInputScale {
public:
    FixedInputScale() : ratio_(at::ones({1}, at::kFloat).set_requires_grad(true)) {}

    // x itself until begin() was called. // x, result: (n_tokens, width) f32 or bf16
    at::Tensor rounded(const at::Tensor& x);
    // From what was seen. An error where that is nothing, or not finite.
    Status begin(const InputScaleRule& rule);
    void begin(float scale) { first_ = scale; }

    // What multiplies the first scale: the trained number, one at first. // (1) f32
    const at::Tensor& ratio() const { return ratio_; }
    // As it is stored. It stays above a hundredth of the first one, so that no step of training turns its sign.
    float scale() const;

private:
    RangeObserver seen_;
    float first_ = 0;  // 0: watching
    at::Tensor ratio_;
};

}  // namespace skiff::train
