// Operators of training with their gradients: fused on the CPU, where LibTorch has none; elsewhere, and as the judge in tests, put together
// from LibTorch's own. Tensors are dense and (n_tokens, width) unless it says otherwise; "number type" is f32 or bf16.
#pragma once

#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "model/spec.h"

namespace skiff::train {

// How an operator is computed. `automatic`: fused where there is a fused form for the device and numbers, else by one operator of LibTorch
// (`library`) where this version has it, else composed.
enum class Form : std::uint8_t { automatic, library, composed };

struct NormSettings {
    NormKind kind = NormKind::rms;
    float eps = 1e-5f;
    std::int64_t group_width = 0;  // 0: the whole row
    at::ScalarType result = at::kFloat;
};
// weight, bias: (width) f32 or undefined.
at::Tensor norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const NormSettings& settings, Form form = Form::automatic);

// Several linear operators on one input as one product: their outputs side by side. weights: (n_out_i, n_in) f32; biases: (n_out_i) f32, or
// all undefined. The result has x's number type; the gradients of the weights are f32 and not computed where a weight wants none.
at::Tensor merged_linear(const at::Tensor& x, const std::vector<at::Tensor>& weights, const std::vector<at::Tensor>& biases,
                         Form form = Form::automatic);

// act(gate) * up, both columns of `x`: gate at gate_column, up at up_column, `width` each.
struct GatedSettings {
    Activation activation = Activation::silu;
    std::int64_t width = 0, gate_column = 0, up_column = 0;
};
bool has_fused_gate(Activation activation);
at::Tensor gated(const at::Tensor& x, const GatedSettings& settings, Form form = Form::automatic);
at::Tensor activate(const at::Tensor& x, Activation activation);

// Rope's cosines and sines. // (n_positions, rotary_dim / 2) f32 each
struct Rotation {
    at::Tensor cosine, sine;
    bool interleaved = false;
    bool empty() const { return !cosine.defined(); }
};
Rotation make_rotation(const std::vector<float>& inv_freq, float magnitude, RopeStyle style, std::int64_t n_positions, at::Device device);
// x: (n_sequences * n_tokens, n_heads * head_dim)
at::Tensor rotate(const at::Tensor& x, const Rotation& rotation, std::int64_t n_tokens, std::int64_t head_dim);

// Causal attention of whole sequences, queries and keys turned by rope on the way (where a rotation is given).
struct AttentionSettings {
    std::int64_t n_heads = 0, n_kv_heads = 0, head_dim = 0, n_tokens = 0;  // n_tokens: of each sequence
    std::int64_t window = 0;                                              // 0: all before
    float scale = 1, softcap = 0;
    Rotation q_rotation, k_rotation;
};
// One tensor with the columns q | k | v, or three. Result: (n_sequences * n_tokens, n_heads * head_dim)
at::Tensor attention(const std::vector<at::Tensor>& qkv, const AttentionSettings& settings, Form form = Form::automatic);

// Sum over tokens of -log softmax(logits)[target] times `scale`. Overwrites the logits with their gradient on the CPU: give it a tensor that
// nobody else needs. targets: (n_tokens) i64; negative ones count nothing. Result: a scalar f64.
at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& targets, double scale, Form form = Form::automatic);

}  // namespace skiff::train
