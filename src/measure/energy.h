// Joules, where the machine counts them: RAPL's counters of processor packages (Linux' powercap, Intel and AMD) and NVML's of NVIDIA devices.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"

namespace skiff {

// A counter of energy that only grows, but for starting again at zero behind `range`.
class EnergyCounter {
public:
    virtual ~EnergyCounter() = default;
    virtual Result<std::uint64_t> read() = 0;  // microjoules
    std::string name;                          // "package-0", "NVIDIA H100 (0)"
    std::uint64_t range = 0;                   // microjoules; 0: it never starts again
};

struct EnergySources {
    std::string powercap_folder = "/sys/class/powercap";
    std::string nvml_library = "libnvidia-ml.so.1";  // "": not looked for
};

class EnergyMeter {
public:
    // Finds what can be read. Without any counter unreadable() says why.
    static EnergyMeter open(const EnergySources& sources = {});

    bool readable() const { return !counters_.empty(); }
    const std::string& unreadable() const { return reason_; }
    std::vector<std::string> names() const;  // of the counters, in the order of joules()

    Status begin();  // joules are counted from here
    // By counter, since begin(). To be called at least once within the time in which a counter goes round (minutes under full load), as one round too
    // many cannot be seen.
    Result<std::vector<double>> joules();
    // Watts by counter, with nothing of ours running, over `seconds`.
    Result<std::vector<double>> idle_watts(double seconds);

private:
    std::vector<std::unique_ptr<EnergyCounter>> counters_;
    std::vector<std::uint64_t> last_, used_;  // microjoules
    std::string reason_;
};

// What read() gave before and now, for a counter of that range.
std::uint64_t energy_between(std::uint64_t before, std::uint64_t now, std::uint64_t range);

}  // namespace skiff
