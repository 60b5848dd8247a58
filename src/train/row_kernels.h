// The inner loops of training on a CPU: rows in, rows out, no LibTorch. Forward and backward of what LibTorch has no fused operator for.
// Compiled for several instruction sets and chosen at run time by the loader. Callers share rows among threads.
#pragma once

#include <cstdint>

namespace skiff::train {

// bf16 as its bits; the kernels compute in float.
struct Bf16 {
    std::uint16_t bits;
};

// ---- norm: y = (x - mean) * rstd * weight + bias; RMS has no mean.
struct NormRows {
    std::int64_t width;
    float eps;
    bool centered;        // layer norm
    const float* weight;  // (width) f32, or null for ones
    const float* bias;    // (width) f32, or null
};
// x: (n, width) f32 or bf16; y: (n, width); statistics: (n, 2) f32: mean, 1/deviation
template <class X, class Y>
void norm_forward(const NormRows& norm, const X* x, Y* y, float* statistics, std::int64_t n);
// Adds to weight_gradient and bias_gradient (width) f32, either may be null. dy: (n, width); dx: (n, width)
template <class X, class Y>
void norm_backward(const NormRows& norm, const X* x, const Y* dy, const float* statistics, X* dx, float* weight_gradient, float* bias_gradient,
                   std::int64_t n);

// ---- gated activation: y = act(gate) * up, both of them halves of one row or in tensors of their own.
enum class GateKind : std::uint8_t { silu, relu, gelu_tanh };
struct GatedRows {
    GateKind kind;
    std::int64_t width;
    std::int64_t gate_stride, up_stride;  // elements between rows of gate and up, and of their gradients
};
template <class T>
void gated_forward(const GatedRows& rows, const T* gate, const T* up, T* y, std::int64_t n);
template <class T>
void gated_backward(const GatedRows& rows, const T* gate, const T* up, const T* dy, T* d_gate, T* d_up, std::int64_t n);

// ---- heads: from (n_tokens, columns) to one matrix per head and back, turning by rope on the way.
struct RotaryTable {
    const float* cosine = nullptr;  // (n_positions, half) f32, the magnitude multiplied in; null: no rope
    const float* sine = nullptr;
    std::int64_t half = 0;          // pairs that turn; the rest of a head stays
    bool interleaved = false;       // pairs (2i, 2i+1) instead of (i, i + half)
};
// One token's head: y = turn(x) * scale. `inverse` turns back, as gradients do.
enum class Turn : std::uint8_t { forward, inverse };
template <class T>
void turn_head(const RotaryTable& table, std::int64_t position, Turn turn, float scale, const T* x, T* y, std::int64_t head_dim);

// ---- attention scores of queries against keys first_key .. first_key + n_keys
struct ScoreRow {
    std::int64_t position;   // of the query
    std::int64_t first_key, n_keys;
    std::int64_t window;     // 0: all before
    float softcap;           // 0: none
};
// scores in, probabilities out, in place; returns log(sum exp). // row: (n_keys)
template <class T>
float softmax_row(const ScoreRow& row, T* scores);
// In: raw scores and gradients of the probabilities. Out: scores become probabilities, d_scores the gradient of the raw scores.
// `delta` is the inner product of the output and its gradient (FlashAttention-2, eq. D_i). // rows: (n_keys)
template <class T>
void softmax_row_backward(const ScoreRow& row, float log_sum, float delta, T* scores, T* d_scores);
template <class T>
float inner_product(const T* a, const T* b, std::int64_t n);

// ---- cross-entropy: -log softmax(logits)[target]; the logits become their gradient times `scale`. A negative target counts nothing.
template <class T>
double cross_entropy_row(T* logits, std::int64_t n, std::int64_t target, float scale);

// ---- optimizers, element by element
struct AdamStep {
    float learning_rate, beta1, beta2, eps, weight_decay;
    float correction1, correction2;  // 1 - beta^t
    float gradient_scale;            // clipping
};
void adamw_update(const AdamStep& step, float* weight, const float* gradient, float* first, float* second, std::int64_t n);
double square_sum(const float* x, std::int64_t n);

}  // namespace skiff::train
