// Stands for libnvidia-ml.so.1 in tests: two devices, the second of which counts no energy; the first uses 1.5 J between two readings.
#include <cstring>

namespace {
int devices[2];
unsigned long long millijoules = 1000;
}  // namespace

extern "C" {
int nvmlInit_v2() { return 0; }
int nvmlDeviceGetCount_v2(unsigned* n) { return *n = 2, 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) { return *device = &devices[index], 0; }
int nvmlDeviceGetName(void* device, char* name, unsigned size) {
    std::strncpy(name, device == &devices[0] ? "Counting GPU" : "Old GPU", size);
    return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void* device, unsigned long long* energy) {
    if (device != &devices[0]) return 3;  // NVML_ERROR_NOT_SUPPORTED
    *energy = millijoules;
    millijoules += 1500;
    return 0;
}
}
