// Gated and plain activations.
#include <torch/csrc/autograd/custom_function.h>

#include "train/fused_rows.h"
#include "train/operators.h"

namespace skiff::train {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

GateKind gate_kind(Activation activation) {
    return activation == Activation::relu ? GateKind::relu : activation == Activation::gelu_tanh ? GateKind::gelu_tanh : GateKind::silu;
}

class FusedGate : public torch::autograd::Function<FusedGate> {
public:
    // x: (n, columns), gate and up side by side
    static at::Tensor forward(AutogradContext* context, const at::Tensor& x, std::int64_t kind, std::int64_t width, std::int64_t gate_column,
                              std::int64_t up_column) {
        const GatedRows rows{static_cast<GateKind>(kind), width, x.size(1), x.size(1)};
        at::Tensor y = at::empty({x.size(0), width}, x.options());
        by_number_type(x, [&](auto number) {
            using T = decltype(number);
            for_rows(x.size(0), 16, [&](std::int64_t first, std::int64_t last) {
                const T* row = numbers<const T>(x) + first * x.size(1);
                gated_forward(rows, row + gate_column, row + up_column, numbers<T>(y) + first * width, last - first);
            });
        });
        context->save_for_backward({x});
        context->saved_data["settings"] = std::vector<std::int64_t>{kind, width, gate_column, up_column};
        return y;
    }

    static variable_list backward(AutogradContext* context, variable_list gradients) {
        const at::Tensor x = context->get_saved_variables()[0], dy = gradients[0].contiguous();
        const auto settings = context->saved_data["settings"].toIntVector();
        const std::int64_t width = settings[1], gate_column = settings[2], up_column = settings[3];
        const GatedRows rows{static_cast<GateKind>(settings[0]), width, x.size(1), x.size(1)};
        at::Tensor dx = 2 * width == x.size(1) ? at::empty_like(x) : at::zeros_like(x);
        by_number_type(x, [&](auto number) {
            using T = decltype(number);
            for_rows(x.size(0), 16, [&](std::int64_t first, std::int64_t last) {
                const T* row = numbers<const T>(x) + first * x.size(1);
                T* target = numbers<T>(dx) + first * x.size(1);
                gated_backward(rows, row + gate_column, row + up_column, numbers<const T>(dy) + first * width, target + gate_column, target + up_column,
                               last - first);
            });
        });
        return {dx, {}, {}, {}, {}};
    }
};

}  // namespace

bool has_fused_gate(Activation activation) {
    return activation == Activation::silu || activation == Activation::relu || activation == Activation::gelu_tanh;
}

at::Tensor activate(const at::Tensor& x, Activation activation) {
    switch (activation) {
        case Activation::silu: return at::silu(x);
        case Activation::gelu_erf: return at::gelu(x, "none");
        case Activation::gelu_tanh: return at::gelu(x, "tanh");
        case Activation::quick_gelu: return x * at::sigmoid(1.702 * x);
        case Activation::relu: return at::relu(x);
        case Activation::sigmoid: return at::sigmoid(x);
        case Activation::tanh: return at::tanh(x);
    }
    return x;
}

at::Tensor gated(const at::Tensor& x, const GatedSettings& settings, Form form) {
    if (form == Form::automatic && can_fuse(x) && has_fused_gate(settings.activation))
        return FusedGate::apply(x.contiguous(), static_cast<std::int64_t>(gate_kind(settings.activation)), settings.width, settings.gate_column, settings.up_column);
    return activate(x.narrow(1, settings.gate_column, settings.width), settings.activation) * x.narrow(1, settings.up_column, settings.width);
}

}  // namespace skiff::train
