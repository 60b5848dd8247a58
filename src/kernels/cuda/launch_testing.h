// Memory of the device and launches, for tests that run the kernels: on a GPU (cuda_device_tests), or emulated on the CPU (cuda_emulated_tests).
#pragma once

#include <gtest/gtest.h>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/pack.h"

#if defined(SKIFF_EMULATED_GPU)
#include "kernels/cuda/emulation.h"
#else
#include <cuda_runtime_api.h>
#endif

namespace skiff::cuda::testing {

// Zeroed memory of the device. Behind it lies a guard that destruction checks: what a kernel writes beyond its end is an error.
class DeviceMemory {
public:
    explicit DeviceMemory(std::size_t size_bytes);
    DeviceMemory(const void* source, std::size_t size_bytes) : DeviceMemory(size_bytes) { upload(source, size_bytes); }
    ~DeviceMemory();
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;
    void upload(const void* source, std::size_t size_bytes);
    void download(void* target, std::size_t size_bytes) const;  // waits for what was launched
    std::byte* data() const { return data_; }
    std::size_t size_bytes() const { return size_bytes_; }

private:
    std::byte* data_ = nullptr;
    std::size_t size_bytes_;
};

template <class T>
class DeviceArray {
public:
    explicit DeviceArray(std::int64_t n) : n_(n), memory_(static_cast<std::size_t>(n) * sizeof(T)) {}
    DeviceArray(const std::vector<T>& values) : n_(static_cast<std::int64_t>(values.size())), memory_(values.data(), values.size() * sizeof(T)) {}
    T* data() const { return reinterpret_cast<T*>(memory_.data()); }
    std::vector<T> values() const {
        std::vector<T> values(static_cast<std::size_t>(n_));
        memory_.download(values.data(), values.size() * sizeof(T));
        return values;
    }
    void set(const std::vector<T>& values) { memory_.upload(values.data(), values.size() * sizeof(T)); }

private:
    std::int64_t n_;
    DeviceMemory memory_;
};

Launch test_launch();
// Why nothing can run, or empty.
std::string no_device_reason();
// Runs body() in every way that launches can be run here: both modes of the emulation; plain and programmatic launches.
void in_every_mode(const std::function<void(const Launch&)>& body);

#define SKIFF_NEEDS_DEVICE() \
    if (const std::string reason = no_device_reason(); !reason.empty()) GTEST_SKIP() << reason

// A weight on the device.
struct DeviceWeight {
    PackedGpu packed;
    DeviceMemory memory;
    GpuWeight view;
    DeviceWeight(PackedGpu from) : packed(std::move(from)), memory(packed.blob.data(), packed.size_bytes()), view(packed.at(memory.data())) {}
};
inline DeviceWeight device_weight(const Weight& weight) {
    const RowSource source = {&weight, RowMap::all(weight.n_rows())};
    return DeviceWeight(*pack_gpu({&source, 1}));
}
inline DeviceMemory device_operand(OperandForm form, const std::vector<float>& x, std::int64_t n_tokens, std::int64_t n_columns) {
    std::vector<std::byte> bytes(operand_bytes(form, n_tokens, n_columns));
    host_operand(static_cast<int>(form), x.data(), n_tokens, n_columns, bytes.data());
    return DeviceMemory(bytes.data(), bytes.size());
}
// What an operand on the device holds, as bytes; and what it should hold.
inline std::vector<std::byte> operand_values(const DeviceMemory& memory) {
    std::vector<std::byte> bytes(memory.size_bytes());
    memory.download(bytes.data(), bytes.size());
    return bytes;
}
// The numbers of an operand: the parts added. // (n_tokens, n_columns)
std::vector<float> operand_floats(OperandForm form, const std::vector<std::byte>& bytes, std::int64_t n_tokens, std::int64_t n_columns);

}  // namespace skiff::cuda::testing
