// A device that is none: the plug-in's table with functions that compute on the host, by the reference kernels. What it is for is everything around the kernels:
// programs, addresses, pages, graphs and the order of copies are tested on any machine (fake_memory.h says how strict it is).
#include "backend/cuda/testing/fake_kernels.h"

namespace skiff::cuda::fake {
namespace {

const Table* make_table() {
    static Table table{};
    table.version = table_version;
    table.layout = table_layout();
    table.name = "fake";
    add_runtime(table);
    add_matrices(table);
    add_rows(table);
    add_windows(table);
    add_cudnn(table);
    add_experts(table);
    add_state(table);
    return &table;
}

}  // namespace
}  // namespace skiff::cuda::fake

extern "C" const skiff::cuda::Table* skiff_cuda_table_v1() {
    static const skiff::cuda::Table* table = skiff::cuda::fake::make_table();
    return table;
}
