// What this machine has for CUDA, found by name at run time: the driver, its devices, the libraries that may be used. Needs no CUDA headers, and no plug-in.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace skiff {

struct CudaDevice {
    std::string name;      // "NVIDIA H200"
    int major = 0, minor = 0;  // compute capability
    std::uint64_t memory_bytes = 0;
    int n_multiprocessors = 0;
    std::string capability() const { return std::to_string(major) + "." + std::to_string(minor); }
};

struct CudaDriver {
    bool found = false;   // libcuda.so.1 was opened
    int version = 0;      // CUDA version that it can run: 13000 is 13.0
    std::vector<CudaDevice> devices;
    std::string problem;  // why there is no device, in a sentence; empty when there is one
    std::string version_text() const { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }
};
CudaDriver probe_cuda_driver();

// A library that is opened by name, and used where it is there.
struct NamedLibrary {
    std::string what;                // "cuBLASLt"
    std::string use;                 // what is done with it, and what happens without
    std::vector<std::string> names;  // newest first
    std::string path;                // where it was found; empty: nowhere
    std::string version;             // where it says one: "9.19.0"
    std::string source;              // how to get it
};
// cuBLASLt, cuDNN and NCCL: the folders of $SKIFF_CUDA_LIBRARIES (separated by colons), the loader's, $CUDA_HOME/lib64, /usr/local/cuda/lib64.
std::vector<NamedLibrary> probe_cuda_libraries();
std::string find_cudnn();  // its path, or nothing
std::string no_cudnn();    // the sentence for that, with what to do
// One of `names`, in those folders, or nothing. What is found can be given to dlopen.
std::string find_named_library(const std::vector<std::string>& names);

}  // namespace skiff
