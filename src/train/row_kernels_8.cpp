// Eight lanes: a register with AVX2, two with SSE2. The loader chooses between the two.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
#define SKIFF_TARGETS __attribute__((target_clones("default", "arch=x86-64-v3")))
#else
#define SKIFF_TARGETS
#endif
#define SKIFF_LANES 8
#define SKIFF_LANES_NAMESPACE lanes_8
#include "train/row_kernels.inc"
