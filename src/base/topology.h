// Which cores this process may use, and to which memory each is near. From hwloc where the build has it, else from /sys.
#pragma once

#include <vector>

namespace skiff {

struct Topology {
    struct Core {
        int cpu;   // the first logical processor of a physical core that this process may run on
        int node;  // of memory (NUMA), from 0
    };
    std::vector<Core> cores;  // ordered by node
    int n_nodes = 1;          // that these cores belong to
    bool whole_machine = true;  // the process may use every core there is
};

// $HWLOC_SYNTHETIC ("numa:2 core:4 pu:2") puts an imagined machine in the place of this one, as for every program that asks hwloc.
Topology read_topology();
const char* topology_source();  // "hwloc" or "/sys"
// The same, read once; where the system knows one memory node only, without asking hwloc for more than it can tell.
const Topology& this_machine();

// The node that each thread of a pool shall stay on, so that it finds the weights that it touched first in near memory; empty where binding would do
// harm or no good: one node only, a part of the machine (others use the same cores), or not one thread per core.
std::vector<int> nodes_of_threads(const Topology& topology, int n_threads);

// While it lives, memory that this thread and its children touch first is spread evenly over the nodes, if there are several: weights are packed by few
// threads and read by all. Does nothing where the system has no such thing.
class InterleavedMemory {
public:
    explicit InterleavedMemory(const Topology& topology);
    ~InterleavedMemory();
    InterleavedMemory(const InterleavedMemory&) = delete;
    InterleavedMemory& operator=(const InterleavedMemory&) = delete;
    bool active() const { return active_; }

private:
    bool active_ = false;
};

// Keeps the calling thread on the processors of a node; true if that worked.
bool stay_on_node(const Topology& topology, int node);

}  // namespace skiff
