#include "backend/cuda/library.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>

#include "base/atomic_file.h"
#include "base/mapped_file.h"

namespace skiff::cuda {
namespace {

constexpr const char* file_name = "libskiff_cuda.so";

std::string folder_of_program() {
    char path[4096];
    const ssize_t n = ::readlink("/proc/self/exe", path, sizeof path - 1);
    return n > 0 ? parent_path(std::string(path, static_cast<std::size_t>(n))) : std::string();
}

}  // namespace

std::string folder_of(const Table& table) {
    Dl_info info{};
    return ::dladdr(&table, &info) != 0 && info.dli_fname != nullptr ? parent_path(info.dli_fname) : std::string();
}

std::vector<std::string> plug_in_places() {
    if (const char* given = std::getenv("SKIFF_CUDA_LIBRARY"); given != nullptr && *given != '\0') return {given};
    const std::string folder = folder_of_program();
    return {folder + "/" + file_name, folder + "/../lib/" + file_name};
}

Result<PlugIn> open_plug_in(const std::string& path) {
    void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        const char* reason = ::dlerror();
        return unsupported(path + " cannot be opened: " + (reason != nullptr ? reason : "unknown reason"));
    }
    const auto function = reinterpret_cast<TableFunction>(::dlsym(library, table_symbol));
    if (function == nullptr) return unsupported(path + " is no plug-in for this version of skiff: it has no " + table_symbol);
    const Table* table = function();
    if (table == nullptr || table->version != table_version || table->layout != table_layout())
        return unsupported(path + " was built from another version of skiff; build both together");
    return PlugIn{table, path};
}

Result<PlugIn> open_plug_in() {
    static const Result<PlugIn> opened = []() -> Result<PlugIn> {
        std::string places;
        for (const std::string& path : plug_in_places()) {
            if (file_exists(path)) return open_plug_in(path);
            places += (places.empty() ? "" : ", ") + path;
        }
        return unsupported("this build has no CUDA plug-in (looked for " + places + "); build where nvcc is found, or name the file in SKIFF_CUDA_LIBRARY");
    }();
    return opened;
}

}  // namespace skiff::cuda
