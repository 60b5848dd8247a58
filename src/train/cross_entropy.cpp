// The loss of a chunk of tokens; the logits turn into their gradient in place, so that one copy of them is all there ever is.
#include <torch/csrc/autograd/custom_function.h>

#include "train/fused_rows.h"
#include "train/operators.h"

namespace skiff::train {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class FusedCrossEntropy : public torch::autograd::Function<FusedCrossEntropy> {
public:
    static at::Tensor forward(AutogradContext* context, const at::Tensor& logits, const at::Tensor& targets, double scale) {
        const std::int64_t n = logits.size(0), n_vocab = logits.size(1);
        at::Tensor losses = at::empty({n}, logits.options().dtype(at::kDouble));
        by_number_type(logits, [&](auto number) {
            using T = decltype(number);
            for_rows(n, 4, [&](std::int64_t first, std::int64_t last) {
                for (std::int64_t i = first; i < last; ++i)
                    numbers<double>(losses)[i] =
                        cross_entropy_row(numbers<T>(logits) + i * n_vocab, n_vocab, numbers<const std::int64_t>(targets)[i], static_cast<float>(scale));
            });
        });
        context->saved_data["gradient"] = logits;
        return losses.sum() * scale;
    }

    static variable_list backward(AutogradContext* context, variable_list gradients) {
        at::Tensor gradient = context->saved_data["gradient"].toTensor();
        context->saved_data.erase("gradient");
        if (const double factor = gradients[0].item<double>(); factor != 1.0) gradient.mul_(factor);
        return {gradient, {}, {}};
    }
};

}  // namespace

at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& targets, double scale, Form form) {
    if (form == Form::automatic && can_fuse(logits) && logits.is_contiguous()) return FusedCrossEntropy::apply(logits, targets, scale);
    const at::Tensor log_probabilities = at::log_softmax(widened(logits), 1);
    const at::Tensor chosen = log_probabilities.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1);
    return -(chosen * (targets >= 0)).sum(at::kDouble) * scale;
}

}  // namespace skiff::train
