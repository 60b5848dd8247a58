// Machines that are not here, through hwloc's synthetic topologies.
#include "base/topology.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <string>

#include "base/cpu_features.h"
#include "base/thread_pool.h"

namespace skiff {
namespace {

class Imagined {
public:
    explicit Imagined(const char* machine) { ::setenv("HWLOC_SYNTHETIC", machine, 1); }
    ~Imagined() { ::unsetenv("HWLOC_SYNTHETIC"); }
};

TEST(Topology, counts_the_cores_of_this_machine) {
    const Topology topology = read_topology();
    EXPECT_GE(topology.cores.size(), 1u);
    EXPECT_LE(topology.cores.size(), static_cast<std::size_t>(usable_cpus()));
    EXPECT_GE(topology.n_nodes, 1);
    EXPECT_EQ(this_machine().cores.size(), topology.cores.size());
    EXPECT_EQ(read_cpu_info().n_physical, static_cast<int>(topology.cores.size()));
}

TEST(Topology, one_thread_per_core_on_its_own_node) {
    if (std::string(topology_source()) != "hwloc") GTEST_SKIP() << "built without hwloc";
    const Imagined machine("numa:2 core:4 pu:2");
    const Topology topology = read_topology();
    ASSERT_EQ(topology.cores.size(), 8u);  // not 16: the second thread of a core adds little
    EXPECT_EQ(topology.n_nodes, 2);
    EXPECT_EQ(nodes_of_threads(topology, 8), (std::vector<int>{0, 0, 0, 0, 1, 1, 1, 1}));
    EXPECT_TRUE(nodes_of_threads(topology, 7).empty());   // some core is idle: the system knows better which
    EXPECT_TRUE(nodes_of_threads(topology, 16).empty());
}

TEST(Topology, no_binding_on_one_node_or_a_part_of_the_machine) {
    Topology one{{{0, 0}, {1, 0}}, 1, true}, part{{{0, 0}, {8, 1}}, 2, false};
    EXPECT_TRUE(nodes_of_threads(one, 2).empty());
    EXPECT_TRUE(nodes_of_threads(part, 2).empty());
    part.whole_machine = true;
    EXPECT_EQ(nodes_of_threads(part, 2), (std::vector<int>{0, 1}));
    EXPECT_FALSE(InterleavedMemory(one).active());
}

TEST(Topology, nodes_that_the_system_does_not_have_are_no_error) {
    const Topology elsewhere{{{0, 40}, {1, 41}}, 2, true};
    { const InterleavedMemory memory(elsewhere); }
    EXPECT_FALSE(stay_on_node(elsewhere, 7));
    EXPECT_FALSE(stay_on_node(Topology{{{1000, 0}}, 1, true}, 0));
}

}  // namespace
}  // namespace skiff
