// Root-mean-square and layer norm over rows or over each head.
#include <torch/csrc/autograd/custom_function.h>

#include "train/fused_rows.h"
#include "train/operators.h"

namespace skiff::train {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <class Fn>
void by_number_types(const at::Tensor& x, at::ScalarType y, Fn&& fn) {
    if (x.scalar_type() == at::kBFloat16) fn(Bf16{}, Bf16{});
    else if (y == at::kBFloat16) fn(float{}, Bf16{});
    else fn(float{}, float{});
}

const float* weights_or_null(const at::Tensor& tensor) { return tensor.defined() ? numbers<const float>(tensor) : nullptr; }

// Gradients of weight and bias are summed in this many parts, whatever the number of threads, so that the sum is always the same.
constexpr std::int64_t n_parts = 32;

class FusedNorm : public torch::autograd::Function<FusedNorm> {
public:
    // x: (n, width); vectors: the weight and the bias, as far as they are there, (width) f32 each
    static at::Tensor forward(AutogradContext* context, const at::Tensor& x, at::TensorList vectors, bool has_weight, bool centered, double eps,
                              at::ScalarType result) {
        const at::Tensor weight = has_weight ? vectors[0] : at::Tensor(), bias = vectors.size() > (has_weight ? 1u : 0u) ? vectors.back() : at::Tensor();
        const std::int64_t n = x.size(0), width = x.size(1);
        at::Tensor y = at::empty({n, width}, x.options().dtype(result)), statistics = at::empty({n, 2}, x.options().dtype(at::kFloat));
        const NormRows norm{width, static_cast<float>(eps), centered, weights_or_null(weight), weights_or_null(bias)};
        by_number_types(x, result, [&](auto x_number, auto y_number) {
            using X = decltype(x_number);
            using Y = decltype(y_number);
            for_rows(n, 64, [&](std::int64_t first, std::int64_t last) {
                norm_forward(norm, numbers<const X>(x) + first * width, numbers<Y>(y) + first * width, numbers<float>(statistics) + 2 * first, last - first);
            });
        });
        context->save_for_backward({x, weight, bias, statistics});
        context->saved_data["centered"] = centered;
        return y;
    }

    static variable_list backward(AutogradContext* context, variable_list gradients) {
        const variable_list saved = context->get_saved_variables();
        const at::Tensor& x = saved[0];
        const at::Tensor dy = gradients[0].contiguous();
        const std::int64_t n = x.size(0), width = x.size(1), part = (n + n_parts - 1) / n_parts;
        const NormRows norm{width, 0, context->saved_data["centered"].toBool(), weights_or_null(saved[1]), weights_or_null(saved[2])};
        at::Tensor dx = at::empty_like(x), weight_parts, bias_parts;
        if (saved[1].defined()) weight_parts = at::zeros({n_parts, width}, saved[1].options());
        if (saved[2].defined()) bias_parts = at::zeros({n_parts, width}, saved[2].options());
        by_number_types(x, dy.scalar_type(), [&](auto x_number, auto y_number) {
            using X = decltype(x_number);
            using Y = decltype(y_number);
            for_rows(n_parts, 1, [&](std::int64_t first, std::int64_t last) {
                for (std::int64_t i = first; i < last; ++i) {
                    const std::int64_t begin = std::min(n, i * part), end = std::min(n, begin + part);
                    norm_backward(norm, numbers<const X>(x) + begin * width, numbers<const Y>(dy) + begin * width,
                                  numbers<const float>(saved[3]) + 2 * begin, numbers<X>(dx) + begin * width,
                                  weight_parts.defined() ? numbers<float>(weight_parts) + i * width : nullptr,
                                  bias_parts.defined() ? numbers<float>(bias_parts) + i * width : nullptr, end - begin);
                }
            });
        });
        auto total = [](const at::Tensor& parts) { return parts.defined() ? parts.sum(0) : at::Tensor(); };
        variable_list result = {dx};
        if (saved[1].defined()) result.push_back(total(weight_parts));
        if (saved[2].defined()) result.push_back(total(bias_parts));
        result.resize(result.size() + 4);
        return result;
    }
};

at::Tensor composed_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const NormSettings& settings) {
    at::Tensor y = widened(x);
    if (settings.kind == NormKind::layer) y = y - y.mean(-1, true);
    y = y * at::rsqrt(y.square().mean(-1, true) + settings.eps);
    if (weight.defined()) y = y * weight;
    if (bias.defined()) y = y + bias;
    return y.to(settings.result);
}

}  // namespace

at::Tensor norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const NormSettings& settings, Form form) {
    const at::Tensor rows = settings.group_width > 0 ? x.reshape({-1, settings.group_width}) : x;
    const bool fused = form == Form::automatic && can_fuse(x) && !(x.scalar_type() == at::kBFloat16 && settings.result == at::kFloat);
    if (!fused) return composed_norm(rows, weight, bias, settings).view(x.sizes());
    variable_list vectors;
    if (weight.defined()) vectors.push_back(weight);
    if (bias.defined()) vectors.push_back(bias);
    const at::Tensor y = FusedNorm::apply(rows.contiguous(), at::TensorList(vectors), weight.defined(), settings.kind == NormKind::layer, settings.eps, settings.result);
    return y.view(x.sizes());
}

}  // namespace skiff::train
