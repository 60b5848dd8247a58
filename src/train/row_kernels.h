// The inner loops of training on a CPU: rows in, rows out, no LibTorch. Forward and backward of what LibTorch has no fused operator for.
// Compiled for several instruction sets and chosen at run time. Callers share rows among threads. T, X and Y are float or Bf16.
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

// ---- gated activation: y = act(gate) * up, both of them parts of one row or in tensors of their own.
enum class GateKind : std::uint8_t { silu, relu, gelu_tanh };
struct GatedRows {
    GateKind kind;
    std::int64_t width;
    std::int64_t gate_stride, up_stride;  // elements between rows of gate and up, and of their gradients
};

// ---- heads: from (n_tokens, columns) to one matrix per head and back, turning by rope on the way.
struct RotaryTable {
    const float* cosine = nullptr;  // (n_positions, half) f32, the magnitude multiplied in; null: no rope
    const float* sine = nullptr;
    std::int64_t half = 0;          // pairs that turn; the rest of a head stays
    bool interleaved = false;       // pairs (2i, 2i+1) instead of (i, i + half)
};
enum class Turn : std::uint8_t { forward, inverse };  // inverse turns back, as gradients do

// ---- attention scores of one query against keys first_key .. first_key + n_keys
struct ScoreRow {
    std::int64_t position;   // of the query
    std::int64_t first_key, n_keys;
    std::int64_t window;     // 0: all before
    float softcap;           // 0: none
};

// ---- distillation of one token
enum class DivergenceKind : std::uint8_t { forward_kl, reverse_kl, jsd };
struct DistillRow {
    DivergenceKind kind;
    float temperature;
    float alpha;  // of the divergence, times the temperature's square; the label's cross-entropy has the rest
    float beta;   // of JSD
    float scale;  // of the gradient
};
struct TopTargets {
    std::int64_t k;
    const float* log_probabilities;  // (k + 1) f32 at the row's temperature; the last is the sum of all other tokens
    const std::int32_t* tokens;      // (k) all different
};

// ---- optimizers, element by element
struct AdamStep {
    float learning_rate, beta1, beta2, eps, weight_decay;
    float correction1, correction2;  // 1 - beta^t
    float gradient_scale;            // clipping
};

// Every function there is, in a namespace for each number of lanes; below are the names to call.
#define SKIFF_DECLARE_NORM(X, Y)                                                                                                      \
    void norm_forward(const NormRows& norm, const X* x, Y* y, float* statistics, std::int64_t n);                                     \
    void norm_backward(const NormRows& norm, const X* x, const Y* dy, const float* statistics, X* dx, float* weight_gradient,         \
                       float* bias_gradient, std::int64_t n);
#define SKIFF_DECLARE_ROWS(T)                                                                                                         \
    void gated_forward(const GatedRows& rows, const T* gate, const T* up, T* y, std::int64_t n);                                      \
    void gated_backward(const GatedRows& rows, const T* gate, const T* up, const T* dy, T* d_gate, T* d_up, std::int64_t n);          \
    void turn_head(const RotaryTable& table, std::int64_t position, Turn turn, float scale, const T* x, T* y, std::int64_t head_dim); \
    float softmax_row(const ScoreRow& row, T* scores);                                                                                \
    void softmax_row_backward(const ScoreRow& row, float log_sum, float delta, T* scores, T* d_scores);                               \
    float inner_product(const T* a, const T* b, std::int64_t n);                                                                      \
    double cross_entropy_row(T* logits, std::int64_t n, std::int64_t target, float scale);                                            \
    double distill_row(const DistillRow& row, T* logits, const float* teacher, std::int64_t n, std::int64_t target);                  \
    double distill_row_of_top(const DistillRow& row, T* logits, const TopTargets& top, std::int64_t n, std::int64_t target);
#define SKIFF_DECLARE_ALL                                                                                                             \
    SKIFF_DECLARE_NORM(float, float)                                                                                                  \
    SKIFF_DECLARE_NORM(float, Bf16)                                                                                                   \
    SKIFF_DECLARE_NORM(Bf16, Bf16)                                                                                                    \
    SKIFF_DECLARE_ROWS(float)                                                                                                         \
    SKIFF_DECLARE_ROWS(Bf16)                                                                                                          \
    void adamw_update(const AdamStep& step, float* weight, const float* gradient, float* first, float* second, std::int64_t n);       \
    double square_sum(const float* x, std::int64_t n);
namespace lanes_8 {
SKIFF_DECLARE_ALL
}
namespace lanes_16 {
SKIFF_DECLARE_ALL
}
#undef SKIFF_DECLARE_NORM
#undef SKIFF_DECLARE_ROWS
#undef SKIFF_DECLARE_ALL

