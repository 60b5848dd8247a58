// Eight columns at a time; the taps of a column lie a row apart.
#include <immintrin.h>

#include "kernels/cpu/cpu.h"

namespace skiff {

void causal_conv_avx2(const CausalConvArgs& args, Range columns) {
    std::int64_t column = columns.begin;
    for (; column + 8 <= columns.end; column += 8) {
        __m256 sum = args.bias != nullptr ? _mm256_loadu_ps(args.bias + column) : _mm256_setzero_ps();
        for (std::int64_t tap = 0; tap < args.kernel; ++tap)
            if (args.rows[tap] != nullptr) sum = _mm256_fmadd_ps(_mm256_loadu_ps(args.taps + tap * args.stride + column), _mm256_loadu_ps(args.rows[tap] + column), sum);
        _mm256_storeu_ps(args.y + column, sum);
    }
    for (; column < columns.end; ++column) {  // in the same order and with the same roundings, so that a share's ends do not show
        float sum = args.bias != nullptr ? args.bias[column] : 0;
        for (std::int64_t tap = 0; tap < args.kernel; ++tap)
            if (args.rows[tap] != nullptr) sum = _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(args.taps[tap * args.stride + column]), _mm_set_ss(args.rows[tap][column]), _mm_set_ss(sum)));
        args.y[column] = sum;
    }
}

}  // namespace skiff
