#include "measure/energy.h"

#include <dlfcn.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <thread>

#include "base/mapped_file.h"
#include "base/progress.h"

namespace skiff {
namespace {

// A line of sysfs, without its end.
Result<std::string> read_line(const std::string& path) {
    std::FILE* file = std::fopen(path.c_str(), "r");
    if (file == nullptr) {
        const int error = errno;
        if (error == EACCES || error == EPERM)
            return runtime_error(path + ": only root may read it here; run as root, or let others read it: sudo chmod a+r " + path);
        return not_found(path + ": " + std::strerror(error));
    }
    char text[256] = {};
    const std::size_t n = std::fread(text, 1, sizeof text - 1, file);
    const bool failed = std::ferror(file) != 0;
    std::fclose(file);
    if (failed || n == 0) return runtime_error(path + ": cannot be read");
    std::string line(text, n);
    return line.substr(0, line.find('\n'));
}

Result<std::uint64_t> read_number(const std::string& path) {
    SKIFF_TRY(const auto line, read_line(path));
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), value);
    if (error != std::errc() || end != line.data() + line.size()) return corrupt(path + ": expected a number, found \"" + line + "\"");
    return value;
}

class RaplCounter final : public EnergyCounter {
public:
    RaplCounter(std::string zone_name, std::string file, std::uint64_t max_range) : file_(std::move(file)) {
        name = std::move(zone_name);
        range = max_range;
    }
    Result<std::uint64_t> read() override { return read_number(file_); }

private:
    std::string file_;
};

// Zones "intel-rapl:N" named "package-N" (AMD's too). Not their parts "intel-rapl:N:M", which are counted in them, nor "psys" (the whole board) or
// "intel-rapl-mmio:N" (the same package once more).
void add_packages(const std::string& folder, std::vector<std::unique_ptr<EnergyCounter>>& counters, std::string& reason) {
    std::vector<std::string> zones;
    std::error_code error;
    for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
        const std::string name = entry->path().filename().string();
        if (name.rfind("intel-rapl:", 0) == 0 && std::count(name.begin(), name.end(), ':') == 1) zones.push_back(name);
    }
    std::sort(zones.begin(), zones.end());
    for (const std::string& zone : zones) {
        const std::string path = join_path(folder, zone);
        const auto name = read_line(join_path(path, "name"));
        if (!name.ok() || name->rfind("package", 0) != 0) continue;
        const std::string file = join_path(path, "energy_uj");
        const auto energy = read_number(file);
        const auto range = read_number(join_path(path, "max_energy_range_uj"));
        if (!energy.ok()) reason = energy.error().to_string();
        else if (!range.ok()) reason = range.error().to_string();
        else counters.push_back(std::make_unique<RaplCounter>(*name, file, *range));
    }
    if (counters.empty() && reason.empty())
        reason = folder + (zones.empty() ? ": no RAPL zone (a virtual machine, or a kernel without intel_rapl)" : ": no RAPL zone of a processor package");
}

// The five functions of NVML (nvml.h) that are needed; 0 is success.
struct Nvml {
    int (*init)() = nullptr;
    int (*count)(unsigned*) = nullptr;
    int (*handle)(unsigned, void**) = nullptr;
    int (*name)(void*, char*, unsigned) = nullptr;
    int (*energy)(void*, unsigned long long*) = nullptr;  // millijoules since the driver was loaded

    bool load(const std::string& library) {
        void* file = ::dlopen(library.c_str(), RTLD_LAZY | RTLD_LOCAL);  // stays loaded: NVML keeps threads
        if (file == nullptr) return false;
        auto find = [&](auto& function, const char* symbol) { function = reinterpret_cast<std::decay_t<decltype(function)>>(::dlsym(file, symbol)); };
        find(init, "nvmlInit_v2");
        find(count, "nvmlDeviceGetCount_v2");
        find(handle, "nvmlDeviceGetHandleByIndex_v2");
        find(name, "nvmlDeviceGetName");
        find(energy, "nvmlDeviceGetTotalEnergyConsumption");
        return init != nullptr && count != nullptr && handle != nullptr && name != nullptr && energy != nullptr && init() == 0;
    }
};

