// Element by element. A lane's result depends on its own operands alone (tails are padded, not computed differently), so any split of the
// range among threads gives the same bits.
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd_neon.h"

namespace skiff {
namespace {

struct Silu {
    F8 operator()(F8 x) const { return divide(x, add(same(1.0f), exp_ps(negate(x)))); }
};

// x times the normal distribution function, by the complementary error function as a rational times an exponential
// (Press et al., Numerical Recipes, erfcc: fractional error below 1.2e-7 everywhere).
struct GeluErf {
    F8 operator()(F8 x) const {
        const F8 one = same(1.0f), z = multiply(magnitude(x), same(0.70710678f));
        const F8 t = divide(one, fma(z, same(0.5f), one));
        constexpr float coefficients[] = {0.17087277f, -0.82215223f, 1.48851587f, -1.13520398f, 0.27886807f, -0.18628806f, 0.09678418f, 0.37409196f, 1.00002368f, -1.26551223f};
        F8 p = same(coefficients[0]);
        SKIFF_UNROLL
        for (int i = 1; i < 10; ++i) p = fma(p, t, same(coefficients[i]));
        // -z^2 = -x^2 / 2, which x gives with one rounding
        const F8 erfc = multiply(t, exp_ps(fnma(multiply(x, same(0.5f)), x, p)));
        const F8 tail = multiply(same(0.5f), erfc);
        return multiply(x, select(less(x, zeros()), tail, subtract(one, tail)));
    }
};

// 0.5 (1 + tanh u) is the logistic function of 2u, which does not cancel for negative u.
struct GeluTanh {
    F8 operator()(F8 x) const {
        const F8 cubic = fma(multiply(x, x), same(0.044715f), same(1.0f));
        const F8 u = multiply(multiply(x, same(-2 * 0.79788456f)), cubic);
        return divide(x, add(same(1.0f), exp_ps(u)));
    }
};

struct QuickGelu {
    F8 operator()(F8 x) const { return divide(x, add(same(1.0f), exp_ps(multiply(x, same(-1.702f))))); }
};

struct Relu {
    F8 operator()(F8 x) const { return select(less(zeros(), x), x, zeros()); }  // as x86: NaN becomes 0
};

struct Sigmoid {
    F8 operator()(F8 x) const { return sigmoid_ps(x); }
};

struct Tanh {
    F8 operator()(F8 x) const { return tanh_ps(x); }
};

template <class Operation>
void map_one(const ElementArgs& args, Range elements, Operation operation) {
    std::int64_t i = elements.begin;
    for (; i + 8 <= elements.end; i += 8) store(args.y + i, operation(load(args.a + i)));
    if (const std::int64_t rest = elements.end - i; rest > 0) store_tail(args.y + i, rest, operation(load_tail(args.a + i, rest)));
}

template <class Operation>
void map_two(const ElementArgs& args, Range elements, Operation operation) {
    std::int64_t i = elements.begin;
    for (; i + 8 <= elements.end; i += 8) store(args.y + i, operation(load(args.a + i), load(args.b + i)));
    if (const std::int64_t rest = elements.end - i; rest > 0) store_tail(args.y + i, rest, operation(load_tail(args.a + i, rest), load_tail(args.b + i, rest)));
}

}  // namespace

void activation_neon(const ElementArgs& args, Range elements) {
    switch (args.activation) {
        case Activation::silu: return map_one(args, elements, Silu());
        case Activation::gelu_erf: return map_one(args, elements, GeluErf());
        case Activation::gelu_tanh: return map_one(args, elements, GeluTanh());
        case Activation::quick_gelu: return map_one(args, elements, QuickGelu());
        case Activation::relu: return map_one(args, elements, Relu());
        case Activation::sigmoid: return map_one(args, elements, Sigmoid());
        case Activation::tanh: return map_one(args, elements, Tanh());
    }
}

void multiply_neon(const ElementArgs& args, Range elements) {
    map_two(args, elements, [](F8 a, F8 b) { return multiply(a, b); });
}

void add_neon(const ElementArgs& args, Range elements) {
    map_two(args, elements, [](F8 a, F8 b) { return add(a, b); });
}

void scale_neon(const ElementArgs& args, Range elements) {
    const F8 factor = same(args.factor);
    map_one(args, elements, [factor](F8 x) { return multiply(x, factor); });
}

void softcap_neon(const ElementArgs& args, Range elements) {
    const F8 factor = same(args.factor);
    map_one(args, elements, [factor](F8 x) { return multiply(factor, tanh_ps(divide(x, factor))); });
}

}  // namespace skiff
