#include "cli/doctor_cuda.h"

#include <cstdlib>

#include "backend/cuda/device.h"
#include "backend/cuda/driver.h"
#include "backend/cuda/library.h"
#include "cli/format.h"

namespace skiff {

Json cuda_facts() {
    const CudaDriver driver = probe_cuda_driver();
    Json devices = Json::array();
    for (const CudaDevice& device : driver.devices)
        devices.push_back(Json::object({{"name", device.name}, {"capability", device.capability()}, {"memory_bytes", device.memory_bytes}, {"multiprocessors", device.n_multiprocessors}}));
    Json facts = Json::object({{"driver", driver.found ? Json(driver.version_text()) : Json()}, {"driver_problem", driver.problem}, {"devices", devices}});
    const auto plug_in = cuda::open_plug_in();
    facts.set("plug_in", plug_in.ok() ? Json(plug_in->path) : Json());
    facts.set("plug_in_problem", plug_in.ok() ? "" : plug_in.error().to_string());
    facts.set("plug_in_version", plug_in.ok() ? Json(plug_in->table->name) : Json());
    // Whether it works together: the runtime in the plug-in may be newer than the driver, and it may have no kernels for this GPU.
    std::string problem = plug_in.ok() ? "" : plug_in.error().to_string();
    if (plug_in.ok()) {
        if (auto device = cuda::Device::open(*plug_in->table); !device.ok()) problem = device.error().to_string();
        else if (const Status launched = (*device)->try_kernel(); !launched.ok()) problem = launched.error().to_string();
    }
    facts.set("usable", problem.empty());
    facts.set("problem", problem);
    Json libraries = Json::array();
    if (driver.found || plug_in.ok())
        for (const NamedLibrary& library : probe_cuda_libraries())
            libraries.push_back(Json::object({{"name", library.what}, {"use", library.use}, {"path", library.path.empty() ? Json() : Json(library.path)}, {"version", library.version}, {"source", library.source}}));
    facts.set("libraries", libraries);
    return facts;
}

std::vector<Finding> cuda_findings(const Json& facts) {
    const auto text = [&](const char* key) { return facts[key].text(); };
    std::vector<Finding> list;
    const bool has_driver = !facts["driver"].is_null();
    list.push_back({"NVIDIA driver", has_driver ? "for CUDA " + text("driver") : "not found", text("driver_problem")});
    for (const Json& device : facts["devices"].items())
        list.push_back({"GPU", device["name"].text() + ", compute capability " + device["capability"].text() + ", " + bytes_text(static_cast<std::uint64_t>(device["memory_bytes"].int_or(0))), ""});
    const bool has_plug_in = !facts["plug_in"].is_null(), usable = facts["usable"].bool_or(false);
    if (!has_plug_in && !has_driver) {
        list.push_back({"CUDA plug-in", "not here", std::getenv("SKIFF_CUDA_LIBRARY") != nullptr ? text("plug_in_problem") : "models run on the processor"});
        return list;
    }
    list.push_back({"CUDA plug-in", has_plug_in ? text("plug_in") + " (" + text("plug_in_version") + ")" : "not found", has_plug_in ? "" : text("plug_in_problem")});
    list.push_back({"models on the GPU", usable ? "yes: --device cuda" : "no", usable ? "" : !has_driver ? text("driver_problem") : text("problem") + (has_plug_in ? "; a driver that is older than the plug-in's CUDA must be updated" : "")});
    for (const Json& library : facts["libraries"].items()) {
        const bool found = !library["path"].is_null();
        const std::string version = library["version"].text(), source = library["source"].text();
        list.push_back({library["name"].text(), found ? (version.empty() ? "" : version + ", ") + library["path"].text() : "not found",
                        found ? "" : library["use"].text() + (source.empty() ? "" : "; get it from " + source) + "; its folder can be named in SKIFF_CUDA_LIBRARIES"});
    }
    return list;
}

}  // namespace skiff
