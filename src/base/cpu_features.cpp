#include "base/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <sstream>
#include <utility>

#include "base/mapped_file.h"
#include "base/thread_limit.h"
#include "base/topology.h"

namespace skiff {
namespace {

std::string read_small(const std::string& path) {
    auto text = read_text_file(path, 1 << 20);
    return text.ok() ? *text : std::string();
}

// "key : value" lines of /proc files; the value of the first line that starts with `key`.
std::string proc_value(const std::string& text, std::string_view key) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        if (line.compare(0, key.size(), key) != 0) continue;
        auto colon = line.find(':');
        if (colon == std::string::npos) continue;
        auto begin = line.find_first_not_of(" \t", colon + 1);
        return begin == std::string::npos ? std::string() : line.substr(begin);
    }
    return {};
}

std::size_t kib_value(const std::string& text, std::string_view key) {
    return static_cast<std::size_t>(std::strtoull(proc_value(text, key).c_str(), nullptr, 10)) * 1024;
}

double cgroup_cpu_quota() {
    std::istringstream v2(read_small("/sys/fs/cgroup/cpu.max"));
    std::string quota;
    double period = 0;
    if (v2 >> quota >> period && quota != "max" && period > 0) return std::strtod(quota.c_str(), nullptr) / period;
    double quota_us = std::strtod(read_small("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").c_str(), nullptr);
    double period_us = std::strtod(read_small("/sys/fs/cgroup/cpu/cpu.cfs_period_us").c_str(), nullptr);
    return quota_us > 0 && period_us > 0 ? quota_us / period_us : 0;
}

std::size_t cache_bytes(int level) {
    for (int index = 0; index < 8; ++index) {
        std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
        std::string found = read_small(folder + "level");
        if (found.empty()) break;
        if (std::atoi(found.c_str()) != level || read_small(folder + "type").compare(0, 4, "Inst") == 0) continue;
        std::string size = read_small(folder + "size");
        std::size_t value = std::strtoull(size.c_str(), nullptr, 10);
        if (size.find('K') != std::string::npos) value <<= 10;
        if (size.find('M') != std::string::npos) value <<= 20;
        return value;
    }
    return 0;
}

#if defined(__x86_64__)
// The compilers' __builtin_cpu_supports knows F16C and AVX-VNNI only in newer clang.
bool has_f16c() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
bool has_avx_vnni() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & (1U << 4)) != 0;
}
// AMX-TILE and AMX-INT8, tile state enabled by the system (XCR0), and granted to this process, which has to ask for so much state.
bool has_amx() {
    constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA of <asm/prctl.h>
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & bit_OSXSAVE) == 0) return false;
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx >> 24 & 3) != 3) return false;
    asm volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    return (eax >> 17 & 3) == 3 && ::syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#endif

#if defined(__aarch64__)
std::string feature_list(const std::string&) {
    struct Feature {
        std::string_view name;
        unsigned long type, bit;
    };
    static constexpr Feature interesting[] = {{"asimd", AT_HWCAP, HWCAP_ASIMD},     {"asimdhp", AT_HWCAP, HWCAP_ASIMDHP},  {"asimddp", AT_HWCAP, HWCAP_ASIMDDP},
                                              {"asimdfhm", AT_HWCAP, HWCAP_ASIMDFHM}, {"sve", AT_HWCAP, HWCAP_SVE},       {"sve2", AT_HWCAP2, HWCAP2_SVE2},
                                              {"i8mm", AT_HWCAP2, HWCAP2_I8MM}};
    std::string list;
    for (const Feature& feature : interesting)
        if ((::getauxval(feature.type) & feature.bit) != 0) list += (list.empty() ? "" : " ") + std::string(feature.name);
    return list;
}
#else
std::string feature_list(const std::string& cpuinfo) {
    std::istringstream flags(" " + proc_value(cpuinfo, "flags"));
    static constexpr std::string_view interesting[] = {"sse4_2",   "avx",      "avx2",        "fma",         "f16c",     "avx_vnni", "avx512f",
                                                       "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"};
    std::set<std::string> present;
    for (std::string flag; flags >> flag;) present.insert(flag);
    std::string list;
    for (auto flag : interesting)
        if (present.count(std::string(flag))) list += (list.empty() ? "" : " ") + std::string(flag);
    return list;
}
#endif

}  // namespace

