#include "kernels/windows.h"

namespace skiff {
namespace {

#if defined(__x86_64__)
#define SKIFF_WIDE(name) , {#name "_avx2", Isa::avx2, name##_avx2}, {#name "_avx512", Isa::avx512, name##_avx512}
#else
#define SKIFF_WIDE(name)
#endif

constexpr KernelRow<DepthwiseFn> depthwise_rows[] = {{"depthwise_ref", Isa::generic, depthwise_ref} SKIFF_WIDE(depthwise)};
constexpr KernelRow<PoolFn> pool_rows[] = {{"pool_ref", Isa::generic, pool_ref} SKIFF_WIDE(pool)};

}  // namespace

std::span<const KernelRow<DepthwiseFn>> depthwise_kernels() { return depthwise_rows; }
std::span<const KernelRow<PoolFn>> pool_kernels() { return pool_rows; }

}  // namespace skiff
