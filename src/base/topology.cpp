#include "base/topology.h"

#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "base/mapped_file.h"

#ifdef SKIFF_HWLOC
#include <hwloc.h>
#endif

namespace skiff {
namespace {

cpu_set_t allowed_processors() {
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (::sched_getaffinity(0, sizeof allowed, &allowed) != 0) CPU_SET(0, &allowed);
    return allowed;
}

void finish(Topology& topology) {
    std::set<int> nodes;
    for (const Topology::Core& core : topology.cores) nodes.insert(core.node);
    topology.n_nodes = std::max<int>(1, static_cast<int>(nodes.size()));
    std::stable_sort(topology.cores.begin(), topology.cores.end(), [](const auto& a, const auto& b) { return a.node < b.node; });
}

#ifdef SKIFF_HWLOC

Topology from_hwloc() {
    Topology result;
    hwloc_topology_t machine;
    if (hwloc_topology_init(&machine) != 0) return result;
    if (hwloc_topology_load(machine) == 0) {
        const bool real = hwloc_topology_is_thissystem(machine) != 0;
        const cpu_set_t allowed = allowed_processors();
        const int n_cores = hwloc_get_nbobjs_by_type(machine, HWLOC_OBJ_CORE);
        // Some emulators and old kernels tell of no cores: then each processor is one.
        const hwloc_obj_type_t type = n_cores > 0 ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
        const int n = hwloc_get_nbobjs_by_type(machine, type);
        for (int i = 0; i < n; ++i) {
            const hwloc_obj_t core = hwloc_get_obj_by_type(machine, type, static_cast<unsigned>(i));
            int cpu = hwloc_bitmap_first(core->cpuset);
            while (real && cpu >= 0 && (cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, &allowed))) cpu = hwloc_bitmap_next(core->cpuset, cpu);
            if (cpu < 0) {
                result.whole_machine = false;
                continue;
            }
            const int node = core->nodeset != nullptr ? std::max(0, hwloc_bitmap_first(core->nodeset)) : 0;
            result.cores.push_back({cpu, node});
        }
    }
    hwloc_topology_destroy(machine);
    finish(result);
    return result;
}

#endif

std::string read_small(const std::string& path) {
    auto text = read_text_file(path, 1 << 16);
    return text.ok() ? *text : std::string();
}

int node_of_cpu(int cpu) {
    for (int node = 0; node < 64; ++node)
        if (is_directory("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/node" + std::to_string(node))) return node;
    return 0;
}

Topology from_sys() {
    Topology result;
    const cpu_set_t allowed = allowed_processors();
    std::map<std::pair<int, int>, bool> seen;  // package and core -> usable
    const int n = std::max(1, static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN)));
    for (int cpu = 0; cpu < std::max(n, CPU_SETSIZE); ++cpu) {
        const bool usable = cpu < CPU_SETSIZE && CPU_ISSET(cpu, &allowed);
        if (!usable && cpu >= n) continue;
        const std::string folder = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
        const std::string core = read_small(folder + "core_id"), package = read_small(folder + "physical_package_id");
        const std::pair key = core.empty() ? std::pair(-1, cpu) : std::pair(std::atoi(package.c_str()), std::atoi(core.c_str()));
        bool& known = seen[key];
        if (usable && !known) result.cores.push_back({cpu, node_of_cpu(cpu)});
        known = known || usable;
    }
    result.whole_machine = std::all_of(seen.begin(), seen.end(), [](const auto& entry) { return entry.second; });
    finish(result);
    return result;
}

long set_memory_policy(int mode, unsigned long mask) {
    return ::syscall(SYS_set_mempolicy, mode, mask == 0 ? nullptr : &mask, mask == 0 ? 0 : sizeof mask * 8);
}

}  // namespace

Topology read_topology() {
#ifdef SKIFF_HWLOC
    if (Topology topology = from_hwloc(); !topology.cores.empty()) return topology;
#endif
    return from_sys();
}

const Topology& this_machine() {
    static const Topology topology = [] {
        // hwloc takes milliseconds to look at caches and devices; they are worth it only where there are nodes to tell apart.
        const bool several_nodes = is_directory("/sys/devices/system/node/node1") || std::getenv("HWLOC_SYNTHETIC") != nullptr;
        return several_nodes ? read_topology() : from_sys();
    }();
    return topology;
}

const char* topology_source() {
#ifdef SKIFF_HWLOC
    return "hwloc";
#else
    return "/sys";
#endif
}

std::vector<int> nodes_of_threads(const Topology& topology, int n_threads) {
    if (topology.n_nodes < 2 || !topology.whole_machine || n_threads != static_cast<int>(topology.cores.size())) return {};
    std::vector<int> nodes;
    for (const Topology::Core& core : topology.cores) nodes.push_back(core.node);
    return nodes;
}

bool stay_on_node(const Topology& topology, int node) {
    cpu_set_t processors;
    CPU_ZERO(&processors);
    for (const Topology::Core& core : topology.cores)
        if (core.node == node && core.cpu < CPU_SETSIZE) CPU_SET(core.cpu, &processors);
    return CPU_COUNT(&processors) > 0 && ::sched_setaffinity(0, sizeof processors, &processors) == 0;
}

InterleavedMemory::InterleavedMemory(const Topology& topology) {
    unsigned long mask = 0;
    for (const Topology::Core& core : topology.cores)
        if (core.node < 63) mask |= 1UL << core.node;
    if (topology.n_nodes >= 2) active_ = set_memory_policy(MPOL_INTERLEAVE, mask) == 0;
}

InterleavedMemory::~InterleavedMemory() {
    if (active_) set_memory_policy(MPOL_DEFAULT, 0);
}

}  // namespace skiff
