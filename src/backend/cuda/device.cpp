#include "backend/cuda/device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "backend/cuda/library.h"
#include "backend/cuda/tuning_table.h"
#include "base/rng.h"
#include "tensor/dtype.h"

namespace skiff::cuda {
namespace {

constexpr const char* host_memory = "host memory";
constexpr int out_of_memory = 2;  // cudaErrorMemoryAllocation
constexpr std::size_t staging_bytes = std::size_t{32} << 20;

std::string gib_text(std::uint64_t bytes) {
    char text[32];
    std::snprintf(text, sizeof text, "%.2f GiB", static_cast<double>(bytes) / (1 << 30));
    return text;
}

}  // namespace

bool lacks_host_memory(const Error& error) {
    return error.code == ErrorCode::resource && std::find(error.context.begin(), error.context.end(), host_memory) != error.context.end();
}

Result<std::unique_ptr<Device>> Device::open(const Table& table, int number) {
    std::unique_ptr<Device> device(new Device(table, number));
    int n_devices = 0;
    SKIFF_CHECK(device->check(table.n_devices(&n_devices), "counting CUDA devices"));
    if (number >= n_devices) return unsupported("there are " + std::to_string(n_devices) + " CUDA devices here; skiff doctor says more");
    SKIFF_CHECK(device->enter());
    SKIFF_CHECK(device->check(table.describe(number, &device->facts_), "asking for the device's properties"));
    if (device->facts_.arch < 80)
        return unsupported(std::string(device->facts_.name) + " has compute capability " + std::to_string(device->facts_.arch / 10) + "." + std::to_string(device->facts_.arch % 10) + "; 8.0 is needed");
    SKIFF_CHECK(device->check(table.make_stream(&device->stream_), "making a stream"));
    device->launch_ = {device->stream_, device->facts_.n_multiprocessors, device->facts_.arch, Dependence::stream, {}};
    if (const std::string tuned = find_tuning(folder_of(table), device->facts_.name); !tuned.empty()) {
        auto tuning = load_tuning(tuned);
        if (!tuning.ok() && std::getenv("SKIFF_CUDA_TUNING") != nullptr) return tuning.take_error();
        if (tuning.ok()) device->launch_.tuning = *tuning;  // a table that only lay there, and is of another version, tunes nothing
    }
    return device;
}

Device::~Device() {
    if (stream_ == nullptr) return;
    table_.select(number_);
    table_.wait_stream(stream_);
    for (const Staging& staging : staging_)
        if (staging.copied != nullptr) table_.destroy_event(staging.copied);
    for (const auto& [address, size] : memory_) table_.release(address);
    for (std::byte* address : pinned_) table_.release_pinned(address);
    table_.destroy_stream(stream_);
}

Status Device::check(int error, const std::string& what) const {
    if (error == 0) return {};
    return runtime_error(std::string(table_.name) + ": " + what + ": " + table_.error_text(error));
}

Result<std::uint64_t> Device::free_bytes() const {
    std::uint64_t free_bytes = 0, total = 0;
    SKIFF_CHECK(check(table_.memory(&free_bytes, &total), "asking for free memory"));
    return free_bytes;
}

Result<std::byte*> Device::allocate(std::size_t size_bytes, const std::string& what) {
    size_bytes = (std::max<std::size_t>(size_bytes, 1) + 255) / 256 * 256;
    SKIFF_TRY(const auto available, free_bytes());
    void* address = nullptr;
    if (size_bytes > available || table_.allocate(size_bytes, &address) != 0 || address == nullptr)
        return resource_error("the device has " + gib_text(available) + " free, " + what + " needs " + gib_text(size_bytes) +
                              "; take a smaller --scheme, a shorter --ctx, --fit, or --device cpu");
    memory_.emplace_back(static_cast<std::byte*>(address), size_bytes);
    allocated_bytes_ += size_bytes;
    return static_cast<std::byte*>(address);
}

void Device::release(std::byte* address) {
    const auto found = std::find_if(memory_.begin(), memory_.end(), [&](const auto& entry) { return entry.first == address; });
    if (found == memory_.end()) return;
    table_.release(address);
    allocated_bytes_ -= found->second;
    memory_.erase(found);
}

Result<std::byte*> Device::allocate_pinned(std::size_t size_bytes, const std::string& what, const std::string& remedy) {
    void* address = nullptr;
    const int error = table_.allocate_pinned(std::max<std::size_t>(size_bytes, 1), &address);
    if (error != 0 && error != out_of_memory) return check(error, "allocating host memory for " + what).take_error();  // what went wrong before: every call says so
    if (error != 0 || address == nullptr)
        return resource_error("the host cannot lock " + gib_text(size_bytes) + " for " + what + "; give it more memory or a higher limit (ulimit -l), or " + remedy).with_context(host_memory);
    pinned_.push_back(static_cast<std::byte*>(address));
    return static_cast<std::byte*>(address);
}

Status Device::try_kernel() {
    SKIFF_TRY(std::byte * memory, allocate(512, "a first kernel"));
    Status status = check(table_.fill(memory, 0, 512, stream_), "clearing memory");
    if (status.ok()) status = check(table_.read_all(memory, 256, reinterpret_cast<float*>(memory + 256), launch_), "launching a kernel");
    if (status.ok()) status = wait();
    release(memory);
    return status;
}

Result<Device::Staging*> Device::next_staging() {
    Staging& staging = staging_[next_staging_];
    next_staging_ ^= 1;
    if (staging.memory == nullptr) {
        SKIFF_TRY(staging.memory, allocate_pinned(staging_bytes, "copies"));
        SKIFF_CHECK(check(table_.make_event(&staging.copied), "making an event"));
    }
    if (staging.used) SKIFF_CHECK(check(table_.wait_event(staging.copied), "copying to the device"));
    return &staging;
}

Status Device::fill_with_noise(std::byte* target, std::size_t size_bytes) {
    Rng rng(11);
    std::vector<std::uint16_t> block(std::min<std::size_t>(size_bytes / 2, std::size_t{1} << 20));
    for (std::uint16_t& value : block) value = float_to_bf16(rng.normal());
    std::size_t filled = block.size() * 2;
    SKIFF_CHECK(upload(target, block.data(), filled));
    for (; filled < size_bytes; filled += std::min(filled, size_bytes - filled))
        SKIFF_CHECK(check(table_.copy_within(target + filled, target, std::min(filled, size_bytes - filled), stream_), "copying on the device"));
    return wait();
}

Status Device::download(void* target, const void* source, std::size_t size_bytes) {
    for (std::size_t done = 0; done < size_bytes;) {
        SKIFF_TRY(Staging * staging, next_staging());
        const std::size_t part = std::min(staging_bytes, size_bytes - done);
        SKIFF_CHECK(check(table_.copy_out(staging->memory, static_cast<const std::byte*>(source) + done, part, stream_), "copying from the device"));
        SKIFF_CHECK(wait());
        std::memcpy(static_cast<std::byte*>(target) + done, staging->memory, part);
        done += part;
    }
    return {};
}

Status Device::upload(void* target, const void* source, std::size_t size_bytes, ThreadPool* pool) {
    for (std::size_t done = 0; done < size_bytes;) {
        SKIFF_TRY(Staging * next, next_staging());
        Staging& staging = *next;
        const std::size_t part = std::min(staging_bytes, size_bytes - done);
        const std::byte* from = static_cast<const std::byte*>(source) + done;
        if (pool != nullptr && part > (std::size_t{1} << 20)) {
            pool->run([&](int thread) {
                const Range mine = share_of(static_cast<std::int64_t>(part), thread, pool->n_threads(), 4096);
                std::memcpy(staging.memory + mine.begin, from + mine.begin, static_cast<std::size_t>(mine.end - mine.begin));
            });
        } else {
            std::memcpy(staging.memory, from, part);
        }
        SKIFF_CHECK(check(table_.copy_in(static_cast<std::byte*>(target) + done, staging.memory, part, stream_), "copying to the device"));
        SKIFF_CHECK(check(table_.record(staging.copied, stream_), "recording an event"));
        staging.used = true;
        done += part;
    }
    return {};
}

}  // namespace skiff::cuda
