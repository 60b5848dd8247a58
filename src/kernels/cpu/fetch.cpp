#include "kernels/cpu/fetch.h"

namespace skiff {
namespace {

bool is_amd_family_19h() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_is("amdfam19h") != 0;
#else
    return false;
#endif
}

}  // namespace

const bool fetch_into_l2 = is_amd_family_19h();

}  // namespace skiff
