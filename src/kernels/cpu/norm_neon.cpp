#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd_neon.h"

namespace skiff {
namespace {

// Sums of (x - shift) or its square over one item, in 32 lanes that are added in a fixed order.
struct Plain {
    static F8 add_to(F8 sum, F8 x) { return add(sum, x); }
};
struct Square {
    static F8 add_to(F8 sum, F8 x) { return fma(x, x, sum); }
};

template <class Term>
float sum_over(const float* x, std::int64_t width, float shift) {
    F8 sum[4] = {zeros(), zeros(), zeros(), zeros()};
    const F8 shifts = same(shift);
    std::int64_t i = 0;
    for (; i + 32 <= width; i += 32) {
        SKIFF_UNROLL
        for (int k = 0; k < 4; ++k) sum[k] = Term::add_to(sum[k], subtract(load(x + i + k * 8), shifts));
    }
    for (; i + 8 <= width; i += 8) sum[0] = Term::add_to(sum[0], subtract(load(x + i), shifts));
    if (const std::int64_t rest = width - i; rest > 0)
        sum[1] = Term::add_to(sum[1], select(tail_mask(rest), subtract(load_tail(x + i, rest), shifts), zeros()));
    return sum_lanes(add(add(sum[0], sum[1]), add(sum[2], sum[3])));
}

}  // namespace

void norm_neon(const NormArgs& args, Range items) {
    const auto width = static_cast<float>(args.width);
    for (std::int64_t item = items.begin; item < items.end; ++item) {
        const float* x = args.x + item * args.width;
        float* y = args.y + item * args.width;
        const float mean = args.kind == NormKind::layer ? sum_over<Plain>(x, args.width, 0) / width : 0;
        const float variance = sum_over<Square>(x, args.width, mean) / width;
        const F8 scale = same(1.0f / __builtin_sqrtf(variance + args.eps)), shift = same(mean);
        for (std::int64_t i = 0; i < args.width; i += 8) {
            const std::int64_t n = args.width - i < 8 ? args.width - i : 8;
            F8 value = multiply(subtract(load_tail(x + i, n), shift), scale);
            if (args.weight != nullptr) value = multiply(value, load_tail(args.weight + i, n));
            if (args.bias != nullptr) value = add(value, load_tail(args.bias + i, n));
            store_tail(y + i, n, value);
        }
    }
}

}  // namespace skiff