std::string_view isa_name(Isa isa) {
    switch (isa) {
        case Isa::generic: return "generic";
        case Isa::avx2: return "avx2";
        case Isa::avx2vnni: return "avx2vnni";
        case Isa::avx512: return "avx512";
        case Isa::avx512vbmi: return "avx512vbmi";
        case Isa::avx512bf16: return "avx512bf16";
        case Isa::amx: return "amx";
        case Isa::neon: return "neon";
        case Isa::neon_dot: return "neon_dot";
        case Isa::neon_i8mm: return "neon_i8mm";
    }
    return "";
}

bool isa_includes(Isa isa, Isa other) { return other <= isa && (other != Isa::avx2vnni || isa == Isa::avx2vnni); }

bool isa_of_this_build(Isa isa) {
    if (isa == Isa::generic) return true;
#if defined(__x86_64__)
    return isa < Isa::neon;
#elif defined(__aarch64__)
    return isa >= Isa::neon;
#else
    return false;
#endif
}

bool isa_available(Isa isa) {
    if (isa == Isa::generic) return true;
    if (!isa_of_this_build(isa)) return false;
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c()) return false;
    if (isa == Isa::avx2) return true;
    if (isa == Isa::avx2vnni) return has_avx_vnni();
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512vnni");
    if (isa == Isa::avx512 || !avx512) return avx512;
    const bool vbmi = __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2");
    if (isa == Isa::avx512vbmi || !vbmi) return vbmi;
    const bool bf16 = __builtin_cpu_supports("avx512bf16");
    static const bool amx = has_amx();
    return bf16 && (isa == Isa::avx512bf16 || amx);
#elif defined(__aarch64__)
    if (isa == Isa::neon) return true;
    const bool dot = (::getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
    return isa == Isa::neon_dot ? dot : dot && (::getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
#else
    return false;
#endif
}

Isa best_isa() {
    Isa best = Isa::generic;
    for (Isa isa : all_isas)
        if (isa_available(isa)) best = isa;
    return best;
}

Result<Isa> parse_isa(std::string_view name) {
    std::string names;
    for (Isa isa : all_isas) {
        if (isa_name(isa) == name) {
            if (!isa_of_this_build(isa)) return unsupported("--isa " + std::string(name) + ": is of another family of processors than this program is built for; see skiff doctor");
            if (!isa_available(isa)) return unsupported("--isa " + std::string(name) + ": this processor lacks it; see skiff doctor");
            return isa;
        }
        if (isa_of_this_build(isa)) names += (names.empty() ? "" : ", ") + std::string(isa_name(isa));
    }
    return usage_error("--isa " + std::string(name) + ": unknown; choose one of: " + names);
}

CpuInfo read_cpu_info() {
    CpuInfo info;
    std::string cpuinfo = read_small("/proc/cpuinfo");
    info.model_name = proc_value(cpuinfo, "model name");
    info.feature_list = feature_list(cpuinfo);
#if defined(__aarch64__)  // numbers there, not a name
    if (info.model_name.empty()) info.model_name = "arm64, implementer " + proc_value(cpuinfo, "CPU implementer") + ", part " + proc_value(cpuinfo, "CPU part");
#endif

    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (::sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
        info.n_logical = std::max(1, CPU_COUNT(&allowed));
        info.n_physical = std::max<int>(1, static_cast<int>(this_machine().cores.size()));
        info.n_memory_nodes = this_machine().n_nodes;
    }
    info.cgroup_cpus = cgroup_cpu_quota();
    info.l1d_bytes = cache_bytes(1);
    info.l2_bytes = cache_bytes(2);
    info.l3_bytes = cache_bytes(3);
    std::string meminfo = read_small("/proc/meminfo");
    info.memory_bytes = kib_value(meminfo, "MemTotal");
    info.available_memory_bytes = kib_value(meminfo, "MemAvailable");
    return info;
}

namespace {
std::atomic<int> asked_threads = 0;
}  // namespace

void set_default_thread_count(int n_threads) { asked_threads = n_threads; }

int default_thread_count() {
    if (const int asked = asked_threads; asked > 0) return asked;
    CpuInfo info = read_cpu_info();
    int n = info.n_physical;
    if (info.cgroup_cpus > 0) n = std::min(n, std::max(1, static_cast<int>(info.cgroup_cpus)));
    return std::max(1, n);
}

int usable_cpus() {
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    return ::sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? std::max(1, CPU_COUNT(&allowed)) : 1;
}

std::size_t resident_bytes() { return kib_value(read_small("/proc/self/status"), "VmRSS"); }
std::size_t peak_resident_bytes() { return kib_value(read_small("/proc/self/status"), "VmHWM"); }

void reset_peak_resident() {
    if (std::FILE* file = std::fopen("/proc/self/clear_refs", "w")) {
        std::fputs("5", file);
        std::fclose(file);
    }
}

}  // namespace skiff
