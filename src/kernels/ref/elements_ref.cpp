#include <cmath>

#include "kernels/ref/ref.h"

namespace skiff {
namespace {

float activate(Activation kind, float x) {
    switch (kind) {
        case Activation::silu: return x / (1.0f + std::exp(-x));
        case Activation::gelu_erf: return 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752f));
        case Activation::gelu_tanh: return 0.5f * x * (1.0f + std::tanh(0.79788456080286536f * (x + 0.044715f * x * x * x)));
        case Activation::quick_gelu: return x / (1.0f + std::exp(-1.702f * x));
        case Activation::relu: return x > 0 ? x : 0;
        case Activation::sigmoid: return 1.0f / (1.0f + std::exp(-x));
        case Activation::tanh: return std::tanh(x);
    }
    return x;
}

}  // namespace

void activation_ref(const ElementArgs& args, Range elements) {
    for (std::int64_t i = elements.begin; i < elements.end; ++i) args.y[i] = activate(args.activation, args.a[i]);
}

void multiply_ref(const ElementArgs& args, Range elements) {
    for (std::int64_t i = elements.begin; i < elements.end; ++i) args.y[i] = args.a[i] * args.b[i];
}

void add_ref(const ElementArgs& args, Range elements) {
    for (std::int64_t i = elements.begin; i < elements.end; ++i) args.y[i] = args.a[i] + args.b[i];
}

void scale_ref(const ElementArgs& args, Range elements) {
    for (std::int64_t i = elements.begin; i < elements.end; ++i) args.y[i] = args.a[i] * args.factor;
}

void softcap_ref(const ElementArgs& args, Range elements) {
    for (std::int64_t i = elements.begin; i < elements.end; ++i) args.y[i] = args.factor * std::tanh(args.a[i] / args.factor);
}

}  // namespace skiff
