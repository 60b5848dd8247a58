// What a student's logits cost beside a teacher's: divergence of softened distributions mixed with the label's cross-entropy (Hinton et al. 2015); and
// the losses on the inside of both models.
#pragma once

#include "train/operators.h"
#include "train/train.h"

namespace skiff::train {

struct DistillLossSettings {
    Divergence divergence = Divergence::forward_kl;
    double temperature = 1;
    double alpha = 1;   // of the divergence, times T^2; the label's cross-entropy has 1 - alpha
    double beta = 0.5;  // JSD: m = beta p + (1 - beta) q (Agarwal et al. 2023, GKD, equation 1)
};

// A teacher's word on some tokens: logits of the whole vocabulary, or the log-probabilities at the loss's temperature of its k likeliest tokens, with
// one more for all others together.
struct SoftTargets {
    at::Tensor logits;             // (n, n_vocab) f32, or undefined
    at::Tensor log_probabilities;  // (n, k + 1) f32
    at::Tensor tokens;             // (n, k) i32
    SoftTargets rows(std::int64_t first, std::int64_t n) const;
};
// The top-k form of logits. // logits: (n, n_vocab) f32
SoftTargets top_targets(const at::Tensor& logits, double temperature, std::int64_t k);

// Sum over tokens of alpha * T^2 * divergence + (1 - alpha) * cross-entropy, times `scale`: a scalar f64. Overwrites the logits with their gradient on
// the CPU, as cross_entropy() does. logits: (n, n_vocab); targets: (n) i64, negative ones count nothing.
at::Tensor distillation_loss(const at::Tensor& logits, const SoftTargets& teacher, const at::Tensor& targets, const DistillLossSettings& settings, double scale,
                             Form form = Form::automatic);

// |found - wanted|^2 / |wanted|^2 over all numbers (SquareHead: Kurtic et al. 2023): a scalar f32. // both (n, width); `wanted` has no gradient
at::Tensor relative_square(const at::Tensor& found, const at::Tensor& wanted);

// How far two models' relations among tokens are apart (MiniLMv2, Wang et al. 2020): columns cut into n_relations heads, softmax of their causal
// scaled products with themselves, mean KL of the teacher's rows to the student's. Widths may differ; both must be multiples of n_relations.
// student, teacher: (n_sequences * n_tokens, width). Result: a scalar f32
at::Tensor relation_loss(const at::Tensor& student, const at::Tensor& teacher, std::int64_t n_tokens, std::int64_t n_relations);

}  // namespace skiff::train
