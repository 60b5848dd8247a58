// Finds libskiff_cuda.so and opens it: $SKIFF_CUDA_LIBRARY, beside the program, ../lib of it.
#pragma once

#include <string>
#include <vector>

#include "backend/cuda/table.h"
#include "base/result.h"

namespace skiff::cuda {

struct PlugIn {
    const Table* table = nullptr;
    std::string path;
};
// The plug-in, opened once and left open. Errors say where it was looked for, or why it cannot be used.
Result<PlugIn> open_plug_in();
// One file, however the environment is set: for tests.
Result<PlugIn> open_plug_in(const std::string& path);
std::vector<std::string> plug_in_places();
std::string folder_of(const Table& table);  // of the plug-in that it came from; "" where it came from none

}  // namespace skiff::cuda
