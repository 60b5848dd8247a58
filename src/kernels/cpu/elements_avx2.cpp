// Element by element. A lane's result depends on its own operands alone (tails are masked, not computed differently), so any split of the
// range among threads gives the same bits.
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd_avx2.h"

namespace skiff {
namespace {

struct Silu {
    static __m256 apply(__m256 x) { return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), exp_ps(_mm256_xor_ps(x, _mm256_set1_ps(-0.0f))))); }
};

// x times the normal distribution function, by the complementary error function as a rational times an exponential
// (Press et al., Numerical Recipes, erfcc: fractional error below 1.2e-7 everywhere).
struct GeluErf {
    static __m256 apply(__m256 x) {
        const __m256 one = _mm256_set1_ps(1.0f), sign_bit = _mm256_set1_ps(-0.0f);
        const __m256 z = _mm256_mul_ps(_mm256_andnot_ps(sign_bit, x), _mm256_set1_ps(0.70710678f));
        const __m256 t = _mm256_div_ps(one, _mm256_fmadd_ps(z, _mm256_set1_ps(0.5f), one));
        constexpr float coefficients[] = {0.17087277f, -0.82215223f, 1.48851587f, -1.13520398f, 0.27886807f, -0.18628806f, 0.09678418f, 0.37409196f, 1.00002368f, -1.26551223f};
        __m256 p = _mm256_set1_ps(coefficients[0]);
        SKIFF_UNROLL
        for (int i = 1; i < 10; ++i) p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(coefficients[i]));
        // -z^2 = -x^2 / 2, which x gives with one rounding
        const __m256 erfc = _mm256_mul_ps(t, exp_ps(_mm256_fnmadd_ps(_mm256_mul_ps(x, _mm256_set1_ps(0.5f)), x, p)));
        const __m256 tail = _mm256_mul_ps(_mm256_set1_ps(0.5f), erfc);
        return _mm256_mul_ps(x, _mm256_blendv_ps(_mm256_sub_ps(one, tail), tail, x));
    }
};

// 0.5 (1 + tanh u) is the logistic function of 2u, which does not cancel for negative u.
struct GeluTanh {
    static __m256 apply(__m256 x) {
        const __m256 cubic = _mm256_fmadd_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(0.044715f), _mm256_set1_ps(1.0f));
        const __m256 u = _mm256_mul_ps(_mm256_mul_ps(x, _mm256_set1_ps(-2 * 0.79788456f)), cubic);
        return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), exp_ps(u)));
    }
};

struct QuickGelu {
    static __m256 apply(__m256 x) { return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), exp_ps(_mm256_mul_ps(x, _mm256_set1_ps(-1.702f))))); }
};

struct Relu {
    static __m256 apply(__m256 x) { return _mm256_max_ps(x, _mm256_setzero_ps()); }
};

struct Sigmoid {
    static __m256 apply(__m256 x) { return sigmoid_ps(x); }
};

struct Tanh {
    static __m256 apply(__m256 x) { return tanh_ps(x); }
};

template <class Operation>
void map_one(const ElementArgs& args, Range elements) {
    std::int64_t i = elements.begin;
    for (; i + 8 <= elements.end; i += 8) _mm256_storeu_ps(args.y + i, Operation::apply(_mm256_loadu_ps(args.a + i)));
    if (const std::int64_t rest = elements.end - i; rest > 0) store_tail(args.y + i, rest, Operation::apply(load_tail(args.a + i, rest)));
}

template <class Operation>
void map_two(const ElementArgs& args, Range elements, Operation operation) {
    std::int64_t i = elements.begin;
    for (; i + 8 <= elements.end; i += 8) _mm256_storeu_ps(args.y + i, operation(_mm256_loadu_ps(args.a + i), _mm256_loadu_ps(args.b + i)));
    if (const std::int64_t rest = elements.end - i; rest > 0) store_tail(args.y + i, rest, operation(load_tail(args.a + i, rest), load_tail(args.b + i, rest)));
}

}  // namespace

void activation_avx2(const ElementArgs& args, Range elements) {
    switch (args.activation) {
        case Activation::silu: return map_one<Silu>(args, elements);
        case Activation::gelu_erf: return map_one<GeluErf>(args, elements);
        case Activation::gelu_tanh: return map_one<GeluTanh>(args, elements);
        case Activation::quick_gelu: return map_one<QuickGelu>(args, elements);
        case Activation::relu: return map_one<Relu>(args, elements);
        case Activation::sigmoid: return map_one<Sigmoid>(args, elements);
        case Activation::tanh: return map_one<Tanh>(args, elements);
    }
}

void multiply_avx2(const ElementArgs& args, Range elements) {
    map_two(args, elements, [](__m256 a, __m256 b) { return _mm256_mul_ps(a, b); });
}

void add_avx2(const ElementArgs& args, Range elements) {
    map_two(args, elements, [](__m256 a, __m256 b) { return _mm256_add_ps(a, b); });
}

void scale_avx2(const ElementArgs& args, Range elements) {
    const __m256 factor = _mm256_set1_ps(args.factor);
    std::int64_t i = elements.begin;
    for (; i + 8 <= elements.end; i += 8) _mm256_storeu_ps(args.y + i, _mm256_mul_ps(_mm256_loadu_ps(args.a + i), factor));
    if (const std::int64_t rest = elements.end - i; rest > 0) store_tail(args.y + i, rest, _mm256_mul_ps(load_tail(args.a + i, rest), factor));
}

void softcap_avx2(const ElementArgs& args, Range elements) {
    const __m256 factor = _mm256_set1_ps(args.factor);
    std::int64_t i = elements.begin;
    for (; i + 8 <= elements.end; i += 8)
        _mm256_storeu_ps(args.y + i, _mm256_mul_ps(factor, tanh_ps(_mm256_div_ps(_mm256_loadu_ps(args.a + i), factor))));
    if (const std::int64_t rest = elements.end - i; rest > 0)
        store_tail(args.y + i, rest, _mm256_mul_ps(factor, tanh_ps(_mm256_div_ps(load_tail(args.a + i, rest), factor))));
}

}  // namespace skiff