class NvmlCounter final : public EnergyCounter {
public:
    NvmlCounter(const Nvml& nvml, void* device, std::string device_name) : nvml_(nvml), device_(device) { name = std::move(device_name); }
    Result<std::uint64_t> read() override {
        unsigned long long millijoules = 0;
        const int error = nvml_.energy(device_, &millijoules);
        if (error != 0) return runtime_error(name + ": NVML gives no energy (error " + std::to_string(error) + ")");
        return static_cast<std::uint64_t>(millijoules) * 1000;
    }

private:
    Nvml nvml_;
    void* device_;
};

void add_devices(const std::string& library, std::vector<std::unique_ptr<EnergyCounter>>& counters, std::string& reason) {
    Nvml nvml;
    if (!nvml.load(library)) {
        reason = library + ": not here, or without a device";
        return;
    }
    unsigned n_devices = 0;
    if (nvml.count(&n_devices) != 0) n_devices = 0;
    if (n_devices == 0) reason = library + ": no device";
    for (unsigned i = 0; i < n_devices; ++i) {
        void* device = nullptr;
        char name[96] = {};
        if (nvml.handle(i, &device) != 0) continue;
        if (nvml.name(device, name, sizeof name - 1) != 0) std::strcpy(name, "NVIDIA device");
        auto counter = std::make_unique<NvmlCounter>(nvml, device, std::string(name) + " (" + std::to_string(i) + ")");
        const auto energy = counter->read();
        if (energy.ok()) counters.push_back(std::move(counter));
        else reason = energy.error().to_string();
    }
}

}  // namespace

std::uint64_t energy_between(std::uint64_t before, std::uint64_t now, std::uint64_t range) {
    if (now >= before) return now - before;
    // It has gone round once: the largest value is `range`, and zero follows.
    return range >= before ? range - before + now + 1 : now;
}

EnergyMeter EnergyMeter::open(const EnergySources& sources) {
    EnergyMeter meter;
    std::string device_reason;
    add_packages(sources.powercap_folder, meter.counters_, meter.reason_);
    if (!sources.nvml_library.empty()) add_devices(sources.nvml_library, meter.counters_, device_reason);
    if (!device_reason.empty()) meter.reason_ += "; " + device_reason;
    if (meter.readable()) meter.reason_.clear();
    return meter;
}

std::vector<std::string> EnergyMeter::names() const {
    std::vector<std::string> list;
    for (const auto& counter : counters_) list.push_back(counter->name);
    return list;
}

Status EnergyMeter::begin() {
    last_.clear();
    used_.assign(counters_.size(), 0);
    for (const auto& counter : counters_) {
        SKIFF_TRY(const auto value, counter->read());
        last_.push_back(value);
    }
    return {};
}

Result<std::vector<double>> EnergyMeter::joules() {
    if (last_.size() != counters_.size()) return usage_error("energy is counted from begin() on, which was not called");
    std::vector<double> list;
    for (std::size_t i = 0; i < counters_.size(); ++i) {
        SKIFF_TRY(const auto value, counters_[i]->read());
        used_[i] += energy_between(last_[i], value, counters_[i]->range);
        last_[i] = value;
        list.push_back(static_cast<double>(used_[i]) / 1e6);
    }
    return list;
}

Result<std::vector<double>> EnergyMeter::idle_watts(double seconds) {
    SKIFF_CHECK(begin());
    const double started = monotonic_seconds();
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
    SKIFF_TRY(auto list, joules());
    const double passed = monotonic_seconds() - started;
    for (double& value : list) value /= passed;
    return list;
}

}  // namespace skiff
