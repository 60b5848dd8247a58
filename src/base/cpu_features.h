// What this processor can do, what the system lets us use, and which instruction set the kernels shall take.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.h"

namespace skiff {

// Instruction sets for which kernel rows exist, from the least to the best, x86-64 and then arm64. A later one includes the earlier ones of its family, but for
// AVX-VNNI, which processors with AVX-512 may lack (isa_includes).
enum class Isa {
    generic,
    avx2,       // with FMA and F16C
    avx2vnni,   // AVX2 and the 256-bit integer dot products of AVX-VNNI
    avx512,     // AVX-512 F, BW, DQ, VL and VNNI (Cascade Lake and later)
    avx512vbmi, // and VBMI and VBMI2, which move bytes anywhere in a vector (Ice Lake, Zen 4 and later)
    avx512bf16, // and products of pairs of bf16 (Zen 4, Sapphire Rapids and later)
    amx,        // and the tile registers and 8-bit products of AMX (Sapphire Rapids and later)
    neon,       // Armv8-A: every arm64 processor
    neon_dot,   // and the dot products of bytes, sdot and udot (Cortex-A76, Apple M1 and later)
    neon_i8mm,  // and the 8-bit matrix products, smmla (Armv8.6-A: Graviton 3, Apple M2 and later)
};
inline constexpr std::array all_isas = {Isa::generic, Isa::avx2, Isa::avx2vnni, Isa::avx512, Isa::avx512vbmi, Isa::avx512bf16, Isa::amx, Isa::neon, Isa::neon_dot, Isa::neon_i8mm};

std::string_view isa_name(Isa isa);
bool isa_includes(Isa isa, Isa other);         // whether what is compiled for `other` runs wherever `isa` does; both of one family, or `other` generic
bool isa_of_this_build(Isa isa);               // of the family of processors that this program is built for
bool isa_available(Isa isa);                   // on this processor, right now
Isa best_isa();                                // of the available ones
Result<Isa> parse_isa(std::string_view name);  // usage error lists the names; unsupported if this processor lacks it

struct CpuInfo {
    std::string model_name;
    std::string feature_list;                               // "avx2 fma f16c ..."
    int n_logical = 1;                                      // that this process may use (affinity)
    int n_physical = 1;                                     // distinct cores among them
    int n_memory_nodes = 1;                                 // NUMA
    double cgroup_cpus = 0;                                 // CPU quota of the control group, 0 = no limit
    std::size_t l1d_bytes = 0, l2_bytes = 0, l3_bytes = 0;  // of one core; L3 as seen by it
    std::size_t memory_bytes = 0, available_memory_bytes = 0;
};
CpuInfo read_cpu_info();
int default_thread_count();  // physical cores within affinity and quota
int usable_cpus();           // logical processors that this process may run on

// Bytes of this process: now and at its peak (VmRSS, VmHWM of /proc/self/status).
std::size_t resident_bytes();
std::size_t peak_resident_bytes();
void reset_peak_resident();  // where the kernel allows (/proc/self/clear_refs)

}  // namespace skiff
