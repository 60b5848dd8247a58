#include "train/distillation_loss.h"

#include <cmath>

#include <torch/csrc/autograd/custom_function.h>

#include "train/fused_rows.h"

namespace skiff::train {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

DivergenceKind row_kind(Divergence divergence) {
    return divergence == Divergence::reverse_kl ? DivergenceKind::reverse_kl : divergence == Divergence::jsd ? DivergenceKind::jsd : DivergenceKind::forward_kl;
}

class FusedDistillation : public torch::autograd::Function<FusedDistillation> {
public:
    static at::Tensor forward(AutogradContext* context, const at::Tensor& logits, const SoftTargets* teacher, const at::Tensor& targets, const DistillLossSettings* settings, double scale) {
        const std::int64_t n = logits.size(0), n_vocab = logits.size(1);
        const DistillRow row{row_kind(settings->divergence), static_cast<float>(settings->temperature), static_cast<float>(settings->alpha), static_cast<float>(settings->beta),
                             static_cast<float>(scale)};
        at::Tensor losses = at::empty({n}, logits.options().dtype(at::kDouble));
        by_number_type(logits, [&](auto number) {
            using T = decltype(number);
            for_rows(n, 4, [&](std::int64_t first, std::int64_t last) {
                for (std::int64_t i = first; i < last; ++i) {
                    T* own = numbers<T>(logits) + i * n_vocab;
                    const std::int64_t target = numbers<const std::int64_t>(targets)[i];
                    double& loss = numbers<double>(losses)[i];
                    if (teacher->logits.defined()) {
                        loss = distill_row(row, own, numbers<const float>(teacher->logits) + i * n_vocab, n_vocab, target);
                    } else {
                        const std::int64_t k = teacher->tokens.size(1);
                        loss = distill_row_of_top(row, own, TopTargets{k, numbers<const float>(teacher->log_probabilities) + i * (k + 1), numbers<const std::int32_t>(teacher->tokens) + i * k},
                                                  n_vocab, target);
                    }
                }
            });
        });
        context->saved_data["gradient"] = logits;
        return losses.sum() * scale;
    }

    static variable_list backward(AutogradContext* context, variable_list gradients) {
        at::Tensor gradient = context->saved_data["gradient"].toTensor();
        context->saved_data.erase("gradient");
        if (const double factor = gradients[0].item<double>(); factor != 1.0) gradient.mul_(factor);
        return {gradient, {}, {}, {}, {}};
    }
};

// Log-probabilities of the outcomes that the teacher tells apart: all tokens, or its k and the rest.
at::Tensor student_outcomes(const at::Tensor& log_probabilities, const SoftTargets& teacher) {
    if (teacher.logits.defined()) return log_probabilities;
    const at::Tensor index = teacher.tokens.to(at::kLong);
    const at::Tensor rest = log_probabilities.exp().scatter(1, index, 0.0).sum(1, true).clamp_min(1e-30).log();
    return at::cat({log_probabilities.gather(1, index), rest}, 1);
}

}  // namespace

SoftTargets SoftTargets::rows(std::int64_t first, std::int64_t n) const {
    if (logits.defined()) return {logits.narrow(0, first, n), {}, {}};
    return {{}, log_probabilities.narrow(0, first, n), tokens.narrow(0, first, n)};
}

SoftTargets top_targets(const at::Tensor& logits, double temperature, std::int64_t k) {
    const at::Tensor log_probabilities = at::log_softmax(logits / temperature, 1);
    const auto [top, tokens] = log_probabilities.topk(k, 1);
    const at::Tensor rest = log_probabilities.exp().scatter(1, tokens, 0.0).sum(1, true).clamp_min(1e-30).log();
    return {{}, at::cat({top, rest}, 1).contiguous(), tokens.to(at::kInt).contiguous()};
}

at::Tensor distillation_loss(const at::Tensor& logits, const SoftTargets& teacher, const at::Tensor& targets, const DistillLossSettings& settings, double scale, Form form) {
    if (form == Form::automatic && can_fuse(logits) && logits.is_contiguous()) {
        const SoftTargets whole{teacher.logits.defined() ? teacher.logits.to(at::kFloat).contiguous() : at::Tensor(),
                                teacher.logits.defined() ? at::Tensor() : teacher.log_probabilities.to(at::kFloat).contiguous(),
                                teacher.logits.defined() ? at::Tensor() : teacher.tokens.contiguous()};
        return FusedDistillation::apply(logits, &whole, targets, &settings, scale);
    }
    const at::Tensor x = widened(logits), counted = (targets >= 0).to(x.scalar_type());
    const at::Tensor q_log = student_outcomes(at::log_softmax(x / settings.temperature, 1), teacher);
    const at::Tensor p_log = teacher.logits.defined() ? at::log_softmax(teacher.logits.to(x.scalar_type()) / settings.temperature, 1) : teacher.log_probabilities.to(x.scalar_type());
    const at::Tensor p = p_log.exp(), q = q_log.exp();
    at::Tensor divergence;
    if (settings.divergence == Divergence::forward_kl) divergence = (p * (p_log - q_log)).sum(1);
    else if (settings.divergence == Divergence::reverse_kl) divergence = (q * (q_log - p_log.clamp_min(-69.0))).sum(1);
    else {
        const at::Tensor m_log = (settings.beta * p + (1 - settings.beta) * q).log();
        divergence = settings.beta * (p * (p_log - m_log)).sum(1) + (1 - settings.beta) * (q * (q_log - m_log)).sum(1);
    }
    const at::Tensor label = -at::log_softmax(x, 1).gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1);
    const at::Tensor loss = settings.alpha * settings.temperature * settings.temperature * divergence + (1 - settings.alpha) * label;
    return (loss * counted).sum(at::kDouble) * scale;
}

at::Tensor relative_square(const at::Tensor& found, const at::Tensor& wanted) {
    const at::Tensor w = widened(wanted);
    return (widened(found) - w).square().sum() / w.square().sum().clamp_min(1e-12);
}

at::Tensor relation_loss(const at::Tensor& student, const at::Tensor& teacher, std::int64_t n_tokens, std::int64_t n_relations) {
    const at::Tensor later = at::ones({n_tokens, n_tokens}, at::TensorOptions(student.device()).dtype(at::kBool)).triu(1);
    auto relations = [&](const at::Tensor& x) {
        const std::int64_t n = x.size(0) / n_tokens, width = x.size(1) / n_relations;
        const at::Tensor heads = widened(x).reshape({n, n_tokens, n_relations, width}).transpose(1, 2);
        return at::matmul(heads, heads.transpose(2, 3)) / std::sqrt(static_cast<double>(width));
    };
    auto log_rows = [&](const at::Tensor& scores) { return at::log_softmax(scores.masked_fill(later, -1e9), -1); };
    const at::Tensor p_log = log_rows(relations(teacher)), q_log = log_rows(relations(student));
    return (p_log.exp() * (p_log - q_log)).masked_fill(later, 0.0).sum() / static_cast<double>(p_log.size(0) * n_relations * n_tokens);
}

}  // namespace skiff::train