extern const bool wide_rows;  // this processor has AVX-512

// x, dx: (n, width); y, dy: (n, width); statistics: (n, 2) f32: mean, 1/deviation
template <class X, class Y>
void norm_forward(const NormRows& norm, const X* x, Y* y, float* statistics, std::int64_t n) {
    return wide_rows ? lanes_16::norm_forward(norm, x, y, statistics, n) : lanes_8::norm_forward(norm, x, y, statistics, n);
}
// Adds to weight_gradient and bias_gradient (width) f32; either may be null.
template <class X, class Y>
void norm_backward(const NormRows& norm, const X* x, const Y* dy, const float* statistics, X* dx, float* weight_gradient, float* bias_gradient, std::int64_t n) {
    return wide_rows ? lanes_16::norm_backward(norm, x, dy, statistics, dx, weight_gradient, bias_gradient, n)
                     : lanes_8::norm_backward(norm, x, dy, statistics, dx, weight_gradient, bias_gradient, n);
}
template <class T>
void gated_forward(const GatedRows& rows, const T* gate, const T* up, T* y, std::int64_t n) {
    return wide_rows ? lanes_16::gated_forward(rows, gate, up, y, n) : lanes_8::gated_forward(rows, gate, up, y, n);
}
template <class T>
void gated_backward(const GatedRows& rows, const T* gate, const T* up, const T* dy, T* d_gate, T* d_up, std::int64_t n) {
    return wide_rows ? lanes_16::gated_backward(rows, gate, up, dy, d_gate, d_up, n) : lanes_8::gated_backward(rows, gate, up, dy, d_gate, d_up, n);
}
// One token's head: y = turn(x) * scale. x, y: (head_dim)
template <class T>
void turn_head(const RotaryTable& table, std::int64_t position, Turn turn, float scale, const T* x, T* y, std::int64_t head_dim) {
    return wide_rows ? lanes_16::turn_head(table, position, turn, scale, x, y, head_dim) : lanes_8::turn_head(table, position, turn, scale, x, y, head_dim);
}
// Scores in, probabilities out, in place; returns log(sum exp). scores: (n_keys)
template <class T>
float softmax_row(const ScoreRow& row, T* scores) {
    return wide_rows ? lanes_16::softmax_row(row, scores) : lanes_8::softmax_row(row, scores);
}
// In: raw scores and gradients of the probabilities. Out: scores become probabilities, d_scores the gradient of the raw scores. `delta` is the inner
// product of the output and its gradient (FlashAttention-2, D_i). Both (n_keys)
template <class T>
void softmax_row_backward(const ScoreRow& row, float log_sum, float delta, T* scores, T* d_scores) {
    return wide_rows ? lanes_16::softmax_row_backward(row, log_sum, delta, scores, d_scores) : lanes_8::softmax_row_backward(row, log_sum, delta, scores, d_scores);
}
template <class T>
float inner_product(const T* a, const T* b, std::int64_t n) {
    return wide_rows ? lanes_16::inner_product(a, b, n) : lanes_8::inner_product(a, b, n);
}
// -log softmax(logits)[target]; the logits become their gradient times `scale`. A negative target counts nothing.
template <class T>
double cross_entropy_row(T* logits, std::int64_t n, std::int64_t target, float scale) {
    return wide_rows ? lanes_16::cross_entropy_row(logits, n, target, scale) : lanes_8::cross_entropy_row(logits, n, target, scale);
}
// alpha * T^2 * divergence from the teacher + (1 - alpha) * -log softmax(logits)[target]; the logits become its gradient times the row's scale.
// A negative target counts nothing. logits, teacher: (n)
template <class T>
double distill_row(const DistillRow& row, T* logits, const float* teacher, std::int64_t n, std::int64_t target) {
    return wide_rows ? lanes_16::distill_row(row, logits, teacher, n, target) : lanes_8::distill_row(row, logits, teacher, n, target);
}
template <class T>
double distill_row_of_top(const DistillRow& row, T* logits, const TopTargets& top, std::int64_t n, std::int64_t target) {
    return wide_rows ? lanes_16::distill_row_of_top(row, logits, top, n, target) : lanes_8::distill_row_of_top(row, logits, top, n, target);
}
inline void adamw_update(const AdamStep& step, float* weight, const float* gradient, float* first, float* second, std::int64_t n) {
    return wide_rows ? lanes_16::adamw_update(step, weight, gradient, first, second, n) : lanes_8::adamw_update(step, weight, gradient, first, second, n);
}
inline double square_sum(const float* x, std::int64_t n) { return wide_rows ? lanes_16::square_sum(x, n) : lanes_8::square_sum(x, n); }

}  // namespace skiff::train
