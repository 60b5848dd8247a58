#include "kernels/cuda/launch_testing.h"

#include "kernels/cuda/lane.h"

namespace skiff::cuda::testing {
namespace {

constexpr std::size_t guard_bytes = 256;
constexpr unsigned char guard_byte = 0xa5;

}  // namespace

#if defined(SKIFF_EMULATED_GPU)

DeviceMemory::DeviceMemory(std::size_t size_bytes) : size_bytes_(size_bytes) {
    data_ = static_cast<std::byte*>(std::aligned_alloc(256, (size_bytes + guard_bytes + 255) / 256 * 256));
    std::memset(data_, 0, size_bytes);
    std::memset(data_ + size_bytes, guard_byte, guard_bytes);
}
DeviceMemory::~DeviceMemory() {
    for (std::size_t i = 0; i < guard_bytes; ++i)
        if (data_[size_bytes_ + i] != static_cast<std::byte>(guard_byte)) {
            ADD_FAILURE() << "a kernel wrote behind an array of " << size_bytes_ << " bytes";
            break;
        }
    std::free(data_);
}
void DeviceMemory::upload(const void* source, std::size_t size_bytes) {
    if (size_bytes > 0) std::memcpy(data_, source, size_bytes);
}
void DeviceMemory::download(void* target, std::size_t size_bytes) const {
    if (size_bytes > 0) std::memcpy(target, data_, size_bytes);
}
Launch test_launch() { return {nullptr, 3, 90, Dependence::stream}; }  // few SMs, so that blocks come back for more
std::string no_device_reason() { return {}; }
void in_every_mode(const std::function<void(const Launch&)>& body) {
    for (const auto mode : {emulation::Mode::late_copies_forward, emulation::Mode::early_copies_backward}) {
        SCOPED_TRACE(mode == emulation::Mode::late_copies_forward ? "copies late, threads forward" : "copies early, threads backward");
        emulation::set_mode(mode);
        body(test_launch());
        if (::testing::Test::HasFatalFailure()) return;
    }
}

#else

namespace {
void check(cudaError_t error, const char* what) {
    if (error != cudaSuccess) ADD_FAILURE() << what << ": " << cudaGetErrorString(error);
}
}  // namespace

DeviceMemory::DeviceMemory(std::size_t size_bytes) : size_bytes_(size_bytes) {
    void* data = nullptr;
    check(cudaMalloc(&data, size_bytes + guard_bytes), "cudaMalloc");
    data_ = static_cast<std::byte*>(data);
    check(cudaMemset(data_, 0, size_bytes), "cudaMemset");
    check(cudaMemset(data_ + size_bytes, guard_byte, guard_bytes), "cudaMemset");
}
DeviceMemory::~DeviceMemory() {
    unsigned char guard[guard_bytes] = {};
    check(cudaMemcpy(guard, data_ + size_bytes_, guard_bytes, cudaMemcpyDeviceToHost), "a kernel, or reading the guard");
    for (unsigned char byte : guard)
        if (byte != guard_byte) {
            ADD_FAILURE() << "a kernel wrote behind an array of " << size_bytes_ << " bytes";
            break;
        }
    cudaFree(data_);
}
void DeviceMemory::upload(const void* source, std::size_t size_bytes) { check(cudaMemcpy(data_, source, size_bytes, cudaMemcpyHostToDevice), "upload"); }
void DeviceMemory::download(void* target, std::size_t size_bytes) const {
    check(cudaDeviceSynchronize(), "a kernel");
    check(cudaMemcpy(target, data_, size_bytes, cudaMemcpyDeviceToHost), "download");
}
std::string no_device_reason() {
    static const std::string reason = [] {
        int n = 0;
        const cudaError_t error = cudaGetDeviceCount(&n);
        if (error != cudaSuccess) return std::string("no GPU: ") + cudaGetErrorString(error);
        return std::string(n > 0 ? "" : "no GPU");
    }();
    return reason;
}
Launch test_launch() {
    Launch launch;
    int major = 0, minor = 0;
    check(cudaDeviceGetAttribute(&launch.n_sms, cudaDevAttrMultiProcessorCount, 0), "attribute");
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "attribute");
    check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), "attribute");
    launch.arch = major * 10 + minor;
    return launch;
}
void in_every_mode(const std::function<void(const Launch&)>& body) {
    Launch launch = test_launch();
    body(launch);
    if (launch.arch < 90 || ::testing::Test::HasFatalFailure()) return;
    SCOPED_TRACE("programmatic launches");
    launch.dependence = Dependence::programmatic;
    body(launch);
}

#endif

std::vector<float> operand_floats(OperandForm form, const std::vector<std::byte>& bytes, std::int64_t n_tokens, std::int64_t n_columns) {
    const std::int64_t n_slabs = operand_slabs(n_columns);
    std::vector<float> values;
    const auto at = [&](std::int64_t byte) {
        std::uint16_t half = 0;
        std::memcpy(&half, bytes.data() + byte, 2);
        return bf16_to_float(half);
    };
    for (std::int64_t token = 0; token < n_tokens; ++token)
        for (std::int64_t column = 0; column < n_columns; ++column) {
            if (form == OperandForm::rows) values.push_back(at((token * n_columns + column) * 2));
            if (form == OperandForm::fragments) values.push_back(at(fragment_byte(token / 8, static_cast<int>(token % 8), column, n_slabs)));
            if (form == OperandForm::split) values.push_back(at(fragment_byte(token / 4, 2 * static_cast<int>(token % 4), column, n_slabs)) + at(fragment_byte(token / 4, 2 * static_cast<int>(token % 4) + 1, column, n_slabs)));
        }
    return values;
}

}  // namespace skiff::cuda::testing
