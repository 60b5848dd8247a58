#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd_avx2.h"

namespace skiff {
namespace {

// Sums of (x - shift) or its square over one item, in 32 lanes that are added in a fixed order.
struct Plain {
    static __m256 add(__m256 sum, __m256 x) { return _mm256_add_ps(sum, x); }
};
struct Square {
    static __m256 add(__m256 sum, __m256 x) { return _mm256_fmadd_ps(x, x, sum); }
};

template <class Term>
float sum_over(const float* x, std::int64_t width, float shift) {
    __m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    const __m256 shifts = _mm256_set1_ps(shift);
    std::int64_t i = 0;
    for (; i + 32 <= width; i += 32) {
        SKIFF_UNROLL
        for (int k = 0; k < 4; ++k) sum[k] = Term::add(sum[k], _mm256_sub_ps(_mm256_loadu_ps(x + i + k * 8), shifts));
    }
    for (; i + 8 <= width; i += 8) sum[0] = Term::add(sum[0], _mm256_sub_ps(_mm256_loadu_ps(x + i), shifts));
    if (const std::int64_t rest = width - i; rest > 0) {
        const __m256 inside = _mm256_castsi256_ps(tail_mask(rest));
        sum[1] = Term::add(sum[1], _mm256_and_ps(inside, _mm256_sub_ps(load_tail(x + i, rest), shifts)));
    }
    return sum_lanes(_mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3])));
}

}  // namespace

void norm_avx2(const NormArgs& args, Range items) {
    const auto width = static_cast<float>(args.width);
    for (std::int64_t item = items.begin; item < items.end; ++item) {
        const float* x = args.x + item * args.width;
        float* y = args.y + item * args.width;
        const float mean = args.kind == NormKind::layer ? sum_over<Plain>(x, args.width, 0) / width : 0;
        const float variance = sum_over<Square>(x, args.width, mean) / width;
        const __m256 scale = _mm256_set1_ps(1.0f / __builtin_sqrtf(variance + args.eps)), shift = _mm256_set1_ps(mean);
        for (std::int64_t i = 0; i < args.width; i += 8) {
            const std::int64_t n = args.width - i < 8 ? args.width - i : 8;
            __m256 value = _mm256_mul_ps(_mm256_sub_ps(load_tail(x + i, n), shift), scale);
            if (args.weight != nullptr) value = _mm256_mul_ps(value, load_tail(args.weight + i, n));
            if (args.bias != nullptr) value = _mm256_add_ps(value, load_tail(args.bias + i, n));
            store_tail(y + i, n, value);
        }
    }
}

}  // namespace skiff
