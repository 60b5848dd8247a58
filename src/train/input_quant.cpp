#include "train/input_quant.h"

#include <cmath>

#include <torch/csrc/autograd/custom_function.h>

#include "tensor/grid_parts.h"
#include "train/fused_rows.h"

namespace skiff::train {
namespace {

using grids::rounding_magic;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr float largest_int8 = 127, largest_e4m3 = 448, ratio_floor = 0.01f;

// fn(row, values) for each row as floats, which go back into the result.
template <class Fn>
at::Tensor with_rows(const at::Tensor& x, Fn&& fn) {
    at::Tensor y = at::empty_like(x);
    const std::int64_t width = x.size(1);
    by_number_type(x, [&](auto number) {
        using T = decltype(number);
        for_rows(x.size(0), 16, [&](std::int64_t first, std::int64_t last) {
            std::vector<float> values(static_cast<std::size_t>(width));
            for (std::int64_t row = first; row < last; ++row) {
                const T* from = numbers<const T>(x) + row * width;
                T* to = numbers<T>(y) + row * width;
                for (std::int64_t i = 0; i < width; ++i) {
                    if constexpr (std::is_same_v<T, float>) values[static_cast<std::size_t>(i)] = from[i];
                    else values[static_cast<std::size_t>(i)] = bf16_to_float(from[i].bits);
                }
                fn(row, values.data());
                for (std::int64_t i = 0; i < width; ++i) {
                    if constexpr (std::is_same_v<T, float>) to[i] = values[static_cast<std::size_t>(i)];
                    else to[i].bits = float_to_bf16(values[static_cast<std::size_t>(i)]);
                }
            }
        });
    });
    return y;
}

// To whole multiples of the scale, in the arithmetic of the kernels that do it (kernels/ref/linear_ref.cpp, quantize_ref).
void round_int8(float* x, std::int64_t n, float scale, float inverse) {
    for (std::int64_t i = 0; i < n; ++i) {
        float level = x[i] * inverse;
        level = level < -largest_int8 ? -largest_int8 : level;
        level = level > largest_int8 ? largest_int8 : level;
        x[i] = ((level + rounding_magic) - rounding_magic) * scale;
    }
}

float largest_of(const float* x, std::int64_t n) {
    float largest = 0;
    for (std::int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
    return largest;
}

void round_run(float* x, std::int64_t n) {
    const float largest = largest_of(x, n);
    round_int8(x, n, largest / largest_int8, largest >= 1e-30f ? largest_int8 / largest : 0.0f);
}

// kernels/cuda/fp8_rows.h, quantize_rows.
void round_e4m3(float* x, std::int64_t n) {
    const float largest = largest_of(x, n), scale = largest / largest_e4m3, inverse = largest > 0 ? largest_e4m3 / largest : 0.0f;
    for (std::int64_t i = 0; i < n; ++i) x[i] = f8_e4m3_to_float(float_to_f8_e4m3(x[i] * inverse)) * scale;
}

class RoundedInputs : public torch::autograd::Function<RoundedInputs> {
public:
    static at::Tensor forward(AutogradContext*, const at::Tensor& x, InputForm form) {
        const std::int64_t width = x.size(1), run = form == InputForm::blocks ? 32 : width;
        return with_rows(x, [&](std::int64_t, float* values) {
            if (form == InputForm::e4m3) return round_e4m3(values, width);
            for (std::int64_t begin = 0; begin < width; begin += run) round_run(values + begin, std::min(run, width - begin));
        });
    }
    static variable_list backward(AutogradContext*, variable_list gradients) { return {gradients[0], {}}; }
};

class FixedInputs : public torch::autograd::Function<FixedInputs> {
public:
    // scale = first * ratio, but for the floor of the ratio, through which gradients pass.
    static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& ratio, double first, double scale) {
        context->save_for_backward({x});
        context->saved_data["first"] = first;
        context->saved_data["scale"] = scale;
        context->saved_data["ratio_wanted"] = ratio.requires_grad();
        const auto s = static_cast<float>(scale);
        return with_rows(x, [&](std::int64_t, float* values) { round_int8(values, x.size(1), s, 1.0f / s); });
    }
    static variable_list backward(AutogradContext* context, variable_list gradients) {
        const at::Tensor x = context->get_saved_variables()[0], g = gradients[0].to(x.scalar_type()).contiguous();
        const auto scale = static_cast<float>(context->saved_data["scale"].toDouble()), inverse = 1.0f / scale;
        const std::int64_t width = x.size(1);
        // A sum for each row first, so that the bits do not depend on the threads.
        std::vector<double> sums(static_cast<std::size_t>(x.size(0)), 0.0);
        const at::Tensor wide = g.to(at::kFloat);
        at::Tensor dx = with_rows(x, [&](std::int64_t row, float* values) {
            const float* dy = wide.data_ptr<float>() + row * width;
            double sum = 0;
            for (std::int64_t i = 0; i < width; ++i) {
                const float at = values[i] * inverse, inside = std::fabs(at) <= largest_int8 ? 1.0f : 0.0f;
                const float level = inside != 0 ? (at + rounding_magic) - rounding_magic : std::copysign(largest_int8, at);
                sum += static_cast<double>(dy[i] * (level - inside * at));
                values[i] = dy[i] * inside;
            }
            sums[static_cast<std::size_t>(row)] = sum;
        });
        at::Tensor of_ratio;
        if (context->saved_data["ratio_wanted"].toBool()) {
            double sum = 0;
            for (const double of_row : sums) sum += of_row;
            const double factor = context->saved_data["first"].toDouble() / std::sqrt(static_cast<double>(largest_int8) * static_cast<double>(width));
            of_ratio = at::full({1}, sum * factor, at::kFloat);
        }
        return {dx, of_ratio, {}, {}};
    }
};

}  // namespace

bool multiplies_e4m3(const Scheme& scheme) { return scheme.kind == NumberKind::codebook && scheme.codebook->name == "e4m3" && scheme.group_size == 0 && !scheme.relative_scales(); }

at::Tensor rounded_inputs(const at::Tensor& x, InputForm form) { return RoundedInputs::apply(x.contiguous(), form); }

at::Tensor FixedInputScale::rounded(const at::Tensor& x) {
    if (first_ == 0) {
        const at::Tensor values = x.detach().to(at::kFloat).contiguous();
        seen_.add({values.data_ptr<float>(), static_cast<std::size_t>(values.numel())});
        return x;
    }
    return FixedInputs::apply(x.contiguous(), ratio_, static_cast<double>(first_), static_cast<double>(scale()));
}

Status FixedInputScale::begin(const InputScaleRule& rule) {
    SKIFF_TRY(first_, input_scale_of(seen_, rule));
    seen_ = {};
    return {};
}

// Readers of the file refuse smaller ones.
float FixedInputScale::scale() const { return std::max(1e-30f, first_ * std::max(ratio_floor, ratio_.data_ptr<float>()[0])); }

}  // namespace skiff::train
