// Linear operators that share an input, as one product.
#include <algorithm>

#include <torch/csrc/autograd/custom_function.h>

#include "train/operators.h"

namespace skiff::train {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class MergedLinear : public torch::autograd::Function<MergedLinear> {
public:
    // tensors: the weights, then as many biases or none
    static at::Tensor forward(AutogradContext* context, const at::Tensor& x, at::TensorList tensors, std::int64_t n_weights) {
        const auto middle = tensors.begin() + n_weights;
        auto merged = [&](const variable_list& parts) {
            variable_list cast;
            for (const at::Tensor& part : parts) cast.push_back(part.to(x.scalar_type()));
            return cast.size() == 1 ? cast[0] : at::cat(cast, 0);
        };
        const at::Tensor weight = merged({tensors.begin(), middle});
        const at::Tensor bias = middle != tensors.end() ? merged({middle, tensors.end()}) : at::Tensor();
        variable_list saved = {x, weight};
        context->save_for_backward(std::move(saved));
        std::vector<std::int64_t> rows, wanted;
        for (const at::Tensor& tensor : tensors) {
            rows.push_back(tensor.size(0));
            wanted.push_back(tensor.requires_grad() ? 1 : 0);
        }
        context->saved_data["rows"] = rows;
        context->saved_data["wanted"] = wanted;
        context->saved_data["n_weights"] = n_weights;
        context->saved_data["x_wanted"] = x.requires_grad();
        return at::linear(x, weight, bias);
    }

    static variable_list backward(AutogradContext* context, variable_list gradients) {
        const variable_list saved = context->get_saved_variables();
        const at::Tensor& x = saved[0];
        const at::Tensor& weight = saved[1];
        const at::Tensor dy = gradients[0].contiguous();
        const auto rows = context->saved_data["rows"].toIntVector();
        const auto wanted = context->saved_data["wanted"].toIntVector();
        const auto n_weights = static_cast<std::size_t>(context->saved_data["n_weights"].toInt());
        variable_list result(rows.size() + 2);
        if (context->saved_data["x_wanted"].toBool()) result[0] = at::mm(dy, weight);
        auto split = [&](std::size_t first, std::size_t last, auto&& gradient_of) {
            if (std::none_of(wanted.begin() + static_cast<std::ptrdiff_t>(first), wanted.begin() + static_cast<std::ptrdiff_t>(last), [](std::int64_t w) { return w != 0; })) return;
            const at::Tensor all = gradient_of();
            std::int64_t begin = 0;
            for (std::size_t i = first; i < last; begin += rows[i], ++i)
                if (wanted[i] != 0) result[1 + i] = all.narrow(0, begin, rows[i]).to(at::kFloat);
        };
        split(0, n_weights, [&] { return at::mm(dy.t(), x); });
        split(n_weights, rows.size(), [&] { return dy.sum(0, false, at::kFloat); });
        return result;
    }
};

}  // namespace

at::Tensor merged_linear(const at::Tensor& x, const std::vector<at::Tensor>& weights, const std::vector<at::Tensor>& biases, Form form) {
    const bool with_biases = !biases.empty() && biases[0].defined();
    if (form == Form::automatic) {
        variable_list tensors(weights.begin(), weights.end());
        if (with_biases) tensors.insert(tensors.end(), biases.begin(), biases.end());
        return MergedLinear::apply(x.contiguous(), at::TensorList(tensors), static_cast<std::int64_t>(weights.size()));
    }
    std::vector<at::Tensor> outputs;
    for (std::size_t i = 0; i < weights.size(); ++i)
        outputs.push_back(at::linear(x, weights[i].to(x.scalar_type()), with_biases ? biases[i].to(x.scalar_type()) : at::Tensor()));
    return outputs.size() == 1 ? outputs[0] : at::cat(outputs, 1);
}

}  // namespace skiff::train
