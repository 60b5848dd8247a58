// Sixteen lanes: a register with AVX-512, where it is 1.75 times as fast as eight lanes in the same clones. (Two registers with AVX2, which GCC 12
// handles four times slower than one.)
#if defined(__x86_64__)
#define SKIFF_TARGETS __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,bmi2")))
#else
#define SKIFF_TARGETS
#endif
#define SKIFF_LANES 16
#define SKIFF_LANES_NAMESPACE lanes_16
#include "train/row_kernels.inc"

namespace skiff::train {

const bool wide_rows =
#if defined(__x86_64__)
    __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#else
    false;
#endif

}  // namespace skiff::train
