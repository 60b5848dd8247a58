// Sums over tapped values on the device (plan/tap_sums.h).
#pragma once

#include <map>

#include "backend/cuda/device.h"
#include "backend/cuda/emit.h"
#include "plan/tap_sums.h"

namespace skiff::cuda {

class DeviceTapSums final : public TapSums {
public:
    explicit DeviceTapSums(Device& device) : device_(device) {}
    // What the taps see now, by name.
    void show(const std::vector<DeviceProgram::Tap>* taps, std::int64_t n_tokens) { taps_ = taps, n_tokens_ = n_tokens; }
    Status add(const std::string& tap, Pairs pairs) override;
    Result<ColumnSums> take(const std::string& tap) override;

private:
    struct Sums {
        std::int64_t n_tokens = 0, n_columns = 0;
        double* sums = nullptr;    // (3, n_columns)
        float* largest = nullptr;  // (n_columns)
        float* gram = nullptr;     // (n_columns, n_columns), or null
    };
    template <class T>
    Status clear_new(T*& target, std::int64_t n, const char* what);
    Device& device_;
    const std::vector<DeviceProgram::Tap>* taps_ = nullptr;
    std::int64_t n_tokens_ = 0;
    std::map<std::string, Sums> sums_;
};

}  // namespace skiff::cuda
