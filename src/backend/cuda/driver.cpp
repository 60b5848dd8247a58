#include "backend/cuda/driver.h"

#include <dlfcn.h>

#include <cstdlib>
#include <sstream>

#include "base/mapped_file.h"

namespace skiff {
namespace {

// A few functions of the driver's C interface, which has kept them since CUDA 4.
using CuResult = int;
using CuDeviceNumber = int;
constexpr int attribute_multiprocessors = 16, attribute_major = 75, attribute_minor = 76;

struct DriverFunctions {
    CuResult (*init)(unsigned) = nullptr;
    CuResult (*version)(int*) = nullptr;
    CuResult (*count)(int*) = nullptr;
    CuResult (*get)(CuDeviceNumber*, int) = nullptr;
    CuResult (*name)(char*, int, CuDeviceNumber) = nullptr;
    CuResult (*memory)(std::size_t*, CuDeviceNumber) = nullptr;
    CuResult (*attribute)(int*, int, CuDeviceNumber) = nullptr;
    bool complete() const { return init && version && count && get && name && memory && attribute; }
};

template <class Fn>
void bind(void* library, const char* symbol, Fn& function) {
    function = reinterpret_cast<Fn>(::dlsym(library, symbol));
}

std::string reason_of(CuResult result) {
    switch (result) {
        case 100: return "the driver sees no device; in a container, start it with access to the GPU (--gpus all)";
        case 101: return "the driver calls the device invalid";
        case 803: return "the kernel module and the driver library are of different versions; restart the machine, or install one driver";
        case 804: return "the driver's compatibility package does not support this device; use the device's own driver";
        case 999: return "the driver could not start (unknown error); look at dmesg, and whether nvidia-smi works";
        default: return "the driver could not start (error " + std::to_string(result) + "); see whether nvidia-smi works";
    }
}

std::vector<std::string> library_folders() {
    std::vector<std::string> folders;
    if (const char* given = std::getenv("SKIFF_CUDA_LIBRARIES"); given != nullptr) {
        std::istringstream list(given);
        for (std::string folder; std::getline(list, folder, ':');)
            if (!folder.empty()) folders.push_back(folder);
    }
    folders.emplace_back();  // what the loader knows: LD_LIBRARY_PATH, ld.so.conf
    for (const char* variable : {"CUDA_HOME", "CUDA_PATH"})
        if (const char* given = std::getenv(variable); given != nullptr) folders.push_back(std::string(given) + "/lib64");
    folders.push_back("/usr/local/cuda/lib64");
    return folders;
}

}  // namespace

CudaDriver probe_cuda_driver() {
    CudaDriver driver;
    void* library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        driver.problem = "no libcuda.so.1: there is no NVIDIA driver here, or the loader does not find it (LD_LIBRARY_PATH)";
        return driver;
    }
    driver.found = true;
    DriverFunctions cu;
    bind(library, "cuInit", cu.init);
    bind(library, "cuDriverGetVersion", cu.version);
    bind(library, "cuDeviceGetCount", cu.count);
    bind(library, "cuDeviceGet", cu.get);
    bind(library, "cuDeviceGetName", cu.name);
    bind(library, "cuDeviceTotalMem_v2", cu.memory);
    bind(library, "cuDeviceGetAttribute", cu.attribute);
    if (!cu.complete()) {
        driver.problem = "libcuda.so.1 lacks functions that every driver has; it is damaged, or a stub";
        return driver;  // the library stays open: closing a driver is not safe
    }
    if (cu.version(&driver.version) != 0) driver.version = 0;
    if (const CuResult result = cu.init(0); result != 0) {
        driver.problem = reason_of(result);
        return driver;
    }
    int n_devices = 0;
    if (const CuResult result = cu.count(&n_devices); result != 0) {
        driver.problem = reason_of(result);
        return driver;
    }
    for (int i = 0; i < n_devices; ++i) {
        CuDeviceNumber number = 0;
        char name[256] = {};
        std::size_t memory = 0;
        CudaDevice device;
        if (cu.get(&number, i) != 0 || cu.name(name, sizeof name - 1, number) != 0 || cu.memory(&memory, number) != 0) continue;
        device.name = name;
        device.memory_bytes = memory;
        cu.attribute(&device.major, attribute_major, number);
        cu.attribute(&device.minor, attribute_minor, number);
        cu.attribute(&device.n_multiprocessors, attribute_multiprocessors, number);
        driver.devices.push_back(std::move(device));
    }
    if (driver.devices.empty()) driver.problem = "the driver sees no device; CUDA_VISIBLE_DEVICES may hide it";
    return driver;
}

std::string find_named_library(const std::vector<std::string>& names) {
    for (const std::string& folder : library_folders()) {
        for (const std::string& name : names) {
            const std::string path = folder.empty() ? name : folder + "/" + name;
            if (!folder.empty() && !file_exists(path)) continue;
            // Opened to see whether it can be, and left open: these libraries do not like to be closed.
            if (::dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL) != nullptr) return path;
        }
    }
    return {};
}

namespace {

const std::vector<std::string> cudnn_names = {"libcudnn.so.9"};
constexpr const char* cudnn_source = "PyPI's nvidia-cudnn-cu13 or -cu12, or developer.nvidia.com/cudnn";

// 91900 is 9.19.0.
std::string cudnn_version(const std::string& path) {
    if (path.empty()) return {};
    std::size_t (*version)() = nullptr;
    bind(::dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL), "cudnnGetVersion", version);
    if (version == nullptr) return {};
    const std::size_t number = version();
    return std::to_string(number / 10000) + "." + std::to_string(number / 100 % 100) + "." + std::to_string(number % 100);
}

}  // namespace

std::vector<NamedLibrary> probe_cuda_libraries() {
    std::vector<NamedLibrary> libraries = {
        {"cuBLASLt", "matrix products of long prompts; without it own kernels do them, slower", {"libcublasLt.so.13", "libcublasLt.so.12"}, "", "", ""},
        {"cuDNN", "attention over prompts (--attention cudnn) and convolution (classify --convolution cudnn), where they are asked of it; the own kernels need none", cudnn_names, "", "", cudnn_source},
        {"NCCL", "sums across several GPUs; one GPU needs none", {"libnccl.so.2"}, "", "", ""},
    };
    for (NamedLibrary& library : libraries) library.path = find_named_library(library.names);
    libraries[1].version = cudnn_version(libraries[1].path);
    return libraries;
}

std::string find_cudnn() { return find_named_library(cudnn_names); }
std::string no_cudnn() { return cudnn_names.front() + " was not found; get it (" + cudnn_source + ") and name its folder in SKIFF_CUDA_LIBRARIES"; }

}  // namespace skiff
